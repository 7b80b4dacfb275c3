import type { TrustDomains } from './trust-domain.ts';

/** What a rule's meaning depends on besides its own text. */
export interface RuleContext {
  readonly domains: TrustDomains;
  /** Of the policy: completes service accounts written without one. */
  readonly namespace: string;
  /** True if a match leads to a refusal or a question (DENY, AUDIT, CUSTOM): where something cannot be known, the rule then matches. */
  readonly refuses: boolean;
}
