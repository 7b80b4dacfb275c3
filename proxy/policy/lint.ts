import type { DeclaredProtocol, PolicyCondition, PolicyOperation, PolicyRule, PolicySource } from '../../src/model/resources.ts';
import type { PolicyEntry } from '../../src/model/snapshot.ts';
import { parseConditionKey } from './condition-key.ts';
import { httpField, ruleError } from './explain.ts';
import { IpBlockSet } from './ip-block.ts';
import { templateMatches } from './path-template.ts';
import { PolicyError } from './policy-error.ts';
import { parsePathPattern, parseTextPattern, type TextPattern } from './text-pattern.ts';
import { expandPrincipals, expandTrustDomains, type TrustDomains } from './trust-domain.ts';
import { customProvider, type WorkloadPolicyOptions } from './workload-policy.ts';

/** What a finding is about. docs/errors.md has a line for each. */
export type LintCode =
  | 'WEFT_POLICY_LINT_INVALID'
  | 'WEFT_POLICY_LINT_NEVER'
  | 'WEFT_POLICY_LINT_SHADOWED'
  | 'WEFT_POLICY_LINT_WIDER_ON_TCP'
  | 'WEFT_POLICY_LINT_VOID_ON_TCP'
  | 'WEFT_POLICY_LINT_HTTP_ON_TCP_PORT'
  | 'WEFT_POLICY_LINT_PROVIDER'
  | 'WEFT_POLICY_LINT_FOREIGN'
  | 'WEFT_POLICY_LINT_UNSATISFIABLE';

export interface LintFinding {
  /** `namespace/name`. */
  readonly policy: string;
  /** Null: the policy as a whole. */
  readonly rule: number | null;
  /** Path within the rule, such as `to[0].paths` or `when[1].notValues`; '' for the whole rule or policy. */
  readonly field: string;
  readonly code: LintCode;
  readonly message: string;
}

export interface LintOptions extends WorkloadPolicyOptions {
  /** True if all policies apply to one workload: then their CUSTOM providers have to agree. */
  readonly oneWorkload?: boolean;
  /** Protocols that Services declare for workload ports: ports that carry no HTTP are compared with fields that only HTTP has. */
  readonly declaredProtocols?: ReadonlyMap<number, DeclaredProtocol>;
  /** Trust domains that the mesh federates with: whose workloads may be verified here. Default: none. */
  readonly federatedTrustDomains?: readonly string[];
}

type Values = readonly string[] | undefined;

/** Pairs that one rule may contradict itself in. */
const SOURCE_PAIRS = [
  ['principals', 'notPrincipals'],
  ['namespaces', 'notNamespaces'],
  ['serviceAccounts', 'notServiceAccounts'],
  ['requestPrincipals', 'notRequestPrincipals'],
  ['ipBlocks', 'notIpBlocks'],
  ['remoteIpBlocks', 'notRemoteIpBlocks'],
] as const;
const OPERATION_PAIRS = [
  ['hosts', 'notHosts'],
  ['ports', 'notPorts'],
  ['methods', 'notMethods'],
  ['paths', 'notPaths'],
] as const;

/** What compares the path of an identity, and not its trust domain. */
const PATH_FIELDS = ['namespaces', 'serviceAccounts'] as const;
const PATH_CONDITIONS: ReadonlySet<string> = new Set(['source.namespace', 'source.serviceAccount']);

const ADDRESS_FIELDS: ReadonlySet<string> = new Set(['ipBlocks', 'remoteIpBlocks', 'source.ip', 'remote.ip', 'destination.ip']);

/** True if every text (or address) that `narrow` matches is matched by `wide` as well. May say no where it is so; never yes where it is not. */
function covers(field: string, wide: string, narrow: string): boolean {
  if (wide === narrow) return true;
  if (ADDRESS_FIELDS.has(field)) return blockCovers(field, wide, narrow);
  if (field === 'serviceAccounts' || field === 'ports' || field === 'source.serviceAccount' || field === 'destination.port') return false;
  if (field === 'hosts' || field === 'connection.sni')
    return patternCovers(parseTextPattern(wide.toLowerCase()), parseTextPattern(narrow.toLowerCase()));
  // Values of these are taken apart at a slash: only what is equal or whole is sure.
  if (field === 'requestPrincipals' || field === 'request.auth.principal')
    return wide === '*' && narrow.includes('/') && !narrow.endsWith('/');
  if (field === 'paths') return patternCovers(parsePathPattern(field, wide, false), parsePathPattern(field, narrow, false));
  return patternCovers(parseTextPattern(wide), parseTextPattern(narrow));
}

function blockCovers(field: string, wide: string, narrow: string): boolean {
  const [outer] = new IpBlockSet(field, [wide]).ranges();
  const [inner] = new IpBlockSet(field, [narrow]).ranges();
  return (
    outer !== undefined && inner !== undefined && outer.family === inner.family && outer.first <= inner.first && inner.last <= outer.last
  );
}

function patternCovers(wide: TextPattern, narrow: TextPattern): boolean {
  if (wide.kind === 'any') return true;
  if (narrow.kind === 'any') return false;
  if (wide.kind === 'template') return narrow.kind === 'exact' && templateMatches(wide.template, narrow.text);
  if (narrow.kind === 'template') {
    const [beginning] = narrow.template.items;
    return wide.kind === 'prefix' && typeof beginning === 'string' && beginning.startsWith(wide.text);
  }
  if (wide.kind === 'exact') return narrow.kind === 'exact' && narrow.text === wide.text;
  if (wide.kind === 'prefix') return narrow.kind !== 'suffix' && narrow.text.startsWith(wide.text);
  return narrow.kind !== 'prefix' && narrow.text.endsWith(wide.text);
}

/** True if whatever a list of values matches, the other one does. An absent list constrains nothing. */
function listCovers(field: string, wide: Values, narrow: Values): boolean {
  if (wide === undefined) return true;
  return narrow !== undefined && narrow.every((value) => wide.some((one) => covers(field, one, value)));
}

/** The same for not-values: whatever `wide` excludes, `narrow` excludes too. An absent list excludes nothing. */
function notListCovers(field: string, wide: Values, narrow: Values): boolean {
  if (wide === undefined) return true;
  return narrow !== undefined && wide.every((value) => narrow.some((one) => covers(field, one, value)));
}

/** A list of an entry, as it is compared: texts, with the aliases of trust domains. */
function listOf(entry: object, name: string, domains: TrustDomains): Values {
  const values = (entry as Readonly<Record<string, readonly (string | number)[] | undefined>>)[name]?.map(String);
  return values !== undefined && (name === 'principals' || name === 'notPrincipals') ? expandPrincipals(values, domains) : values;
}

/** A list of a condition, as it is compared. */
function conditionList(key: string, values: Values, domains: TrustDomains): Values {
  if (values === undefined) return undefined;
  if (key === 'source.principal') return expandPrincipals(values, domains);
  return key === 'source.trustDomain' ? expandTrustDomains(values, domains) : values;
}

/** Every value is excluded by some not-value: the pair can never hold. */
function contradicts(field: string, values: Values, notValues: Values): boolean {
  return values !== undefined && notValues !== undefined && values.every((value) => notValues.some((not) => covers(field, not, value)));
}

type Pairs = readonly (readonly [name: string, not: string])[];

/** For entries of `from` and `to`: what the narrow one matches, the wide one does. */
function fieldsCover(wide: object, narrow: object, pairs: Pairs, domains: TrustDomains): boolean {
  return pairs.every(
    ([name, not]) =>
      listCovers(name, listOf(wide, name, domains), listOf(narrow, name, domains)) &&
      notListCovers(name, listOf(wide, not, domains), listOf(narrow, not, domains)),
  );
}

function entriesCover(wide: readonly object[], narrow: readonly object[], pairs: Pairs, domains: TrustDomains): boolean {
  if (wide.length === 0) return true;
  return narrow.length > 0 && narrow.every((entry) => wide.some((one) => fieldsCover(one, entry, pairs, domains)));
}

/** The field that a condition's values are compared as. */
function conditionField(key: string): string {
  return parseConditionKey(key).kind;
}

function conditionsCover(wide: readonly PolicyCondition[], narrow: readonly PolicyCondition[], domains: TrustDomains): boolean {
  const list = (key: string, values: Values): Values => conditionList(key, values, domains);
  return wide.every((condition) =>
    narrow.some((one) => {
      const { key } = one;
      if (key !== condition.key) return false;
      const name = conditionField(key);
      return (
        listCovers(name, list(key, condition.values), list(key, one.values)) &&
        notListCovers(name, list(key, condition.notValues), list(key, one.notValues))
      );
    }),
  );
}

/** True if every request and connection that `narrow` matches is matched by `wide`. */
function ruleCovers(wide: PolicyRule, narrow: PolicyRule, action: PolicyEntry['action'], domains: TrustDomains): boolean {
  // On a connection that is not HTTP an ALLOW rule with HTTP fields is void, and one without them is not.
  if (action === 'ALLOW' && httpField(wide) !== null && httpField(narrow) === null) return false;
  return (
    entriesCover(wide.from, narrow.from, SOURCE_PAIRS, domains) &&
    entriesCover(wide.to, narrow.to, OPERATION_PAIRS, domains) &&
    conditionsCover(wide.when, narrow.when, domains)
  );
}

const NOT_HTTP: ReadonlySet<DeclaredProtocol> = new Set(['tcp', 'tls']);
/** Rules of one policy that are compared with each other; in larger policies every rule is compared with as many before it. */
const MAX_COMPARED = 512;

class Linter {
  readonly findings: LintFinding[] = [];
  readonly #options: LintOptions;

  constructor(options: LintOptions) {
    this.#options = options;
  }

  #report(policy: PolicyEntry, rule: number | null, field: string, code: LintCode, message: string): void {
    this.findings.push({ policy: policy.name, rule, field, code, message });
  }

  policy(policy: PolicyEntry): void {
    const domains: TrustDomains = this.#options;
    if (policy.action === 'DENY' && policy.rules.length === 0) {
      this.#report(policy, null, '', 'WEFT_POLICY_LINT_NEVER', 'a DENY policy without rules never matches: it denies nothing');
    }
    if ((policy.action === 'CUSTOM' || policy.action === 'AUDIT') && policy.rules.length === 0) {
      this.#report(policy, null, '', 'WEFT_POLICY_LINT_NEVER', `a policy of action ${policy.action} without rules has no effect`);
    }
    const valid: { readonly index: number; readonly rule: PolicyRule }[] = [];
    for (const [index, rule] of policy.rules.entries()) {
      const error = ruleError(rule, policy, domains);
      if (error !== null) {
        const effect = policy.action === 'ALLOW' ? 'it allows nothing' : 'it denies everything';
        this.#report(
          policy,
          index,
          '',
          'WEFT_POLICY_LINT_INVALID',
          `${error.message}; ${policy.action === 'AUDIT' ? 'it is ignored' : effect}`,
        );
        continue;
      }
      this.#rule(policy, index, rule);
      const cover = valid.slice(-MAX_COMPARED).find((before) => ruleCovers(before.rule, rule, policy.action, domains));
      if (cover !== undefined) {
        const message = `rule ${cover.index} already matches whatever this rule matches`;
        this.#report(policy, index, '', 'WEFT_POLICY_LINT_SHADOWED', message);
      }
      valid.push({ index, rule });
    }
  }

  #rule(policy: PolicyEntry, index: number, rule: PolicyRule): void {
    for (const [i, source] of rule.from.entries()) this.#pairs(policy, index, `from[${i}].source`, source, SOURCE_PAIRS);
    for (const [i, operation] of rule.to.entries()) this.#pairs(policy, index, `to[${i}].operation`, operation, OPERATION_PAIRS);
    for (const [i, condition] of rule.when.entries()) {
      const name = conditionField(condition.key);
      const { key, values, notValues } = condition;
      if (contradicts(name, conditionList(key, values, this.#options), conditionList(key, notValues, this.#options))) {
        const message = `notValues exclude every one of values of ${condition.key}: the rule can never match`;
        this.#report(policy, index, `when[${i}].notValues`, 'WEFT_POLICY_LINT_UNSATISFIABLE', message);
      }
    }
    this.#disjoint(policy, index, rule);
    this.#peers(policy, index, rule);
    if (policy.action === 'ALLOW') this.#foreign(policy, index, rule);
    this.#tcp(policy, index, rule);
  }

  #pairs(policy: PolicyEntry, index: number, at: string, entry: PolicySource | PolicyOperation, pairs: Pairs): void {
    for (const [name, not] of pairs) {
      if (!contradicts(name, listOf(entry, name, this.#options), listOf(entry, not, this.#options))) continue;
      const message = `${not} excludes every one of ${name}: this can never match`;
      this.#report(policy, index, `${at}.${not}`, 'WEFT_POLICY_LINT_UNSATISFIABLE', message);
    }
  }

  /** Two conditions on one key that has one value, and no value of the first can be one of the second. */
  #disjoint(policy: PolicyEntry, index: number, rule: PolicyRule): void {
    for (const [i, later] of rule.when.entries()) {
      for (const earlier of rule.when.slice(0, i)) {
        if (earlier.key !== later.key || earlier.values === undefined) continue;
        const name = conditionField(later.key);
        const single = !['request.headers', 'request.auth.audiences', 'request.auth.claims'].includes(name);
        const apart =
          contradicts(name, this.#list(later.key, earlier.values), this.#list(later.key, later.notValues)) ||
          (single && later.values !== undefined && earlier.values.every((a) => later.values?.every((b) => areApart(name, a, b))));
        if (!apart) continue;
        const message = `another condition on ${later.key} leaves no value that this one accepts: the rule can never match`;
        this.#report(policy, index, `when[${i}]`, 'WEFT_POLICY_LINT_UNSATISFIABLE', message);
        break;
      }
    }
  }

  #list(key: string, values: Values): Values {
    return conditionList(key, values, this.#options);
  }

  /** Principals whose namespaces are none of `namespaces`. */
  #peers(policy: PolicyEntry, index: number, rule: PolicyRule): void {
    for (const [i, { principals, namespaces, serviceAccounts }] of rule.from.entries()) {
      if (namespaces === undefined) continue;
      const named = [
        ...(principals ?? []).map((value) => /^[^/*]+\/ns\/([^/*]+)\/sa\/[^/*]+$/.exec(value)?.[1] ?? null),
        ...(serviceAccounts ?? []).map((value) => (value.includes('/') ? value.slice(0, value.indexOf('/')) : null)),
      ];
      if (named.length === 0 || named.some((one) => one === null || namespaces.some((value) => covers('namespaces', value, one)))) continue;
      const message = 'none of the identities is of one of these namespaces: this can never match';
      this.#report(policy, index, `from[${i}].source.namespaces`, 'WEFT_POLICY_LINT_UNSATISFIABLE', message);
    }
  }

  /** Namespaces and service accounts are compared without the trust domain: a federated one has them too. */
  #foreign(policy: PolicyEntry, index: number, rule: PolicyRule): void {
    const { federatedTrustDomains = [], trustDomainAliases } = this.#options;
    if (rule.when.some(({ key }) => key === 'source.trustDomain' || key === 'source.principal')) return;
    const sources = rule.from.length === 0 ? [{} as PolicySource] : rule.from;
    const condition = rule.when.findIndex(({ key, values }) => values !== undefined && PATH_CONDITIONS.has(key));
    for (const [i, source] of sources.entries()) {
      const name = PATH_FIELDS.find((field) => source[field] !== undefined);
      if (source.principals !== undefined || (name === undefined && condition === -1)) continue;
      const matched = federatedTrustDomains.filter(
        (domain) =>
          !trustDomainAliases.includes(domain) && !(source.notPrincipals ?? []).some((not) => covers('principals', not, `${domain}/*`)),
      );
      if (matched.length === 0) continue;
      const message = `this also matches workloads of ${matched.join(', ')}, which the mesh federates with: name principals, or add a condition on source.trustDomain`;
      const field = name === undefined ? `when[${condition}].values` : `from[${i}].source.${name}`;
      this.#report(policy, index, field, 'WEFT_POLICY_LINT_FOREIGN', message);
    }
  }

  #tcp(policy: PolicyEntry, index: number, rule: PolicyRule): void {
    const http = httpField(rule);
    if (http === null) return;
    const declared = this.#options.declaredProtocols ?? new Map<number, DeclaredProtocol>();
    for (const [i, operation] of rule.to.entries()) {
      const ports = (operation.ports ?? []).filter((port) => NOT_HTTP.has(declared.get(port) ?? 'auto'));
      if (ports.length === 0) continue;
      const effect =
        policy.action === 'ALLOW'
          ? 'the rule allows nothing there'
          : `the rule matches everything there that its other fields match, without ${http}`;
      const message = `port ${ports.join(', ')} carries no HTTP, so ${http} cannot be asked: ${effect}`;
      this.#report(policy, index, `to[${i}].operation.ports`, 'WEFT_POLICY_LINT_HTTP_ON_TCP_PORT', message);
    }
    // Where every port that it can meet is declared to carry HTTP, nothing widens.
    const ports = rule.to.map((operation) => operation.ports);
    const onlyHttp =
      ports.length > 0 && ports.every((list) => list?.every((port) => ['http', 'http2', 'grpc'].includes(declared.get(port) ?? 'auto')));
    if (onlyHttp) return;
    if (policy.action === 'ALLOW') {
      const othersApply = rule.to.some((operation) => operation.ports !== undefined) && mixes(rule);
      if (!othersApply) return;
      const message = `on connections that are not HTTP the whole rule is void, since it has ${http}; its operations without HTTP fields do not match either`;
      this.#report(policy, index, '', 'WEFT_POLICY_LINT_VOID_ON_TCP', message);
      return;
    }
    if (policy.action !== 'DENY') return;
    const everything =
      rule.from.every(isHttpSource) && rule.to.every((operation) => operation.ports === undefined && operation.notPorts === undefined);
    const extent =
      everything && rule.when.every(({ key }) => key.startsWith('request.')) ? 'all of them' : 'those that its other fields match';
    const message = `on connections that are not HTTP this rule counts without ${http}: it denies ${extent}; name ports to keep it to HTTP`;
    this.#report(policy, index, '', 'WEFT_POLICY_LINT_WIDER_ON_TCP', message);
  }
}

function isHttpOperation(operation: PolicyOperation): boolean {
  return httpField({ from: [], to: [operation], when: [] }) !== null;
}

/** An operation with and one without fields that only HTTP has. */
function mixes(rule: PolicyRule): boolean {
  return rule.to.some(isHttpOperation) && !rule.to.every(isHttpOperation);
}

function isHttpSource(source: PolicySource): boolean {
  return Object.keys(source).every((name) => name === 'requestPrincipals' || name === 'notRequestPrincipals');
}

/** Fields whose values mean more, or something else, than their text. */
const NOT_COMPARED: ReadonlySet<string> = new Set([
  'source.principal',
  'source.trustDomain',
  'source.serviceAccount',
  'request.auth.principal',
  'connection.sni',
]);

/** True if no text is matched by both values; may say no where it is so. */
function areApart(field: string, a: string, b: string): boolean {
  if (ADDRESS_FIELDS.has(field)) return !blockCovers(field, a, b) && !blockCovers(field, b, a);
  if (NOT_COMPARED.has(field)) return false;
  const first = parseTextPattern(a);
  const second = parseTextPattern(b);
  if (first.kind === 'exact') return !patternCovers(second, first);
  if (second.kind === 'exact') return !patternCovers(first, second);
  if (first.kind === 'prefix' && second.kind === 'prefix')
    return !first.text.startsWith(second.text) && !second.text.startsWith(first.text);
  if (first.kind === 'suffix' && second.kind === 'suffix') return !first.text.endsWith(second.text) && !second.text.endsWith(first.text);
  return false;
}

/**
 * Looks for what its author cannot have meant: rules that can never match, that an earlier one makes needless, that mean something else on
 * connections that are not HTTP or for foreign workloads, and CUSTOM policies that cannot be asked. Says nothing that is not so; does not find everything that is.
 */
export function lintPolicies(policies: readonly PolicyEntry[], options: LintOptions): LintFinding[] {
  const linter = new Linter(options);
  for (const policy of policies) linter.policy(policy);
  const custom = policies.filter(({ action }) => action === 'CUSTOM');
  const findings = linter.findings;
  const report = (name: string, message: string): void => {
    findings.push({ policy: name, rule: null, field: 'provider', code: 'WEFT_POLICY_LINT_PROVIDER', message });
  };
  for (const policy of custom) {
    const error = customProvider([{ ...policy, dryRun: false }], options.providers);
    if (error instanceof PolicyError)
      report(policy.name, `${error.message}; ${policy.dryRun ? 'it is not asked' : 'its rules deny what they match'}`);
  }
  const enforced = custom.filter(({ dryRun }) => !dryRun);
  if (options.oneWorkload === true && new Set(enforced.map(({ provider }) => provider)).size > 1) {
    for (const { name } of enforced)
      report(name, 'CUSTOM policies of one workload name several providers; their rules deny what they match');
  }
  return findings;
}
