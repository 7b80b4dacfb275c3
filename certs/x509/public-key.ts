import { hash, type KeyObject } from 'node:crypto';

const CURVES: ReadonlySet<string> = new Set(['prime256v1', 'secp384r1', 'secp521r1']);
const MIN_RSA_BITS = 2048;

/** The lower-case hexadecimal SHA-256 of a key's SubjectPublicKeyInfo: how trust bundles name revoked CA keys. */
export function publicKeyDigest(key: KeyObject): string {
  return hash('sha256', key.export({ type: 'spki', format: 'der' }), 'hex');
}

/** P-256 and larger NIST curves, Ed25519, RSA from 2048 bits. */
export function isStrongKey(key: KeyObject): boolean {
  const { asymmetricKeyType: type, asymmetricKeyDetails: details } = key;
  if (type === 'ec') return CURVES.has(details?.namedCurve ?? '');
  if (type === 'rsa') return (details?.modulusLength ?? 0) >= MIN_RSA_BITS;
  return type === 'ed25519';
}
