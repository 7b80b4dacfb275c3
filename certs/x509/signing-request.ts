import { createPrivateKey, generateKeyPair } from 'node:crypto';
import { promisify } from 'node:util';
import { EMPTY_NAME, requestedIdentity, signed } from './certificate-writer.ts';
import { explicit, objectIdentifier, sequence, setOf, smallInteger } from './der-writer.ts';
import { type SigningKey, signingKeyInProcess } from './signing-key.ts';

/** A fresh key with the request to certify it. */
export interface SigningRequest {
  /** PKCS#10, DER. */
  readonly csr: Uint8Array;
  /** PKCS#8, DER. Whoever takes it over wipes it. */
  readonly privateKey: Uint8Array;
}

/** `extensionRequest` of RFC 2985 section 5.4.2. */
const EXTENSION_REQUEST = objectIdentifier('1.2.840.113549.1.9.14');
const VERSION_1 = smallInteger(0);
const generate = promisify(generateKeyPair);

/**
 * Makes a new P-256 key, in the thread pool, and a request that proves possession of it. P-256 is what SPIFFE implementations and ztunnel use
 * by default. The identity goes into the request because other authorities want to see it there; ours looks at the key alone.
 */
export async function createSigningRequest(identity: string): Promise<SigningRequest> {
  const { publicKey, privateKey } = await generate('ec', {
    namedCurve: 'prime256v1',
    publicKeyEncoding: { type: 'spki', format: 'der' },
    privateKeyEncoding: { type: 'pkcs8', format: 'der' },
  });
  const key = signingKeyInProcess(createPrivateKey({ key: privateKey, type: 'pkcs8', format: 'der' })) as SigningKey;
  const attributes = explicit(0, sequence(EXTENSION_REQUEST, setOf(requestedIdentity(identity))));
  const csr = await signed(sequence(VERSION_1, EMPTY_NAME, publicKey, attributes), key);
  return { csr, privateKey };
}
