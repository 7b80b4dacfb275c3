import { createPublicKey, type KeyObject, sign } from 'node:crypto';
import { nullValue, objectIdentifier, sequence } from './der-writer.ts';
import { isStrongKey } from './public-key.ts';

/**
 * A private key that signs certificates, wherever it is kept: this is the seam for a key management service. It is asked with bytes and
 * answers with a signature; nothing that holds one ever sees the private key.
 */
export interface SigningKey {
  readonly publicKey: KeyObject;
  /** AlgorithmIdentifier of its signatures (RFC 5280 section 4.1.1.2), DER. */
  readonly algorithm: Uint8Array;
  /** The signature of these bytes as a certificate carries it (RFC 3279 section 2.2.3 for ECDSA). */
  sign(content: Uint8Array): Promise<Uint8Array>;
}

interface Algorithm {
  readonly identifier: Uint8Array;
  readonly hash: string;
}

/** The hash of an ECDSA key is as long as its curve. */
const EC_ALGORITHMS: Readonly<Record<string, Algorithm>> = {
  prime256v1: { identifier: sequence(objectIdentifier('1.2.840.10045.4.3.2')), hash: 'sha256' },
  secp384r1: { identifier: sequence(objectIdentifier('1.2.840.10045.4.3.3')), hash: 'sha384' },
  secp521r1: { identifier: sequence(objectIdentifier('1.2.840.10045.4.3.4')), hash: 'sha512' },
};
/** sha256WithRSAEncryption; RFC 4055 section 5 wants the NULL. */
const RSA_ALGORITHM: Algorithm = { identifier: sequence(objectIdentifier('1.2.840.113549.1.1.11'), nullValue()), hash: 'sha256' };

/** The algorithm that a key of this kind signs certificates with; null for kinds and sizes that Weft does not sign with. */
function algorithmOf(key: KeyObject): Algorithm | null {
  const { asymmetricKeyType: type, asymmetricKeyDetails: details } = key;
  if (type === 'ec') return EC_ALGORITHMS[details?.namedCurve ?? ''] ?? null;
  if (type === 'rsa' && isStrongKey(key)) return RSA_ALGORITHM;
  return null;
}

/**
 * A signing key in this process. It signs in libuv's thread pool, so that an RSA signature of a millisecond does not hold up the event loop.
 * @returns null for keys other than ECDSA on P-256, P-384 and P-521, and RSA that verifiers take (isStrongKey)
 */
export function signingKeyInProcess(privateKey: KeyObject): SigningKey | null {
  const algorithm = algorithmOf(privateKey);
  if (algorithm === null) return null;
  return {
    publicKey: createPublicKey(privateKey),
    algorithm: algorithm.identifier,
    sign: (content) => signInPool(algorithm.hash, content, privateKey),
  };
}

function signInPool(hash: string, content: Uint8Array, key: KeyObject): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    sign(hash, content, key, (error, signature) => {
      if (error === null) resolve(signature);
      else reject(error);
    });
  });
}
