/** What a signature is verified with. */
interface SignatureAlgorithm {
  /** As node:crypto names it. */
  readonly keyType: 'ec' | 'rsa' | 'ed25519';
  /** Null: part of the algorithm. */
  readonly hash: string | null;
}

/**
 * The signature algorithms of certificates and requests, by object identifier: SHA-2 with ECDSA or RSA (PKCS#1 v1.5), and Ed25519. OpenSSL by
 * itself would also take SHA-1.
 */
export const SIGNATURE_ALGORITHMS: ReadonlyMap<string, SignatureAlgorithm> = new Map([
  ['1.2.840.10045.4.3.2', { keyType: 'ec', hash: 'sha256' }],
  ['1.2.840.10045.4.3.3', { keyType: 'ec', hash: 'sha384' }],
  ['1.2.840.10045.4.3.4', { keyType: 'ec', hash: 'sha512' }],
  ['1.2.840.113549.1.1.11', { keyType: 'rsa', hash: 'sha256' }],
  ['1.2.840.113549.1.1.12', { keyType: 'rsa', hash: 'sha384' }],
  ['1.2.840.113549.1.1.13', { keyType: 'rsa', hash: 'sha512' }],
  ['1.3.101.112', { keyType: 'ed25519', hash: null }],
]);
