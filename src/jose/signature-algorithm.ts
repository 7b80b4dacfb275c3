import { constants, type KeyObject, verify } from 'node:crypto';

/** One of the algorithms that tokens may be signed with (RFC 7518 section 3.1). Symmetric ones and `none` are not among them. */
export interface SignatureAlgorithm {
  readonly name: string;
  readonly hash: 'sha256' | 'sha384' | 'sha512';
  readonly keyType: 'rsa' | 'ec';
  /** Only for RSA. */
  readonly padding: number;
  /** Only for EC: OpenSSL's name of the one curve, and the length of a signature. */
  readonly curve: string;
  readonly signatureBytes: number;
}

const { RSA_PKCS1_PADDING, RSA_PKCS1_PSS_PADDING, RSA_PSS_SALTLEN_DIGEST } = constants;

function rsa(name: string, hash: SignatureAlgorithm['hash'], padding: number): SignatureAlgorithm {
  return { name, hash, keyType: 'rsa', padding, curve: '', signatureBytes: 0 };
}

function ec(name: string, hash: SignatureAlgorithm['hash'], curve: string, signatureBytes: number): SignatureAlgorithm {
  return { name, hash, keyType: 'ec', padding: 0, curve, signatureBytes };
}

/** By the name that `alg` carries; all others are refused. */
export const SIGNATURE_ALGORITHMS: ReadonlyMap<string, SignatureAlgorithm> = new Map(
  [
    rsa('RS256', 'sha256', RSA_PKCS1_PADDING),
    rsa('RS384', 'sha384', RSA_PKCS1_PADDING),
    rsa('RS512', 'sha512', RSA_PKCS1_PADDING),
    rsa('PS256', 'sha256', RSA_PKCS1_PSS_PADDING),
    rsa('PS384', 'sha384', RSA_PKCS1_PSS_PADDING),
    rsa('PS512', 'sha512', RSA_PKCS1_PSS_PADDING),
    ec('ES256', 'sha256', 'prime256v1', 64),
    ec('ES384', 'sha384', 'secp384r1', 96),
    ec('ES512', 'sha512', 'secp521r1', 132),
  ].map((algorithm) => [algorithm.name, algorithm]),
);

/** True when the key made the signature with this algorithm. The key is of the algorithm's type (and curve). */
export function verifySignature(algorithm: SignatureAlgorithm, key: KeyObject, signed: string, signature: Buffer): boolean {
  const data = Buffer.from(signed, 'latin1');
  if (algorithm.keyType === 'ec') {
    if (signature.length !== algorithm.signatureBytes) return false;
    return verify(algorithm.hash, data, { key, dsaEncoding: 'ieee-p1363' }, signature);
  }
  return verify(algorithm.hash, data, { key, padding: algorithm.padding, saltLength: RSA_PSS_SALTLEN_DIGEST }, signature);
}
