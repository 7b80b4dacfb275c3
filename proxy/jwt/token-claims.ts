import type { JwtIdentity } from '../../src/model/policy.ts';
import { fieldValueOf, isFieldValue } from '../gate/header-fields.ts';
import type { CompactToken } from '../../src/jose/compact-token.ts';
import type { NamedJwtRule } from './jwt-rule-set.ts';

/** How far the clocks of an issuer and of this node may be apart, in seconds. */
export const CLOCK_LEEWAY_SECONDS = 60;
/** Claims whose text is a list separated by spaces (RFC 8693 section 4.2, and what Istio adds). */
const LIST_CLAIMS = ['scope', 'permission'] as const;

type Claims = Readonly<Record<string, unknown>>;

/** The registered claims of a token (RFC 7519 section 4.1) in their types. */
export interface RegisteredClaims {
  readonly issuer: string;
  readonly subject: string | null;
  readonly audiences: readonly string[];
  /** Seconds since the epoch. */
  readonly expiresAt: number | null;
}

/**
 * Reads and checks what the rule has no say in. A claim of the wrong type is refused, not ignored. A token without `exp` never expires, as Istio
 * has it.
 * @param now seconds since the epoch
 */
export function registeredClaims(payload: Claims, now: number): RegisteredClaims | 'claims' | 'expired' | 'not-yet-valid' {
  const { iss, sub, aud, exp, nbf, iat } = payload;
  if (typeof iss !== 'string' || iss === '') return 'claims';
  if (sub !== undefined && typeof sub !== 'string') return 'claims';
  const audiences = aud === undefined ? [] : typeof aud === 'string' ? [aud] : aud;
  if (!Array.isArray(audiences) || !audiences.every((each) => typeof each === 'string')) return 'claims';
  if (!isTime(exp) || !isTime(nbf) || !isTime(iat)) return 'claims';
  if (exp !== undefined && now >= exp + CLOCK_LEEWAY_SECONDS) return 'expired';
  if (nbf !== undefined && now < nbf - CLOCK_LEEWAY_SECONDS) return 'not-yet-valid';
  if (iat !== undefined && now < iat - CLOCK_LEEWAY_SECONDS) return 'not-yet-valid';
  return { issuer: iss, subject: sub ?? null, audiences, expiresAt: exp ?? null };
}

function isTime(value: unknown): value is number | undefined {
  return value === undefined || (typeof value === 'number' && Number.isFinite(value) && value >= 0);
}

/** The verified token as policy sees it. */
export function identityOf(payload: Claims, { issuer, subject, audiences }: RegisteredClaims): JwtIdentity {
  const claims: Record<string, unknown> = Object.assign(Object.create(null), payload);
  for (const name of LIST_CLAIMS) {
    const value = claims[name];
    if (typeof value === 'string') claims[name] = value.split(' ').filter((each) => each !== '');
  }
  const presenter = claims['azp'];
  return {
    issuer,
    subject,
    principal: `${issuer}/${subject ?? ''}`,
    audiences,
    presenter: typeof presenter === 'string' ? presenter : null,
    claims,
  };
}

/** The fields that a rule's outputs make of a token. A claim that is missing, or cannot be a header's value, makes none. */
export function outputHeaders(token: CompactToken, { payloadHeader, claimHeaders }: NamedJwtRule): (readonly [string, string])[] {
  const fields: (readonly [string, string])[] = [];
  if (payloadHeader !== null) fields.push([payloadHeader, token.encodedPayload]);
  for (const { header, claim } of claimHeaders) {
    const value = claimText(claimAt(token.payload, claim));
    if (value !== null) fields.push([header, value]);
  }
  return fields;
}

/** The claim of that name; where there is none, dots lead into objects (`realm_access.roles`). */
function claimAt(payload: Claims, name: string): unknown {
  if (name in payload) return payload[name];
  let value: unknown = payload;
  for (const step of name.split('.')) {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return undefined;
    value = (value as Claims)[step];
  }
  return value;
}

/** Text, numbers and booleans as they are; objects and lists as JSON in base64url. Null for numbers that were rounded, inside of others too. */
function claimText(value: unknown): string | null {
  if (!isExact(value)) return null;
  switch (typeof value) {
    case 'string': {
      const text = fieldValueOf(value);
      return text === null || text.trim() !== text ? null : text;
    }
    case 'number':
    case 'boolean':
      return String(value);
    case 'object': {
      if (value === null) return null;
      const text = Buffer.from(JSON.stringify(value), 'utf8').toString('base64url');
      return isFieldValue(text) ? text : null;
    }
    default:
      return null;
  }
}

/** False where a number may not be the one in the token: integers beyond 2^53 are rounded, so that the id of one user becomes another's. */
function isExact(value: unknown): boolean {
  if (typeof value === 'number') return Number.isFinite(value) && (!Number.isInteger(value) || Number.isSafeInteger(value));
  return typeof value !== 'object' || value === null || Object.values(value).every(isExact);
}
