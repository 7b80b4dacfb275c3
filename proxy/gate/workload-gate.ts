import type { ConnectionAttributes, ConnectionPolicy, CustomMatch, Decision, JwtIdentity, ShadowDecision } from '../../src/model/policy.ts';
import type { GateAnswer, Refusal, RequestGate, RequestHead } from '../../src/model/request-gate.ts';
import type { MeshSettings } from '../../src/model/resources.ts';
import type { RequestAuthenticationEntry } from '../../src/model/snapshot.ts';
import type { Authorisation, ExternalAuthorisers } from '../external-authorisation/external-authorisers.ts';
import { findToken, type FoundToken, withoutCookie } from '../jwt/find-token.ts';
import { compileJwtRules, type JwtRuleSet } from '../jwt/jwt-rule-set.ts';
import type { TokenFailure, TokenVerifier, VerifiedToken } from '../jwt/token-verifier.ts';
import { ChangedHead } from './changed-head.ts';
import { forwardedClient } from './forwarded-for.ts';
import { GATE_FAILED, plainAnswer } from './gate-answers.ts';
import { HeaderDraft } from './header-draft.ts';
import { distrust, FORWARDED_FOR } from './header-trust.ts';
import { RequestFacts } from './request-facts.ts';
import { tokenRefusal } from './token-refusal.ts';

/** What a gate in front of a workload is made of. One gate for a connection, whose attributes it knows. */
export interface WorkloadGateOptions {
  /** The policy in force; read for every request. */
  readonly policy: () => ConnectionPolicy;
  readonly connection: ConnectionAttributes;
  /** The RequestAuthentications of the workload; keep one list for each workload, since a list is compiled once. */
  readonly authentications: readonly RequestAuthenticationEntry[];
  readonly settings: MeshSettings;
  /** null: every request with a token is refused where any authentication applies. */
  readonly tokens: TokenVerifier | null;
  /** null: every request that a CUSTOM policy matches is refused. */
  readonly authorisers: ExternalAuthorisers | null;
}

/** How often a request is asked from the start because the policy changed while it waited; then it is refused. */
const MAX_ROUNDS = 3;
const NO_SHADOW: readonly ShadowDecision[] = Object.freeze([]);

/** What is known of one request on its way through the gate. */
interface Passage {
  readonly head: RequestHead;
  readonly remoteAddress: string;
  draft: HeaderDraft | null;
  jwt: JwtIdentity | null;
  shadow: ShadowDecision[] | null;
}

/**
 * All that stands between a request and a workload. In this order: what a client may not say about itself leaves the head; a token is verified
 * (one that is no good is answered 401, none passes); a CUSTOM policy that matches asks its provider; policy decides; dry-run and AUDIT policies are
 * recorded. Whatever fails on the way refuses.
 *
 * A peer that can be allowed nothing (scope 'deny') gets its refusal at once: nobody verifies its tokens or asks a provider about it.
 */
export class WorkloadGate implements RequestGate {
  readonly #policy: () => ConnectionPolicy;
  readonly #connection: ConnectionAttributes;
  readonly #tokens: TokenVerifier | null;
  readonly #authorisers: ExternalAuthorisers | null;
  #settings: MeshSettings;
  #rules: JwtRuleSet | null;
  /** Of requests that are decided at once; one that waits has its own. */
  readonly #facts = new RequestFacts();
  #basis: object = {};
  #basisPolicy: ConnectionPolicy | null = null;

  constructor({ policy, connection, authentications, settings, tokens, authorisers }: WorkloadGateOptions) {
    this.#policy = policy;
    this.#connection = connection;
    this.#tokens = tokens;
    this.#authorisers = authorisers;
    this.#settings = settings;
    this.#rules = compileJwtRules(authentications);
  }

  /** The mesh changed: what applies from the next request on. The policy is read from its function anyway. */
  update(authentications: readonly RequestAuthenticationEntry[], settings: MeshSettings): void {
    this.#rules = compileJwtRules(authentications);
    this.#settings = settings;
    this.#basisPolicy = null;
  }

  basis(): object | null {
    const policy = this.#policy();
    if (this.#rules !== null || policy.hasCustom) return null;
    if (policy !== this.#basisPolicy) {
      this.#basisPolicy = policy;
      this.#basis = {};
    }
    return this.#basis;
  }

  ask(head: RequestHead): GateAnswer | Promise<GateAnswer> {
    try {
      return this.#round(head, 1);
    } catch {
      return plainAnswer(GATE_FAILED);
    }
  }

  #round(head: RequestHead, round: number): GateAnswer | Promise<GateAnswer> {
    const policy = this.#policy();
    const peer = this.#connection.sourceAddress;
    if (policy.scope === 'deny') return plainAnswer(this.#decide(policy, this.#facts, head, peer, null));
    const draft = distrust(head, peer);
    const remoteAddress = this.#remoteAddress(head, draft);
    const rules = this.#rules;
    if (rules === null && !policy.hasCustom && draft === null) {
      const decision = this.#decide(policy, this.#facts, head, remoteAddress, null);
      if (!policy.hasShadow) return plainAnswer(decision);
      return withShadow(plainAnswer(decision), this.#shadow(policy, this.#facts, head, remoteAddress, null));
    }
    const passage: Passage = { head, remoteAddress, draft, jwt: null, shadow: null };
    return rules === null ? this.#authorise(passage, policy, round) : this.#authenticate(passage, policy, rules, round);
  }

  /** The client's address as policy sees it. */
  #remoteAddress(head: RequestHead, draft: HeaderDraft | null): string {
    const { trustedForwardedHops } = this.#settings;
    const peer = this.#connection.sourceAddress;
    // Without a draft there is no X-Forwarded-For.
    if (trustedForwardedHops <= 0 || draft === null) return peer;
    return forwardedClient(head.header(FORWARDED_FOR), trustedForwardedHops) ?? peer;
  }

  // Authentication.

  #authenticate(passage: Passage, policy: ConnectionPolicy, rules: JwtRuleSet, round: number): GateAnswer | Promise<GateAnswer> {
    const { head } = passage;
    // Whether or not the head has them: it may by a sloppy server's reading (`x_role`), or in its trailers.
    for (const name of rules.outputHeaders) (passage.draft ??= new HeaderDraft()).drop(name);
    const found = findToken(head, rules);
    if (found === null) return this.#authorise(passage, policy, round);
    if (found === 'several-tokens') return tokenRefusal({ failure: found, authentication: null });
    if (this.#tokens === null) return tokenRefusal({ failure: 'keys-unavailable', authentication: null });
    const outcome = this.#tokens.verify(rules, found.location, found.token);
    if (!(outcome instanceof Promise)) return this.#verified(outcome, found, passage, policy, rules, round);
    return outcome
      .then((later) => {
        if (this.#policy() !== policy || this.#rules !== rules) return this.#again(head, round);
        return this.#verified(later, found, passage, policy, rules, round);
      })
      .catch(() => plainAnswer(GATE_FAILED));
  }

  #verified(
    outcome: VerifiedToken | TokenFailure,
    found: FoundToken,
    passage: Passage,
    policy: ConnectionPolicy,
    rules: JwtRuleSet,
    round: number,
  ): GateAnswer | Promise<GateAnswer> {
    if ('failure' in outcome) return tokenRefusal(outcome);
    passage.jwt = outcome.identity;
    if (rules.rules[outcome.rule]?.rule.forwardOriginalToken !== true) takeOut(found, passage);
    if (outcome.outputHeaders.length > 0) {
      const draft = (passage.draft ??= new HeaderDraft());
      for (const [name, value] of outcome.outputHeaders) draft.replace(name, value);
    }
    return this.#authorise(passage, policy, round);
  }

  // External authorisation.

  #authorise(passage: Passage, policy: ConnectionPolicy, round: number): GateAnswer | Promise<GateAnswer> {
    if (!policy.hasCustom) return this.#finish(passage, policy);
    this.#facts.set(seen(passage), passage.remoteAddress, passage.jwt);
    let match: CustomMatch | null;
    try {
      match = policy.custom(this.#facts);
    } finally {
      this.#facts.clear();
    }
    if (match === null) return this.#finish(passage, policy);
    return this.#askProvider(match, passage, policy, round).catch(() => plainAnswer(GATE_FAILED));
  }

  async #askProvider(match: CustomMatch, passage: Passage, policy: ConnectionPolicy, round: number): Promise<GateAnswer> {
    const authorisation = await this.#check(match, seen(passage));
    // What was asked may not be what is to be asked now.
    if (this.#policy() !== policy) return this.#again(passage.head, round);
    if (match.dryRun) {
      if (!authorisation.allow) {
        (passage.shadow ??= []).push({ policy: match.policy, rule: match.rule, effect: 'deny', reason: authorisation.reason });
      }
    } else if (!authorisation.allow) {
      return refusedBy(match, authorisation.reason, authorisation.refusal);
    } else if (authorisation.change !== null) {
      (passage.draft ??= new HeaderDraft()).merge(authorisation.change);
    }
    return this.#finish(passage, policy);
  }

  async #check(match: CustomMatch, head: RequestHead): Promise<Authorisation> {
    const provider = this.#settings.extensionProviders.find(({ name }) => name === match.provider);
    if (provider === undefined || this.#authorisers === null) {
      return { allow: false, failed: true, reason: 'there is no such external authoriser', change: null, refusal: null };
    }
    return this.#authorisers.check(provider, head, this.#connection);
  }

  // Policy.

  #again(head: RequestHead, round: number): GateAnswer | Promise<GateAnswer> {
    return round >= MAX_ROUNDS ? plainAnswer(GATE_FAILED) : this.#round(head, round + 1);
  }

  #finish(passage: Passage, policy: ConnectionPolicy): GateAnswer {
    const { remoteAddress, draft, jwt, shadow } = passage;
    const head = seen(passage);
    const decision = this.#decide(policy, this.#facts, head, remoteAddress, jwt);
    const more = policy.hasShadow ? this.#shadow(policy, this.#facts, head, remoteAddress, jwt) : NO_SHADOW;
    const recorded = shadow === null ? more : [...shadow, ...more];
    const change = decision.verdict === 'allow' ? draft : null;
    if (change === null) return withShadow(plainAnswer(decision), recorded);
    return { decision, refusal: null, change, shadow: recorded };
  }

  #decide(policy: ConnectionPolicy, facts: RequestFacts, head: RequestHead, remoteAddress: string, jwt: JwtIdentity | null): Decision {
    facts.set(head, remoteAddress, jwt);
    try {
      return policy.request(facts);
    } catch {
      return GATE_FAILED;
    } finally {
      facts.clear();
    }
  }

  #shadow(
    policy: ConnectionPolicy,
    facts: RequestFacts,
    head: RequestHead,
    remoteAddress: string,
    jwt: JwtIdentity | null,
  ): readonly ShadowDecision[] {
    facts.set(head, remoteAddress, jwt);
    try {
      return policy.shadow(facts);
    } catch {
      // It decides nothing; the request must not pay for it.
      return NO_SHADOW;
    } finally {
      facts.clear();
    }
  }
}

/** The head as the application will get it, as far as that is known: a client says nothing to policy that it may not say to the application. */
function seen({ head, draft }: Passage): RequestHead {
  return draft === null ? head : new ChangedHead(head, draft);
}

function withShadow(answer: GateAnswer, shadow: readonly ShadowDecision[]): GateAnswer {
  return shadow.length === 0 ? answer : { ...answer, shadow };
}

function refusedBy({ policy, rule }: CustomMatch, reason: string, refusal: Refusal | null): GateAnswer {
  return { decision: { verdict: 'deny', policy, rule, reason }, refusal, change: null, shadow: NO_SHADOW };
}

/** Takes a verified token out of what the application gets. In a query it stays: the target is forwarded as it was decided about. */
function takeOut({ kind, name, field }: FoundToken, passage: Passage): void {
  if (kind === 'parameter') return;
  const draft = (passage.draft ??= new HeaderDraft());
  if (kind === 'cookie') {
    const rest = withoutCookie(passage.head.header('cookie'), name);
    draft.drop('cookie');
    if (rest !== '') draft.add('cookie', rest);
    return;
  }
  draft.drop(name);
  for (const [index, value] of passage.head.header(name).entries()) if (index !== field) draft.add(name, value);
}
