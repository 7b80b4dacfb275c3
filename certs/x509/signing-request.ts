import 'reflect-metadata';
import { Pkcs10CertificateRequestGenerator, SubjectAlternativeNameExtension } from '@peculiar/x509';

/** A fresh key with the request to certify it. */
export interface SigningRequest {
  /** PKCS#10, DER. */
  readonly csr: Uint8Array;
  /** PKCS#8, DER. Whoever takes it over wipes it. */
  readonly privateKey: Uint8Array;
}

/** ECDSA on P-256: what SPIFFE implementations and ztunnel use by default. */
export const KEY_ALGORITHM: { readonly name: 'ECDSA'; readonly namedCurve: 'P-256' } = { name: 'ECDSA', namedCurve: 'P-256' };
export const SIGNING_ALGORITHM: { readonly name: 'ECDSA'; readonly hash: 'SHA-256' } = { name: 'ECDSA', hash: 'SHA-256' };

/**
 * Makes a new P-256 key and a request that proves possession of it. The identity goes into the request because other authorities want to
 * see it there; ours looks at the key alone.
 */
export async function createSigningRequest(identity: string): Promise<SigningRequest> {
  const keys = await crypto.subtle.generateKey(KEY_ALGORITHM, true, ['sign', 'verify']);
  const [request, pkcs8] = await Promise.all([
    Pkcs10CertificateRequestGenerator.create({
      keys,
      signingAlgorithm: SIGNING_ALGORITHM,
      extensions: [new SubjectAlternativeNameExtension([{ type: 'url', value: identity }], true)],
    }),
    crypto.subtle.exportKey('pkcs8', keys.privateKey),
  ]);
  return { csr: new Uint8Array(request.rawData), privateKey: new Uint8Array(pkcs8) };
}
