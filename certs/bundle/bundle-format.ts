import { createPublicKey, type webcrypto } from 'node:crypto';
import { parseStrictJson } from '../../src/jose/strict-json.ts';
import { errorText } from '../../src/model/errors.ts';
import { checkTrustDomain } from '../../src/model/identity.ts';
import { PRIVATE_JWK_MEMBERS } from '../../src/model/jwk.ts';
import { CertsError } from '../errors.ts';
import { checkRoot } from '../svid/peer-verifier.ts';
import type { JwtAuthority, SpiffeBundle } from './trust-state.ts';
import { derCertificate } from '../x509/der-certificate.ts';

/** Longer documents are refused unread. */
export const MAX_BUNDLE_LENGTH: number = 1024 * 1024;
/** Entries of one bundle, those that are ignored among them. */
export const MAX_BUNDLE_KEYS = 256;
const MAX_KEY_ID_LENGTH = 1024;
const MAX_JSON_DEPTH = 16;
/** Publishers may count with 64 bits (SPIFFE_Trust_Domain_and_Bundle.md section 4.1.1), and go-spiffe reads no more. */
const MAX_SEQUENCE = 2n ** 64n - 1n;
const MAX_REFRESH_HINT_SECONDS = 2n ** 31n - 1n;

/** The public members of the key types that Weft knows (RFC 7518 section 6, RFC 8037). */
const PUBLIC_MEMBERS: ReadonlyMap<string, readonly string[]> = new Map([
  ['EC', ['crv', 'x', 'y']],
  ['RSA', ['n', 'e']],
  ['OKP', ['crv', 'x']],
]);

type Jwk = Readonly<Record<string, unknown>>;

export interface ParseBundleOptions {
  /** Told of each entry that is left out, as the end of the sentence "entry n …": for a log. */
  readonly onIgnored?: (index: number, why: string) => void;
}

/**
 * Reads a bundle in the SPIFFE bundle format (SPIFFE_Trust_Domain_and_Bundle.md section 4). Entries of unknown type or use are ignored, as the
 * standard asks, and so are those of a known one that cannot be used: what is ignored is not trusted. A bundle that has no entry left revokes
 * every SVID of its trust domain.
 * @throws CertsError WEFT_CERTS_BUNDLE_FORMAT when the text is not a bundle at all
 * @throws IdentityError WEFT_IDENTITY_INVALID for a bad trust domain
 */
export function parseBundle(text: string, trustDomain: string, { onIgnored = () => {} }: ParseBundleOptions = {}): SpiffeBundle {
  checkTrustDomain(trustDomain);
  const { keys, spiffe_sequence: sequence, spiffe_refresh_hint: refreshHint } = documentOf(text);
  if (!Array.isArray(keys)) throw notABundle('it has no list of keys');
  if (keys.length > MAX_BUNDLE_KEYS) throw notABundle(`it has more than ${MAX_BUNDLE_KEYS} keys`);
  const x509Authorities: Uint8Array[] = [];
  const jwtAuthorities: JwtAuthority[] = [];
  for (const [index, entry] of keys.entries()) {
    if (!isObject(entry)) throw notABundle(`its key ${index} is not an object`);
    const read = readEntry(entry);
    if (typeof read === 'string') onIgnored(index, read);
    else if (read instanceof Uint8Array) x509Authorities.push(read);
    else jwtAuthorities.push(read);
  }
  const hint = integerOf('spiffe_refresh_hint', refreshHint, MAX_REFRESH_HINT_SECONDS);
  return {
    trustDomain,
    x509Authorities,
    jwtAuthorities,
    sequence: integerOf('spiffe_sequence', sequence, MAX_SEQUENCE),
    refreshHintSeconds: hint === null ? null : Number(hint),
  };
}

/** The bundle in the SPIFFE bundle format, as a bundle endpoint publishes it. */
export function formatBundle({ x509Authorities, jwtAuthorities, sequence, refreshHintSeconds }: SpiffeBundle): string {
  const members = [`"keys":${JSON.stringify([...x509Authorities.map(x509Entry), ...jwtAuthorities.map(jwtEntry)])}`];
  // JSON.stringify takes no bigint, and a number would lose digits.
  if (sequence !== null) members.push(`"spiffe_sequence":${sequence}`);
  if (refreshHintSeconds !== null) members.push(`"spiffe_refresh_hint":${Math.ceil(refreshHintSeconds)}`);
  return `{${members.join(',')}}`;
}

/**
 * The keys of JWT-SVIDs alone, as a plain JWK Set (RFC 7517): what the Workload API's FetchJWTBundles carries. `use` is left out there, as in
 * SPIRE's answers, so that JOSE libraries that know nothing of SPIFFE take the keys too.
 */
export function formatJwtBundle({ jwtAuthorities }: Pick<SpiffeBundle, 'jwtAuthorities'>): string {
  return JSON.stringify({ keys: jwtAuthorities.map(({ keyId, jwk }) => ({ ...publicMembers(jwk as Jwk), kid: keyId })) });
}

function documentOf(text: string): Jwk {
  if (text.length > MAX_BUNDLE_LENGTH) throw notABundle('it is longer than 1 MiB');
  let document: unknown;
  try {
    document = parseStrictJson(text, MAX_JSON_DEPTH, { integers: 'bigint' });
  } catch (cause) {
    throw notABundle(`it is not JSON, or ambiguous: ${errorText(cause)}`, cause);
  }
  if (!isObject(document)) throw notABundle('it is not a JSON object');
  return document;
}

function integerOf(name: string, value: unknown, max: bigint): bigint | null {
  if (value === undefined) return null;
  if (typeof value !== 'bigint' || value < 0n || value > max) throw notABundle(`its ${name} is not an integer from 0 to ${max}`);
  return value;
}

function isObject(value: unknown): value is Jwk {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function notABundle(why: string, cause?: unknown): CertsError {
  return new CertsError('WEFT_CERTS_BUNDLE_FORMAT', `not a SPIFFE bundle: ${why}`, {
    nextStep: 'check that it is a JWK Set with `keys`, as SPIFFE_Trust_Domain_and_Bundle.md describes',
    cause,
  });
}

/** The authority that an entry stands for, or why it is ignored. */
function readEntry(entry: Jwk): Uint8Array | JwtAuthority | string {
  const { kty, use } = entry;
  if (typeof kty !== 'string' || !PUBLIC_MEMBERS.has(kty)) return 'has no key type that is known';
  if (PRIVATE_JWK_MEMBERS.some((member) => member in entry)) return 'holds a private key, so anybody could sign with it';
  if (use === 'x509-svid') return readX509Entry(entry);
  if (use === 'jwt-svid') return readJwtEntry(entry);
  return 'has no use that is known';
}

/** X509-SVID.md section 6.2: the first certificate of `x5c` counts alone. A `kid`, which must not be there, means nothing. */
function readX509Entry(entry: Jwk): Uint8Array | string {
  const encoded = Array.isArray(entry['x5c']) ? entry['x5c'][0] : undefined;
  if (typeof encoded !== 'string') return 'has no certificate (x5c)';
  const der = Buffer.from(encoded, 'base64');
  if (der.length === 0 || der.toString('base64') !== encoded) return 'has a certificate that is not base64';
  try {
    checkRoot(der);
  } catch (error) {
    return `has a certificate that cannot be a root: ${errorText(error)}`;
  }
  return isKeyOf(der, entry) ? new Uint8Array(der) : 'has a certificate of another key (RFC 7517 section 4.7)';
}

/** RFC 7517 section 4.7: where the key is there beside its certificate, both are one. */
function isKeyOf(der: Uint8Array, entry: Jwk): boolean {
  const certified = derCertificate(der).publicKey.export({ format: 'jwk' }) as Jwk;
  if (certified['kty'] !== entry['kty']) return false;
  return (PUBLIC_MEMBERS.get(entry['kty'] as string) ?? []).every((member) => !(member in entry) || entry[member] === certified[member]);
}

function readJwtEntry(entry: Jwk): JwtAuthority | string {
  const { kid, kty } = entry;
  if (typeof kid !== 'string' || kid === '') return 'has no key id (kid)';
  if (kid.length > MAX_KEY_ID_LENGTH) return 'has a key id that is too long';
  // JWT-SVID.md section 2.1 has no algorithm for keys of this type.
  if (kty === 'OKP') return 'has a key that signs no JWT-SVID';
  const jwk = publicMembers(entry) as webcrypto.JsonWebKey;
  try {
    createPublicKey({ key: jwk, format: 'jwk' });
  } catch {
    return 'has a key that cannot be read';
  }
  return { keyId: kid, jwk };
}

function publicMembers(jwk: Jwk): Jwk {
  const members = ['kty', ...(PUBLIC_MEMBERS.get(jwk['kty'] as string) ?? []), 'alg'];
  return Object.fromEntries(members.filter((member) => typeof jwk[member] === 'string').map((member) => [member, jwk[member]]));
}

function x509Entry(der: Uint8Array): Jwk {
  const certificate = derCertificate(der);
  return { ...certificate.publicKey.export({ format: 'jwk' }), use: 'x509-svid', x5c: [certificate.raw.toString('base64')] };
}

function jwtEntry({ keyId, jwk }: JwtAuthority): Jwk {
  return { ...publicMembers(jwk as Jwk), use: 'jwt-svid', kid: keyId };
}
