import type { ConnectionAttributes, CustomMatch, Decision, ShadowDecision, WorkloadPolicy } from '../../src/model/policy.ts';
import type { PolicyAction } from '../../src/model/resources.ts';
import type { PolicyEntry } from '../../src/model/snapshot.ts';
import { AddressClasses } from './address-class.ts';
import { type BoundConnectionPolicy, BoundPolicy, type BoundRules, type BoundShadow, mayMatch } from './bound-policy.ts';
import { type CompiledRule, compileRule, type IdSource, type OpenOperation } from './compiled-rule.ts';
import { type ConnectionFacts, connectionFacts } from './connection-facts.ts';
import type { IpBlockSet } from './ip-block.ts';
import { PolicyError } from './policy-error.ts';
import { RequestMatcher } from './request-matcher.ts';
import { type Remainder, RuleSet } from './rule-set.ts';
import type { TrustDomains } from './trust-domain.ts';

/** What the meaning of a workload's policies depends on besides themselves. */
export interface WorkloadPolicyOptions extends TrustDomains {
  /** Names of the extension providers that CUSTOM policies may ask; absent: not checked here, so whoever asks them must refuse unknown ones. */
  readonly providers?: readonly string[];
  /** Stamped on decision tables: grows with every change of policy. */
  readonly generation?: number;
  /** False decides without decision tables: the same, slower. For tests and measurement. */
  readonly tables?: boolean;
}

/** A workload's policies, with what could not be compiled. Errors never open anything: they are for status and logs. */
export interface CompiledWorkloadPolicy extends WorkloadPolicy {
  readonly errors: readonly PolicyError[];
  bind(connection: ConnectionAttributes): BoundConnectionPolicy;
}

/** How long the list of policy names in a refusal may get. */
const MAX_NAMES_LENGTH = 200;
/** Kinds of connections whose policy is kept. */
const MAX_BOUND = 4096;
/** Operations in all kept matchers; past it they are made anew. */
const MAX_KEPT_OPERATIONS = 1_000_000;
/** Operations for which one workload's policies compile tables, in all: past it the index does, so that no peer can keep the compiler busy. */
const MAX_TABLE_OPERATIONS = 200_000;
/** Bytes of the text of an address, identity and server name that may be a key. */
const MAX_KEY_LENGTH = 4096;

const NO_POLICY: Decision = Object.freeze({ verdict: 'allow', policy: null, rule: null, reason: 'no policy applies' });
const NO_ALLOW_POLICY: Decision = Object.freeze({ verdict: 'allow', policy: null, rule: null, reason: 'no ALLOW policy applies' });

function decision(verdict: Decision['verdict'], policy: string | null, rule: number | null, reason: string): Decision {
  return Object.freeze({ verdict, policy, rule, reason });
}

/** `name`, or several names in one bounded text. */
export function joinNames(names: readonly string[]): string {
  let text = '';
  for (const [i, name] of names.entries()) {
    const next = text === '' ? name : `${text}, ${name}`;
    if (i > 0 && next.length > MAX_NAMES_LENGTH) return `${text} and ${names.length - i} more`;
    text = next;
  }
  return text;
}

/** Rules of which the first that matches counts, and what each of them leads to. */
class Layer<Outcome> {
  readonly rules = new RuleSet();
  readonly outcomes = new Map<Decision, Outcome>();

  /** @throws PolicyError for content that cannot be evaluated */
  add(compiled: CompiledRule, outcome: Outcome, tcp: Decision): void {
    this.rules.add(compiled);
    this.outcomes.set(compiled.decision, outcome);
    this.outcomes.set(tcp, outcome);
  }

  addBlanket(made: Decision, outcome: Outcome): void {
    this.rules.addBlanket(made);
    this.outcomes.set(made, outcome);
  }

  of(made: Decision | null): Outcome | null {
    return made === null ? null : (this.outcomes.get(made) as Outcome);
  }
}

/** Policies sorted by what they do. */
class Layers {
  readonly denies = new RuleSet();
  readonly allows = new RuleSet();
  readonly custom = new Layer<CustomMatch>();
  readonly dryRunCustom = new Layer<CustomMatch>();
  /** One for each dry-run DENY or AUDIT policy. */
  readonly shadows: Layer<ShadowDecision>[] = [];
  readonly dryRunAllows = new Layer<ShadowDecision>();
  readonly dryRunAllowNames: string[] = [];
  readonly allowNames: string[] = [];
  allowIsIncomplete = false;

  *rules(): IterableIterator<CompiledRule> {
    yield* this.denies.rules();
    yield* this.allows.rules();
    for (const layer of [this.custom, this.dryRunCustom, this.dryRunAllows, ...this.shadows]) yield* layer.rules.rules();
  }
}

/** Keeps one matcher for each set of open operations: connections of many kinds share few. */
class MatcherCache {
  readonly #generation: number;
  readonly #byHash = new Map<number, { readonly ids: Int32Array; readonly matcher: RequestMatcher }[]>();
  #kept = 0;
  #tableBudget: number;

  constructor(generation: number, tables: boolean) {
    this.#generation = generation;
    this.#tableBudget = tables ? MAX_TABLE_OPERATIONS : 0;
  }

  get isFull(): boolean {
    return this.#kept > MAX_KEPT_OPERATIONS;
  }

  clear(): void {
    this.#byHash.clear();
    this.#kept = 0;
  }

  matcher(open: readonly OpenOperation[]): RequestMatcher | null {
    if (open.length === 0) return null;
    const ids = Int32Array.from(open, ({ id }) => id);
    let hash = 0x811c9dc5;
    for (const id of ids) hash = Math.imul(hash ^ id, 0x01000193);
    let list = this.#byHash.get(hash);
    if (list === undefined) {
      list = [];
      this.#byHash.set(hash, list);
    }
    const known = list.find((one) => one.ids.length === ids.length && one.ids.every((id, i) => id === ids[i]));
    if (known !== undefined) return known.matcher;
    const wantsTables = this.#tableBudget >= open.length;
    if (wantsTables) this.#tableBudget -= open.length;
    const matcher = new RequestMatcher(open, this.#generation, wantsTables);
    list.push({ ids, matcher });
    this.#kept += open.length;
    return matcher;
  }
}

class CompiledPolicies implements CompiledWorkloadPolicy {
  readonly errors: readonly PolicyError[];
  readonly #layers: Layers;
  /** What is left when neither a DENY nor an ALLOW rule matched. */
  readonly #otherwise: Decision;
  readonly #notAllowed: ShadowDecision | null;
  readonly #sourceClasses: AddressClasses;
  readonly #destinationClasses: AddressClasses;
  readonly #namedPorts: ReadonlySet<number>;
  readonly #asksServerName: boolean;
  readonly #matchers: MatcherCache;
  readonly #bound = new Map<string, BoundPolicy>();

  constructor(layers: Layers, otherwise: Decision, errors: readonly PolicyError[], options: WorkloadPolicyOptions) {
    this.errors = errors;
    this.#layers = layers;
    this.#otherwise = otherwise;
    // An enforced ALLOW policy already refuses what none of them allows; and more ALLOW rules never refuse what one of them allows.
    const { dryRunAllowNames, allowNames } = layers;
    this.#notAllowed =
      dryRunAllowNames.length === 0 || allowNames.length > 0
        ? null
        : shadow(joinNames(dryRunAllowNames), null, 'deny', 'would be denied because no dry-run allow matched');
    const sources: IpBlockSet[] = [];
    const destinations: IpBlockSet[] = [];
    const ports = new Set<number>();
    let asksServerName = false;
    for (const rule of layers.rules()) {
      for (const { side, matcher } of rule.addresses()) {
        const blocks = side === 'source' ? sources : destinations;
        if (matcher.blocks !== null) blocks.push(matcher.blocks);
        if (matcher.notBlocks !== null) blocks.push(matcher.notBlocks);
      }
      for (const port of rule.ports()) ports.add(port);
      asksServerName ||= rule.connectionConditions.some((condition) => condition.asksServerName);
    }
    this.#sourceClasses = new AddressClasses(sources);
    this.#destinationClasses = new AddressClasses(destinations);
    this.#namedPorts = ports;
    this.#asksServerName = asksServerName;
    this.#matchers = new MatcherCache(options.generation ?? 0, options.tables !== false);
  }

  bind(connection: ConnectionAttributes): BoundConnectionPolicy {
    const key = this.#kindOf(connection);
    let bound = this.#bound.get(key);
    if (bound === undefined) {
      if (this.#matchers.isFull) {
        this.#matchers.clear();
        this.#bound.clear();
      }
      if (this.#bound.size >= MAX_BOUND) this.#bound.delete(this.#bound.keys().next().value as string);
      bound = this.#bind(connectionFacts(connection));
      if (key.length <= MAX_KEY_LENGTH) this.#bound.set(key, bound);
    }
    return bound;
  }

  /** Two connections of one kind have the same policy: everything that rules ask of a connection is in it. */
  #kindOf(connection: ConnectionAttributes): string {
    const port = this.#namedPorts.has(connection.destinationPort) ? connection.destinationPort : 0;
    const source = this.#sourceClasses.of(connection.sourceAddress);
    const destination = this.#destinationClasses.of(connection.destinationAddress);
    const kind = `${source} ${destination} ${port} ${connection.sourceIdentity?.text ?? ''}`;
    if (!this.#asksServerName) return kind;
    return connection.serverName === undefined ? `${kind} ?` : `${kind} =${connection.serverName ?? ''}`;
  }

  #bind(connection: ConnectionFacts): BoundPolicy {
    const layers = this.#layers;
    const denies = layers.denies.evaluate(connection);
    const allows: Remainder = denies.decided === null ? layers.allows.evaluate(connection) : NOTHING;
    const custom = layers.custom.rules.evaluate(connection);
    const otherwise = denies.decided ?? allows.decided ?? this.#otherwise;
    const asksAllow = denies.decided === null && allows.decided === null && allows.open.length > 0;
    // Where nothing can be allowed any more, no DENY rule needs to be asked.
    const asksDeny = denies.decided === null && denies.open.length > 0 && (asksAllow || otherwise.verdict === 'allow');
    const open = asksDeny ? [...denies.open, ...(asksAllow ? allows.open : [])] : asksAllow ? allows.open : NOTHING.open;
    return new BoundPolicy({
      tcp: denies.decided ?? custom.tcp ?? denies.tcp ?? allows.tcp ?? this.#otherwise,
      tcpShadow: this.#tcpShadow(connection),
      matcher: this.#matchers.matcher(open),
      otherwise,
      custom: this.#rules(layers.custom, custom),
      dryRunCustom: this.#rules(layers.dryRunCustom, layers.dryRunCustom.rules.evaluate(connection)),
      shadow: this.#shadow(connection),
    });
  }

  #rules<Outcome>(layer: Layer<Outcome>, { decided, open }: Remainder): BoundRules<Outcome> {
    return {
      decided: layer.of(decided),
      matcher: this.#matchers.matcher(open),
      outcomes: layer.outcomes,
    };
  }

  #shadow(connection: ConnectionFacts): BoundShadow {
    const { shadows, dryRunAllows } = this.#layers;
    return {
      policies: shadows.map((layer) => this.#rules(layer, layer.rules.evaluate(connection))).filter(mayMatch),
      notAllowed: this.#notAllowed,
      allows: this.#rules(dryRunAllows, dryRunAllows.rules.evaluate(connection)),
    };
  }

  #tcpShadow(connection: ConnectionFacts): readonly ShadowDecision[] {
    const { shadows, dryRunAllows } = this.#layers;
    const found = shadows.map((layer) => layer.of(layer.rules.evaluate(connection).tcp)).filter((one) => one !== null);
    if (this.#notAllowed !== null && dryRunAllows.rules.evaluate(connection).tcp === null) found.push(this.#notAllowed);
    return found;
  }
}

const NOTHING: Remainder = { decided: null, tcp: null, open: [] };

function shadow(policy: string, rule: number | null, effect: ShadowDecision['effect'], reason: string): ShadowDecision {
  return Object.freeze({ policy, rule, effect, reason });
}

function compileError(policy: string, rule: number | null, cause: unknown): PolicyError {
  const where = rule === null ? policy : `${policy} rule ${rule}`;
  if (cause instanceof PolicyError) {
    const detail = cause.nextStep === null ? { cause } : { cause, nextStep: cause.nextStep };
    return new PolicyError(cause.code, `${where}: ${cause.message}`, detail);
  }
  return new PolicyError('WEFT_POLICY_FIELD', `${where}: malformed`, {
    cause,
    nextStep: 'write the policy as the kind AuthorizationPolicy says',
  });
}

const ACTIONS: ReadonlySet<PolicyAction> = new Set(['ALLOW', 'DENY', 'AUDIT', 'CUSTOM']);

/**
 * The provider that all enforced CUSTOM policies of a workload ask, or why there is none. Two would each have to be asked, which Istio does
 * not do: it refuses, and so do we.
 */
export function customProvider(policies: readonly PolicyEntry[], providers: readonly string[] | undefined): string | PolicyError | null {
  const custom = policies.filter(({ action, dryRun }) => action === 'CUSTOM' && !dryRun);
  const named = [...new Set(custom.map(({ provider }) => provider ?? ''))];
  if (named.length === 0) return null;
  const [only = ''] = named;
  if (named.length > 1) {
    return new PolicyError(
      'WEFT_POLICY_PROVIDER',
      `${joinNames(custom.map(({ name }) => name))}: CUSTOM policies of one workload name several providers`,
      {
        nextStep: 'let all CUSTOM policies of a workload name one provider',
      },
    );
  }
  if (only === '' || (providers !== undefined && !providers.includes(only))) {
    return new PolicyError(
      'WEFT_POLICY_PROVIDER',
      `${joinNames(custom.map(({ name }) => name))}: the CUSTOM provider is not known: ${JSON.stringify(only.slice(0, 80))}`,
      { nextStep: 'add the provider to extensionProviders of the MeshConfig' },
    );
  }
  return only;
}

/** Compiles the policies of one workload, one at a time. */
class Builder {
  readonly layers = new Layers();
  readonly errors: PolicyError[] = [];
  readonly #options: WorkloadPolicyOptions;
  readonly #ids: IdSource = { next: 0 };
  readonly #customUsable: boolean;

  constructor(policies: readonly PolicyEntry[], options: WorkloadPolicyOptions) {
    this.#options = options;
    const provider = customProvider(policies, options.providers);
    this.#customUsable = !(provider instanceof PolicyError);
    if (provider instanceof PolicyError) this.errors.push(provider);
  }

  add(policy: PolicyEntry): void {
    const { name, action, rules, dryRun } = policy;
    if (!ACTIONS.has(action) || !Array.isArray(rules)) {
      this.errors.push(
        new PolicyError('WEFT_POLICY_ACTION', `${name}: its action or its rules cannot be evaluated`, {
          nextStep: 'use action ALLOW, DENY, AUDIT or CUSTOM with a list of rules',
        }),
      );
      this.layers.denies.addBlanket(decision('deny', name, null, 'the policy could not be compiled'));
      return;
    }
    if (action === 'ALLOW') (dryRun ? this.layers.dryRunAllowNames : this.layers.allowNames).push(name);
    const shadows = action === 'AUDIT' || (action === 'DENY' && dryRun) ? new Layer<ShadowDecision>() : null;
    if (shadows !== null) this.layers.shadows.push(shadows);
    for (const [index, rule] of rules.entries()) {
      try {
        this.#addRule(policy, index, rule, shadows);
      } catch (cause) {
        this.errors.push(compileError(name, index, cause));
        this.#addBroken(policy, index, shadows);
      }
    }
  }

  #addRule(
    { name, action, provider, dryRun }: PolicyEntry,
    index: number,
    rule: PolicyEntry['rules'][number],
    shadows: Layer<ShadowDecision> | null,
  ): void {
    const context = { domains: this.#options, namespace: name.slice(0, Math.max(name.indexOf('/'), 0)), refuses: action !== 'ALLOW' };
    const verdict = action === 'ALLOW' ? 'allow' : 'deny';
    let reason = `matched ${action === 'ALLOW' || action === 'AUDIT' ? 'an' : 'a'} ${action} rule`;
    const broken = action === 'CUSTOM' && !dryRun && !this.#customUsable;
    if (broken) reason = 'matched a CUSTOM rule whose provider cannot be asked';
    const made = decision(verdict, name, index, reason);
    const onTcp = decision(verdict, name, index, `${reason}, without its HTTP fields`);
    const compiled = compileRule(rule, context, made, onTcp, this.#ids);
    if (shadows !== null) {
      const effect = action === 'AUDIT' ? 'audit' : 'deny';
      shadows.add(compiled, shadow(name, index, effect, reason), onTcp);
    } else if (action === 'DENY' || broken) this.layers.denies.add(compiled);
    else if (action === 'CUSTOM') {
      // What is no HTTP request cannot be asked about: it is refused.
      const tcpReason = 'a CUSTOM rule matches a connection that is not HTTP, which no provider can be asked about';
      const refused = decision('deny', name, index, tcpReason);
      const layer = dryRun ? this.layers.dryRunCustom : this.layers.custom;
      layer.add(
        compileRule(rule, context, refused, refused, this.#ids),
        Object.freeze({ policy: name, rule: index, provider: provider ?? '', dryRun }),
        refused,
      );
    } else if (dryRun) this.layers.dryRunAllows.add(compiled, shadow(name, index, 'audit', reason), onTcp);
    else this.layers.allows.add(compiled);
  }

  /** A rule that cannot be compiled fails closed by itself. */
  #addBroken({ name, action, dryRun }: PolicyEntry, index: number, shadows: Layer<ShadowDecision> | null): void {
    const reason = `a ${action} rule could not be compiled`;
    if (shadows !== null) {
      if (action === 'DENY') shadows.addBlanket(decision('deny', name, index, reason), shadow(name, index, 'deny', reason));
    } else if (action === 'ALLOW') {
      if (!dryRun) this.layers.allowIsIncomplete = true;
    } else if (!dryRun) this.layers.denies.addBlanket(decision('deny', name, index, reason));
  }
}

/**
 * Compiles the AuthorizationPolicies of one workload, with Istio's meaning and order: CUSTOM asks a provider; a DENY rule that matches
 * denies; then, if no ALLOW policy applies, the answer is allow; then an ALLOW rule that matches allows; all else is denied. A policy without
 * rules never matches; a rule with empty `from`, `to` and `when` always does. AUDIT and dry-run policies never change a decision, nor does
 * a dry-run ALLOW make anything denied.
 *
 * On a connection that is not HTTP an ALLOW rule with any field that only HTTP answers (hosts, methods, paths, requestPrincipals, their
 * not-forms, and conditions on `request.`) never matches, and a rule of another action counts without those fields. So a DENY of HTTP
 * fields alone denies all such traffic; it never silently has no effect.
 *
 * Nothing is thrown for bad content. A rule that cannot be compiled fails closed by itself: a DENY or CUSTOM rule then denies everything,
 * an ALLOW rule allows nothing, and `errors` says why. A policy whose action or rules cannot be read denies everything. If the CUSTOM
 * policies name no provider, an unknown one or several, their rules deny.
 */
export function compileWorkloadPolicy(policies: readonly PolicyEntry[], options: WorkloadPolicyOptions): CompiledWorkloadPolicy {
  const builder = new Builder(policies, options);
  for (const policy of policies) builder.add(policy);
  const { layers, errors } = builder;
  const noMatch = layers.allowIsIncomplete ? 'no ALLOW rule matched; some could not be compiled' : 'no ALLOW rule matched';
  let otherwise: Decision;
  if (layers.allowNames.length > 0) otherwise = decision('deny', joinNames(layers.allowNames), null, noMatch);
  else otherwise = policies.length === 0 ? NO_POLICY : NO_ALLOW_POLICY;
  return new CompiledPolicies(layers, otherwise, errors, options);
}
