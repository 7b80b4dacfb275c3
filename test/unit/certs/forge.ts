import 'reflect-metadata';
import { createPrivateKey, type webcrypto } from 'node:crypto';
import {
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  Extension,
  type JsonGeneralName,
  KeyUsageFlags,
  KeyUsagesExtension,
  Pkcs10CertificateRequest,
  Pkcs10CertificateRequestGenerator,
  SubjectAlternativeNameExtension,
  X509Certificate,
  X509CertificateGenerator,
} from '@peculiar/x509';
import { keyObject, shareKey } from '../../../certs/svid/private-key.ts';
import { certificatesFromPem } from '../../../certs/x509/pem.ts';
import type { TrustBundle } from '../../../src/model/data-plane.ts';

/** Passed on, because whoever imports @peculiar/x509 must import reflect-metadata before it. */
export { ExtendedKeyUsage, KeyUsageFlags, Pkcs10CertificateRequest as PeculiarRequest, X509Certificate as PeculiarCertificate };

/** A certificate made to order, right or wrong, with its key. */
export interface Forged {
  readonly der: Uint8Array;
  readonly pem: string;
  readonly privateKey: string;
  readonly keys: webcrypto.CryptoKeyPair;
  readonly subject: string;
}

export interface ForgeOptions {
  /** Null: self-signed. */
  readonly issuer?: Forged | null;
  /** Name of the issuer as written, when it shall differ from the issuer's own. */
  readonly issuerName?: string;
  readonly subject?: string;
  readonly uris?: readonly string[];
  readonly otherNames?: readonly JsonGeneralName[];
  readonly ca?: boolean;
  readonly pathLength?: number;
  /** Null: no such extension. */
  readonly keyUsage?: number | null;
  readonly extendedKeyUsage?: readonly string[] | null;
  readonly notBefore?: number;
  readonly notAfter?: number;
  readonly extra?: readonly Extension[];
  /** Default: new ones. */
  readonly keys?: webcrypto.CryptoKeyPair;
  readonly keyAlgorithm?: webcrypto.EcKeyGenParams | webcrypto.RsaHashedKeyGenParams;
  readonly signingAlgorithm?: webcrypto.EcdsaParams | { readonly name: string; readonly hash: string };
}

export const TRUST_DOMAIN = 'example.org';
export const IDENTITY = 'spiffe://example.org/ns/shop/sa/cart';
const P256: webcrypto.EcKeyGenParams = { name: 'ECDSA', namedCurve: 'P-256' };

function pem(label: string, der: ArrayBuffer): string {
  const lines =
    Buffer.from(der)
      .toString('base64')
      .match(/.{1,64}/g) ?? [];
  return `-----BEGIN ${label}-----\n${lines.join('\n')}\n-----END ${label}-----\n`;
}

/** Signs whatever is asked for. Without options: a valid leaf for IDENTITY, self-signed. */
export async function forge(options: ForgeOptions = {}): Promise<Forged> {
  const { issuer = null, subject = '', uris = [IDENTITY], otherNames = [], ca = false, extra = [] } = options;
  const keys =
    options.keys ?? ((await crypto.subtle.generateKey(options.keyAlgorithm ?? P256, true, ['sign', 'verify'])) as webcrypto.CryptoKeyPair);
  const extensions: Extension[] = [new BasicConstraintsExtension(ca, options.pathLength, true)];
  const keyUsage = options.keyUsage === undefined ? (ca ? KeyUsageFlags.keyCertSign : KeyUsageFlags.digitalSignature) : options.keyUsage;
  if (keyUsage !== null) extensions.push(new KeyUsagesExtension(keyUsage, true));
  const usages =
    options.extendedKeyUsage === undefined
      ? ca
        ? null
        : [ExtendedKeyUsage.serverAuth, ExtendedKeyUsage.clientAuth]
      : options.extendedKeyUsage;
  if (usages !== null) extensions.push(new ExtendedKeyUsageExtension([...usages]));
  const names: JsonGeneralName[] = [...uris.map((value) => ({ type: 'url' as const, value })), ...otherNames];
  if (names.length > 0) extensions.push(new SubjectAlternativeNameExtension(names, subject === ''));
  const certificate = await X509CertificateGenerator.create({
    serialNumber: '1234',
    subject,
    issuer: options.issuerName ?? issuer?.subject ?? subject,
    notBefore: new Date(options.notBefore ?? Date.now() - 60_000),
    notAfter: new Date(options.notAfter ?? Date.now() + 3_600_000),
    publicKey: keys.publicKey,
    signingKey: (issuer?.keys ?? keys).privateKey,
    signingAlgorithm: options.signingAlgorithm ?? { name: 'ECDSA', hash: 'SHA-256' },
    extensions: [...extensions, ...extra],
  });
  return {
    der: new Uint8Array(certificate.rawData),
    pem: pem('CERTIFICATE', certificate.rawData),
    privateKey: pem('PRIVATE KEY', await crypto.subtle.exportKey('pkcs8', keys.privateKey)),
    keys,
    subject,
  };
}

/** The bytes (PKCS#8, DER) of a key in PEM, in shared memory as an SVID has them. */
export function keyBytes(pemText: string): Uint8Array {
  return shareKey(createPrivateKey(pemText).export({ type: 'pkcs8', format: 'der' }));
}

/** The PEM of an SVID's key, for those who take nothing else. */
export function pemKey(der: Uint8Array): string {
  return keyObject(der).export({ type: 'pkcs8', format: 'pem' }).toString();
}

/** A root, valid unless told otherwise. */
export function forgeRoot(options: ForgeOptions = {}): Promise<Forged> {
  return forge({ subject: 'CN=test root', uris: [`spiffe://${TRUST_DOMAIN}`], ca: true, ...options });
}

/** An extension with a value that no library would write. */
export function rawExtension(id: string, critical: boolean, value: Uint8Array): Extension {
  return new Extension(id, critical, new Uint8Array(value));
}

/** A subjectAltName whose only entry is a URI of these bytes (fewer than 120). */
export function rawUriSan(uri: Uint8Array): Extension {
  return rawExtension('2.5.29.17', true, Uint8Array.from([0x30, uri.length + 2, 0x86, uri.length, ...uri]));
}

/** A verifier's view of trust domains: PEM roots by name. */
export function bundlesOf(roots: Readonly<Record<string, string>>): { bundle(trustDomain: string): TrustBundle | null } {
  return {
    bundle: (trustDomain) => {
      const pem = roots[trustDomain];
      return pem === undefined ? null : { trustDomain, roots: certificatesFromPem(pem), revokedKeys: [], sequence: 1 };
    },
  };
}

/** A PKCS#10 request, DER, that asks for whatever it likes. */
export async function forgeRequest(options: Pick<ForgeOptions, 'subject' | 'uris' | 'ca' | 'keyAlgorithm'> = {}): Promise<Uint8Array> {
  const keys = (await crypto.subtle.generateKey(options.keyAlgorithm ?? P256, true, ['sign', 'verify'])) as webcrypto.CryptoKeyPair;
  const request = await Pkcs10CertificateRequestGenerator.create({
    name: options.subject ?? '',
    keys,
    signingAlgorithm: { name: keys.privateKey.algorithm.name, hash: 'SHA-256' },
    extensions: [
      new SubjectAlternativeNameExtension((options.uris ?? []).map((value) => ({ type: 'url' as const, value }))),
      new BasicConstraintsExtension(options.ca ?? false, undefined, true),
    ],
  });
  return new Uint8Array(request.rawData);
}

/** The fields of a certificate as @peculiar/x509 reads them. */
export function readWithLibrary(der: Uint8Array): object {
  const certificate = new X509Certificate(new Uint8Array(der));
  const usages = certificate.getExtension(ExtendedKeyUsageExtension)?.usages;
  const constraints = certificate.getExtension(BasicConstraintsExtension);
  return {
    uris: (certificate.getExtension(SubjectAlternativeNameExtension)?.names.items ?? [])
      .filter((name) => name.type === 'url')
      .map((name) => name.value),
    isCa: constraints?.ca ?? false,
    pathLength: constraints?.pathLength ?? null,
    keyUsage: certificate.getExtension(KeyUsagesExtension)?.usages ?? null,
    extendedKeyUsage: usages === undefined ? null : Array.from(usages, String),
    notBefore: certificate.notBefore.getTime(),
    notAfter: certificate.notAfter.getTime(),
    issuer: Buffer.from(certificate.issuerName.toArrayBuffer()).toString('hex'),
    subject: Buffer.from(certificate.subjectName.toArrayBuffer()).toString('hex'),
  };
}
