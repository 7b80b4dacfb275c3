import { hash } from 'node:crypto';
import { type CompactToken, MAX_TOKEN_LENGTH, parseCompactToken } from '../../src/jose/compact-token.ts';
import type { JwtRuleSet, NamedJwtRule } from './jwt-rule-set.ts';
import type { KeySet } from '../../src/jose/key-set.ts';
import type { KeySource } from './key-source.ts';
import { SIGNATURE_ALGORITHMS, type SignatureAlgorithm, verifySignature } from '../../src/jose/signature-algorithm.ts';
import { TokenCache } from './token-cache.ts';
import { CLOCK_LEEWAY_SECONDS, identityOf, outputHeaders, type RegisteredClaims, registeredClaims } from './token-claims.ts';
import type { TokenFailure, TokenFailureReason, TokenVerifier, VerifiedToken } from './token-verifier.ts';

export interface JwtVerifierOptions {
  readonly keys: KeySource;
  /** Milliseconds since the epoch. */
  readonly now?: () => number;
  readonly cache?: TokenCache;
  /** Told once for each verification: for counters. */
  readonly count?: (event: 'cached' | 'verified' | TokenFailureReason) => void;
}

interface Attempt {
  readonly rules: JwtRuleSet;
  readonly location: number;
  readonly token: CompactToken;
  readonly claims: RegisteredClaims;
  readonly algorithm: SignatureAlgorithm;
  readonly cacheKey: string;
  readonly size: number;
}

/**
 * Verifies JWTs as RequestAuthentication asks: JWS in compact form, signed with RS, PS or ES 256/384/512 by a key of the rule whose issuer is the
 * token's `iss` to the letter. There is no other source of keys to fall back to: an issuer without keys verifies nothing.
 */
export class JwtVerifier implements TokenVerifier {
  readonly #keys: KeySource;
  readonly #now: () => number;
  readonly #cache: TokenCache;
  readonly #count: NonNullable<JwtVerifierOptions['count']>;

  constructor({ keys, now = Date.now, cache = new TokenCache(), count = () => {} }: JwtVerifierOptions) {
    this.#keys = keys;
    this.#now = now;
    this.#cache = cache;
    this.#count = count;
  }

  verify(rules: JwtRuleSet, location: number, token: string): VerifiedToken | TokenFailure | Promise<VerifiedToken | TokenFailure> {
    if (token.length > MAX_TOKEN_LENGTH) return this.#fail('too-large', null);
    // The digest, so that memory holds no bearer tokens.
    const cacheKey = `${rules.id}.${location}.${hash('sha256', token, 'base64')}`;
    const known = this.#known(rules, cacheKey);
    if (known !== null) return known;

    const parsed = parseCompactToken(token);
    if (typeof parsed === 'string') return this.#fail(parsed, null);
    const algorithm = SIGNATURE_ALGORITHMS.get(parsed.algorithm);
    if (algorithm === undefined) return this.#fail('algorithm', null);
    const claims = registeredClaims(parsed.payload, this.#now() / 1000);
    if (typeof claims === 'string') return this.#fail(claims, null);

    const attempt: Attempt = { rules, location, token: parsed, claims, algorithm, cacheKey, size: token.length };
    const waits: Promise<void>[] = [];
    const outcome = this.#tryRules(attempt, waits);
    if (waits.length === 0) return this.#counted(outcome);
    return Promise.all(waits).then(() => this.#counted(this.#tryRules(attempt, null)));
  }

  #known(rules: JwtRuleSet, cacheKey: string): VerifiedToken | null {
    const entry = this.#cache.get(cacheKey);
    if (entry === undefined) return null;
    const rule = (rules.rules[entry.verified.rule] as NamedJwtRule).rule;
    if (this.#now() >= entry.until || this.#keys.keys(rule) !== entry.keys) {
      this.#cache.drop(cacheKey);
      return null;
    }
    this.#count('cached');
    return entry.verified;
  }

  /** @param waits where to put what it is worth to wait for when no rule accepts the token; null: nothing is waited for any more */
  #tryRules(attempt: Attempt, waits: Promise<void>[] | null): VerifiedToken | TokenFailure {
    const { rules, location, claims } = attempt;
    let failure: TokenFailure = { failure: 'issuer', authentication: null };
    const refreshes: (() => Promise<void> | null)[] = [];
    for (const index of rules.locations[location] ?? []) {
      const named = rules.rules[index] as NamedJwtRule;
      if (named.rule.issuer !== claims.issuer) continue;
      const reason = this.#tryRule(attempt, named);
      if (reason instanceof Object) return this.#remember(attempt, index, named, reason);
      if (failure.authentication === null) failure = { failure: reason, authentication: named.authentication };
      if (reason === 'unknown-key' || reason === 'keys-unavailable') refreshes.push(() => this.#keys.refresh(named.rule));
    }
    for (const refresh of waits === null ? [] : refreshes) {
      const wait = refresh();
      if (wait !== null) waits?.push(wait);
    }
    return failure;
  }

  /** The keys that verified the token, or why this rule does not accept it. */
  #tryRule({ token, claims, algorithm }: Attempt, { rule }: NamedJwtRule): KeySet | TokenFailureReason {
    if (rule.audiences.length > 0 && !rule.audiences.some((each) => claims.audiences.includes(each))) return 'audience';
    const keys = this.#keys.keys(rule);
    if (keys === null) return 'keys-unavailable';
    const candidates = keys.candidates(algorithm, token.keyId);
    if (candidates.length === 0) return 'unknown-key';
    return candidates.some((key) => verifySignature(algorithm, key, token.signingInput, token.signature)) ? keys : 'signature';
  }

  #remember({ token, claims, cacheKey, size }: Attempt, rule: number, named: NamedJwtRule, keys: KeySet): VerifiedToken {
    const verified: VerifiedToken = {
      identity: identityOf(token.payload, claims),
      rule,
      outputHeaders: outputHeaders(token, named),
    };
    const until = claims.expiresAt === null ? Number.POSITIVE_INFINITY : (claims.expiresAt + CLOCK_LEEWAY_SECONDS) * 1000;
    this.#cache.put(cacheKey, { verified, keys, until, size });
    return verified;
  }

  #counted(outcome: VerifiedToken | TokenFailure): VerifiedToken | TokenFailure {
    this.#count('failure' in outcome ? outcome.failure : 'verified');
    return outcome;
  }

  #fail(failure: TokenFailureReason, authentication: string | null): TokenFailure {
    this.#count(failure);
    return { failure, authentication };
  }
}
