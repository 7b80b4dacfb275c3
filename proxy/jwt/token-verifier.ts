import type { JwtIdentity } from '../../src/model/policy.ts';
import type { JwtRuleSet } from './jwt-rule-set.ts';

/** A token that was verified. The same object for a token seen before. */
export interface VerifiedToken {
  readonly identity: JwtIdentity;
  /** The rule of the set that accepted it: an index into JwtRuleSet.rules. */
  readonly rule: number;
  /** The fields that the rule's outputs put into the request. */
  readonly outputHeaders: readonly (readonly [name: string, value: string])[];
}

/** A token that is no good. */
export interface TokenFailure {
  readonly failure: TokenFailureReason;
  /** `namespace/name` of the RequestAuthentication that refuses, or null when none of them knows the issuer. */
  readonly authentication: string | null;
}

export type TokenFailureReason =
  | 'malformed'
  | 'too-large'
  | 'several-tokens'
  | 'algorithm'
  | 'critical-header'
  | 'issuer'
  | 'audience'
  | 'expired'
  | 'not-yet-valid'
  | 'claims'
  | 'unknown-key'
  | 'keys-unavailable'
  | 'signature';

/** Verifies the tokens of requests. */
export interface TokenVerifier {
  /**
   * @param location index into JwtRuleSet.locations: where the token was found; only issuers that use it are considered
   * @returns at once when the keys are there; a promise (which never rejects) while they are fetched
   */
  verify(rules: JwtRuleSet, location: number, token: string): VerifiedToken | TokenFailure | Promise<VerifiedToken | TokenFailure>;
}
