import { type CompactToken, parseCompactToken } from '../../src/jose/compact-token.ts';
import { KeySet } from '../../src/jose/key-set.ts';
import { SIGNATURE_ALGORITHMS, type SignatureAlgorithm, verifySignature } from '../../src/jose/signature-algorithm.ts';
import { errorText } from '../../src/model/errors.ts';
import { IdentityError, parseSpiffeId, type SpiffeId } from '../../src/model/identity.ts';
import type { SpiffeBundle } from '../bundle/trust-state.ts';

export interface VerifyJwtSvidOptions {
  /** Who the verifier is: one of the token's `aud` must be exactly this. */
  readonly audience: string;
  /** The bundle of a trust domain, or null when there is none. */
  readonly bundle: (trustDomain: string) => SpiffeBundle | null;
  /** Milliseconds since the epoch. Default: Date.now. */
  readonly now?: () => number;
}

/** A JWT-SVID that was verified. */
export interface VerifiedJwtSvid {
  readonly id: SpiffeId;
  /** The token's payload. Claims other than `sub`, `aud`, `exp`, `nbf` and `iat` are as their issuer wrote them. */
  readonly claims: Readonly<Record<string, unknown>>;
}

/** How far the clocks of issuer and verifier may be apart, in seconds. */
export const JWT_SVID_LEEWAY_SECONDS = 30;

/** JWT-SVID.md section 2: the only headers a JWT-SVID may have. */
const HEADERS: ReadonlySet<string> = new Set(['alg', 'kid', 'typ']);

const keySets = new WeakMap<SpiffeBundle, KeySet>();

/**
 * Verifies a JWT-SVID by JWT-SVID.md: its signature by a key of the bundle of its subject's own trust domain, and its audience and times. A token
 * without `kid`, which the standard allows, is tried with the keys of its algorithm. The token itself is in no error.
 * @throws IdentityError WEFT_IDENTITY_JWT_* with what is wrong
 */
export function verifyJwtSvid(token: string, { audience, bundle, now = Date.now }: VerifyJwtSvidOptions): VerifiedJwtSvid {
  const parsed = parseToken(token);
  const algorithm = checkHeader(parsed);
  const id = subjectOf(parsed.payload['sub']);
  checkAudience(parsed.payload['aud'], audience);
  checkTimes(parsed.payload, now() / 1000);
  checkSignature(parsed, algorithm, id.trustDomain, bundle(id.trustDomain));
  return { id, claims: parsed.payload };
}

function parseToken(token: string): CompactToken {
  const parsed = parseCompactToken(token);
  switch (parsed) {
    case 'malformed':
      throw new IdentityError('WEFT_IDENTITY_JWT_MALFORMED', 'not a JWS in compact form with a JSON payload', {
        nextStep: 'send the token as the Workload API gave it',
      });
    case 'too-large':
      throw new IdentityError('WEFT_IDENTITY_JWT_MALFORMED', 'the token is longer than 16 KiB', { nextStep: 'ask for fewer audiences' });
    case 'critical-header':
      throw wrongHeader('crit or b64');
    default:
      return parsed;
  }
}

/** JWT-SVID.md section 2. */
function checkHeader({ header, algorithm: name }: CompactToken): SignatureAlgorithm {
  const algorithm = SIGNATURE_ALGORITHMS.get(name);
  if (algorithm === undefined) {
    throw new IdentityError('WEFT_IDENTITY_JWT_ALGORITHM', `a JWT-SVID may not be signed with ${shown(name)}`, {
      nextStep: 'let its issuer sign with RS, ES or PS 256, 384 or 512',
    });
  }
  const other = Object.keys(header).find((each) => !HEADERS.has(each));
  if (other !== undefined) throw wrongHeader(shown(other));
  const { typ } = header;
  if (typ !== undefined && typ !== 'JWT' && typ !== 'JOSE') throw wrongHeader('a typ that is neither JWT nor JOSE');
  return algorithm;
}

function wrongHeader(what: string): IdentityError {
  return new IdentityError('WEFT_IDENTITY_JWT_HEADER', `a JWT-SVID's header may not have ${what}`, {
    nextStep: 'let its issuer write alg, kid and typ alone',
  });
}

/** JWT-SVID.md section 3.1: the SPIFFE ID of a workload. */
function subjectOf(sub: unknown): SpiffeId {
  if (typeof sub !== 'string') throw wrongSubject('it has no sub');
  let id: SpiffeId;
  try {
    id = parseSpiffeId(sub);
  } catch (error) {
    throw wrongSubject(`its sub is ${errorText(error)}`);
  }
  if (id.path === '') throw wrongSubject(`its sub ${id.text} names a trust domain, not a workload`);
  return id;
}

function wrongSubject(why: string): IdentityError {
  return new IdentityError('WEFT_IDENTITY_JWT_SUBJECT', `not a JWT-SVID: ${why}`, { nextStep: 'find out who issued the token' });
}

/** JWT-SVID.md section 3.2. RFC 7519 section 4.1.3 allows one string in place of a list. */
function checkAudience(aud: unknown, audience: string): void {
  const audiences: unknown[] = Array.isArray(aud) ? aud : [aud];
  if (audiences.length === 0 || !audiences.every((each) => typeof each === 'string')) {
    throw new IdentityError('WEFT_IDENTITY_JWT_AUDIENCE', 'the token says for no audience, or not in text, whom it is for', {
      nextStep: 'ask the Workload API for a token with an audience',
    });
  }
  if (audiences.includes(audience)) return;
  throw new IdentityError('WEFT_IDENTITY_JWT_AUDIENCE', `the token is for ${shown(audiences.join(', '))}, not for ${shown(audience)}`, {
    nextStep: 'ask the Workload API for a token with the audience of the service that is called',
  });
}

/** JWT-SVID.md section 3.3, RFC 7519 sections 4.1.4 to 4.1.6. */
function checkTimes({ exp, nbf, iat }: CompactToken['payload'], seconds: number): void {
  if (!isTime(exp)) throw wrongTime('WEFT_IDENTITY_JWT_EXPIRED', 'the token has no time at which it expires (exp)');
  if (seconds >= exp + JWT_SVID_LEEWAY_SECONDS)
    throw wrongTime('WEFT_IDENTITY_JWT_EXPIRED', `the token expired ${Math.round(seconds - exp)} s ago`);
  for (const [name, time] of [
    ['nbf', nbf],
    ['iat', iat],
  ] as const) {
    if (time === undefined) continue;
    if (!isTime(time)) throw wrongTime('WEFT_IDENTITY_JWT_NOT_YET_VALID', `the token's ${name} is not a time`);
    if (seconds < time - JWT_SVID_LEEWAY_SECONDS) {
      throw wrongTime('WEFT_IDENTITY_JWT_NOT_YET_VALID', `the token is from the future: its ${name} is in ${Math.round(time - seconds)} s`);
    }
  }
}

function isTime(value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(value) && value >= 0;
}

function wrongTime(code: 'WEFT_IDENTITY_JWT_EXPIRED' | 'WEFT_IDENTITY_JWT_NOT_YET_VALID', message: string): IdentityError {
  return new IdentityError(code, message, { nextStep: 'ask the Workload API for a new token, and check the clocks' });
}

/** Keys of the subject's own trust domain alone (JWT-SVID.md section 4, SPIFFE_Trust_Domain_and_Bundle.md section 3). */
function checkSignature(token: CompactToken, algorithm: SignatureAlgorithm, trustDomain: string, bundle: SpiffeBundle | null): void {
  if (bundle === null || bundle.trustDomain !== trustDomain) {
    throw new IdentityError('WEFT_IDENTITY_JWT_TRUST_DOMAIN', `no trust bundle for the token's trust domain ${shown(trustDomain)}`, {
      nextStep: 'federate with that trust domain, or find out why its workload calls here',
    });
  }
  const candidates = keySetOf(bundle).candidates(algorithm, token.keyId);
  if (candidates.length === 0) {
    const which = token.keyId === null ? `of ${algorithm.name}` : shown(token.keyId);
    throw new IdentityError('WEFT_IDENTITY_JWT_KEY', `the bundle of ${shown(trustDomain)} has no key ${which} for JWT-SVIDs`, {
      nextStep: 'check that the bundle is current (`weft bundle show`): the key may have been revoked, or be too new',
    });
  }
  if (candidates.some((key) => verifySignature(algorithm, key, token.signingInput, token.signature))) return;
  throw new IdentityError('WEFT_IDENTITY_JWT_SIGNATURE', `no key of ${shown(trustDomain)} made the token's signature`, {
    nextStep: 'find out where the token comes from',
  });
}

function keySetOf(bundle: SpiffeBundle): KeySet {
  let keys = keySets.get(bundle);
  if (keys === undefined) {
    keys = KeySet.of(bundle.jwtAuthorities.map(({ keyId, jwk }) => ({ ...jwk, kid: keyId, use: 'sig', key_ops: ['verify'] })));
    keySets.set(bundle, keys);
  }
  return keys;
}

/** What somebody else wrote, short enough and safe for a log. */
function shown(text: string): string {
  return JSON.stringify(text.slice(0, 120));
}
