import type { JwtRule } from '../../src/model/resources.ts';

/** A place where a token may be, and the rules that look there. */
export interface TokenPlace {
  readonly kind: 'header' | 'parameter' | 'cookie';
  /** Header names in lower case. */
  readonly name: string;
  /** Headers only: what comes before the token. */
  readonly prefix: string;
  /** Header names are compared so always; prefixes only for the standard place, whose `Bearer` is RFC 9110's case-insensitive scheme. */
  readonly prefixIgnoresCase: boolean;
  /** Indexes into JwtRuleSet.rules. */
  readonly rules: readonly number[];
}

/** One JWT rule with the RequestAuthentication it belongs to. */
export interface NamedJwtRule {
  readonly authentication: string;
  readonly rule: JwtRule;
  /** Lower case; null when none is written or the name may not be set. */
  readonly payloadHeader: string | null;
  readonly claimHeaders: readonly { readonly header: string; readonly path: readonly string[] }[];
}

/** All RequestAuthentications of a workload, compiled. Immutable. */
export interface JwtRuleSet {
  /** Unique in this thread. */
  readonly id: number;
  readonly rules: readonly NamedJwtRule[];
  readonly locations: readonly TokenPlace[];
  /** Lower-case names of every header that an output writes: a client's own are always removed. */
  readonly outputHeaders: readonly string[];
}
