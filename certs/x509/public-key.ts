import { hash, type KeyObject } from 'node:crypto';

const CURVES: ReadonlySet<string> = new Set(['prime256v1', 'secp384r1', 'secp521r1']);
const MIN_RSA_BITS = 2048;
const MAX_RSA_BITS = 8192;
/** With 1 anybody can sign, and an even one is none (RFC 8017 section 3.1). */
const MIN_RSA_EXPONENT = 3n;
/** 2^16 + 1, which practically every key has. */
const MAX_RSA_EXPONENT = 65_537n;

/** The lower-case hexadecimal SHA-256 of a key's SubjectPublicKeyInfo: how trust bundles name revoked CA keys. */
export function publicKeyDigest(key: KeyObject): string {
  return hash('sha256', key.export({ type: 'spki', format: 'der' }), 'hex');
}

/**
 * P-256 and larger NIST curves, Ed25519, RSA from 2048 to 8192 bits with an odd public exponent from 3 to 65537. The upper limits are about time: keys come
 * from strangers, and to check one signature with 16384 bits, or an exponent as long as the modulus, takes 7 ms and more of an event loop.
 */
export function isStrongKey(key: KeyObject): boolean {
  const { asymmetricKeyType: type, asymmetricKeyDetails: details } = key;
  if (type === 'ec') return CURVES.has(details?.namedCurve ?? '');
  if (type === 'rsa') {
    const { modulusLength = 0, publicExponent = 0n } = details ?? {};
    if (modulusLength < MIN_RSA_BITS || modulusLength > MAX_RSA_BITS || publicExponent % 2n === 0n) return false;
    return publicExponent >= MIN_RSA_EXPONENT && publicExponent <= MAX_RSA_EXPONENT;
  }
  return type === 'ed25519';
}
