import { createPublicKey, type KeyObject, type webcrypto } from 'node:crypto';
import { JwtError } from './jwt-error.ts';
import { SIGNATURE_ALGORITHMS, type SignatureAlgorithm } from './signature-algorithm.ts';
import { parseStrictJson } from './strict-json.ts';

/** Longer documents are refused unread. */
export const MAX_KEY_SET_LENGTH: number = 1024 * 1024;
const MAX_KEYS = 256;
const MAX_JSON_DEPTH = 16;
const MIN_RSA_BITS = 2048;
const MAX_RSA_BITS = 8192;
const MAX_RSA_EXPONENT = 0xffff_ffffn;
/** Keys that one token may be tried with: without a key id every key of the type is a candidate, and each try costs CPU. */
const MAX_CANDIDATES = 16;

interface VerificationKey {
  readonly id: string | null;
  /** The only algorithm it is for; null: any of its type. */
  readonly algorithm: string | null;
  readonly type: 'rsa' | 'ec';
  /** OpenSSL's name; '' for RSA. */
  readonly curve: string;
  readonly key: KeyObject;
}

/** The keys of a JWK Set (RFC 7517) that can verify tokens. Immutable. */
export class KeySet {
  readonly #keys: readonly VerificationKey[];

  private constructor(keys: readonly VerificationKey[]) {
    this.#keys = keys;
  }

  get size(): number {
    return this.#keys.length;
  }

  /**
   * Reads a JWK Set. Keys of other types, for other uses, too weak or malformed are left out (RFC 7517 section 5), so that one of them does not
   * take the others along; a set without any usable key verifies nothing.
   * @throws JwtError WEFT_JWT_KEY_SET when the text is not a JWK Set at all
   */
  static parse(text: string): KeySet {
    if (text.length > MAX_KEY_SET_LENGTH) throw notAKeySet('it is longer than 1 MiB');
    let document: unknown;
    try {
      document = parseStrictJson(text, MAX_JSON_DEPTH);
    } catch (cause) {
      throw notAKeySet('it is not JSON, or ambiguous', cause);
    }
    const keys = (document as { keys?: unknown } | null)?.keys;
    if (!Array.isArray(keys)) throw notAKeySet('it has no list of keys');
    if (keys.length > MAX_KEYS) throw notAKeySet(`it has more than ${MAX_KEYS} keys`);
    return KeySet.of(keys);
  }

  /** The set of these keys (RFC 7517 section 4), those left out that `parse` leaves out. */
  static of(keys: readonly unknown[]): KeySet {
    return new KeySet(keys.map((jwk) => verificationKey(jwk)).filter((key) => key !== null));
  }

  /** The keys that may have made a signature: of the algorithm's type, and with the token's key id or none. At most 16. */
  candidates(algorithm: SignatureAlgorithm, keyId: string | null): readonly KeyObject[] {
    const found: KeyObject[] = [];
    for (const key of this.#keys) {
      if (key.type !== algorithm.keyType || key.curve !== algorithm.curve) continue;
      if (key.algorithm !== null && key.algorithm !== algorithm.name) continue;
      if (keyId !== null && key.id !== null && key.id !== keyId) continue;
      found.push(key.key);
      if (found.length === MAX_CANDIDATES) break;
    }
    return found;
  }
}

function notAKeySet(why: string, cause?: unknown): JwtError {
  return new JwtError('WEFT_JWT_KEY_SET', `not a JWK Set: ${why}`, {
    nextStep: 'let the issuer serve a JSON object with a list `keys` (RFC 7517)',
    cause,
  });
}

function verificationKey(jwk: unknown): VerificationKey | null {
  if (typeof jwk !== 'object' || jwk === null) return null;
  const { kty, use, key_ops: operations, alg, kid } = jwk as Record<string, unknown>;
  if (use !== undefined && use !== 'sig') return null;
  if (operations !== undefined && !(Array.isArray(operations) && operations.includes('verify'))) return null;
  if (kid !== undefined && typeof kid !== 'string') return null;
  const algorithm = alg === undefined ? null : typeof alg === 'string' ? SIGNATURE_ALGORITHMS.get(alg) : undefined;
  if (algorithm === undefined) return null;
  const key = publicKey(jwk as Record<string, unknown>);
  if (key === null) return null;
  const type = kty === 'RSA' ? 'rsa' : 'ec';
  const curve = key.asymmetricKeyDetails?.namedCurve ?? '';
  if (algorithm !== null && (algorithm.keyType !== type || algorithm.curve !== curve)) return null;
  return { id: kid ?? null, algorithm: algorithm?.name ?? null, type, curve, key };
}

/** The public part of a JWK, whatever else it holds. */
function publicKey({ kty, n, e, crv, x, y }: Record<string, unknown>): KeyObject | null {
  try {
    if (kty === 'RSA') {
      const key = createPublicKey({ key: { kty, n, e } as webcrypto.JsonWebKey, format: 'jwk' });
      const { modulusLength = 0, publicExponent = 0n } = key.asymmetricKeyDetails ?? {};
      if (modulusLength < MIN_RSA_BITS || modulusLength > MAX_RSA_BITS) return null;
      return publicExponent >= 3n && publicExponent <= MAX_RSA_EXPONENT && (publicExponent & 1n) === 1n ? key : null;
    }
    if (kty === 'EC' && (crv === 'P-256' || crv === 'P-384' || crv === 'P-521')) {
      return createPublicKey({ key: { kty, crv, x, y } as webcrypto.JsonWebKey, format: 'jwk' });
    }
  } catch {
    // Not a key: left out like those of other types.
  }
  return null;
}
