import type { ConnectionPolicy, CustomMatch, Decision, RequestAttributes, ShadowDecision } from '../../src/model/policy.ts';
import type { RequestMatcher } from './request-matcher.ts';

/** ConnectionPolicy, and what dry-run policies would do to a connection that is not HTTP. */
export interface BoundConnectionPolicy extends ConnectionPolicy {
  readonly tcpShadow: readonly ShadowDecision[];
}

const NONE: readonly ShadowDecision[] = Object.freeze([]);

/** Rules of which the first that matches counts, as a connection left them. */
export interface BoundRules<Outcome> {
  /** Of the first rule that the connection alone matches. */
  readonly decided: Outcome | null;
  /** Of the rules before that one, or of all; null: none of them is open. */
  readonly matcher: RequestMatcher | null;
  readonly outcomes: ReadonlyMap<Decision, Outcome>;
}

/** True if some request may match. */
export function mayMatch(rules: BoundRules<unknown>): boolean {
  return rules.decided !== null || rules.matcher !== null;
}

function firstOf<Outcome>(rules: BoundRules<Outcome>, request: RequestAttributes): Outcome | null {
  const found = rules.matcher === null ? null : rules.matcher.find(request);
  return found === null ? rules.decided : (rules.outcomes.get(found) as Outcome);
}

/** What dry-run and AUDIT policies left for a connection's requests. */
export interface BoundShadow {
  /** One for each DENY and AUDIT policy that may match. */
  readonly policies: readonly BoundRules<ShadowDecision>[];
  /** What to say when no dry-run ALLOW rule matches; null: nothing, since there is none, or since an enforced ALLOW policy decides. */
  readonly notAllowed: ShadowDecision | null;
  readonly allows: BoundRules<ShadowDecision>;
}

/** Everything that a connection decides about its requests. */
export interface BoundPolicyParts {
  readonly tcp: Decision;
  readonly tcpShadow: readonly ShadowDecision[];
  /** DENY rules first, then ALLOW rules; null: every request gets `otherwise`. */
  readonly matcher: RequestMatcher | null;
  readonly otherwise: Decision;
  readonly custom: BoundRules<CustomMatch>;
  readonly dryRunCustom: BoundRules<CustomMatch>;
  readonly shadow: BoundShadow;
}

/** A workload's policies bound to connections of one kind. */
export class BoundPolicy implements BoundConnectionPolicy {
  readonly scope: 'allow' | 'deny' | 'request';
  readonly tcp: Decision;
  readonly tcpShadow: readonly ShadowDecision[];
  readonly hasShadow: boolean;
  readonly hasCustom: boolean;
  readonly #matcher: RequestMatcher | null;
  readonly #otherwise: Decision;
  readonly #parts: BoundPolicyParts;

  constructor(parts: BoundPolicyParts) {
    const { tcp, matcher, otherwise, custom, dryRunCustom, shadow } = parts;
    this.tcp = tcp;
    this.tcpShadow = parts.tcpShadow;
    this.#matcher = matcher;
    this.#otherwise = otherwise;
    this.#parts = parts;
    this.hasCustom = mayMatch(custom) || mayMatch(dryRunCustom);
    this.hasShadow = shadow.policies.length > 0 || (shadow.notAllowed !== null && shadow.allows.decided === null);
    // The scope promises one verdict for whatever the connection carries, HTTP or not; a provider may refuse what policies allow.
    const fixed = matcher === null && otherwise.verdict === tcp.verdict && (otherwise.verdict === 'deny' || !mayMatch(custom));
    this.scope = fixed ? otherwise.verdict : 'request';
  }

  request(attributes: RequestAttributes): Decision {
    if (this.#matcher === null) return this.#otherwise;
    return this.#matcher.find(attributes) ?? this.#otherwise;
  }

  custom(attributes: RequestAttributes): CustomMatch | null {
    if (!this.hasCustom) return null;
    // One that is enforced goes first: a dry run must not keep it from being asked.
    return firstOf(this.#parts.custom, attributes) ?? firstOf(this.#parts.dryRunCustom, attributes);
  }

  shadow(attributes: RequestAttributes): readonly ShadowDecision[] {
    if (!this.hasShadow) return NONE;
    const { policies, notAllowed, allows } = this.#parts.shadow;
    let found: ShadowDecision[] | null = null;
    for (const rules of policies) {
      const matched = firstOf(rules, attributes);
      if (matched !== null) (found ??= []).push(matched);
    }
    if (notAllowed !== null && firstOf(allows, attributes) === null) (found ??= []).push(notAllowed);
    return found ?? NONE;
  }

  /** For tests and the kernel's loader: null where no request is asked. */
  get requestMatcher(): RequestMatcher | null {
    return this.#matcher;
  }
}
