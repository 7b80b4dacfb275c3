import type { ConnectionAttributes, CustomMatch, Decision, RequestAttributes, ShadowDecision } from '../../src/model/policy.ts';
import type { PolicyCondition, PolicyOperation, PolicyRule, PolicySource } from '../../src/model/resources.ts';
import type { PolicyEntry } from '../../src/model/snapshot.ts';
import { claimValues } from './claim-values.ts';
import { compileRule } from './compiled-rule.ts';
import { isHttpOnly, parseConditionKey } from './condition-key.ts';
import { IpBlockSet, parseIpAddress } from './ip-block.ts';
import { templateMatches } from './path-template.ts';
import { PolicyError } from './policy-error.ts';
import { RequestPrincipalMatcher } from './request-principal.ts';
import { parsePathPattern } from './text-pattern.ts';
import { expandPrincipals, expandTrustDomains, type TrustDomains } from './trust-domain.ts';
import { customProvider, joinNames, type WorkloadPolicyOptions } from './workload-policy.ts';

/** What one rule was asked, in the order of the policies. */
export interface ExplainedStep {
  readonly policy: string;
  readonly action: PolicyEntry['action'];
  readonly dryRun: boolean;
  /** Null: the policy as a whole. */
  readonly rule: number | null;
  readonly matched: boolean;
  /** Why, in words: the first field that did not match, or what made the rule match. */
  readonly because: string;
}

/** A decision and everything that led to it. */
export interface Explanation {
  readonly decision: Decision['verdict'];
  readonly policy: string | null;
  readonly rule: number | null;
  readonly reason: string;
  readonly dryRun: readonly ShadowDecision[];
  /** The provider that is asked before the decision counts; null: none. */
  readonly custom: CustomMatch | null;
  readonly steps: readonly ExplainedStep[];
}

/** What a field was compared with, and how that went. */
interface Verdict {
  readonly matched: boolean;
  readonly because: string;
}

const HOLDS: Verdict = { matched: true, because: '' };

/** Text as a message shows it. */
function shown(text: string): string {
  return text === '' ? 'nothing' : JSON.stringify(text.slice(0, 120));
}

function valueMatches(value: string, text: string): boolean {
  if (text === '') return false;
  if (value === '*') return true;
  if (value.startsWith('*')) return text.endsWith(value.slice(1));
  if (value.endsWith('*')) return text.startsWith(value.slice(0, -1));
  return value === text;
}

/** A field and its not-form: one value must match, and no not-value. */
function field(
  name: string,
  values: readonly string[] | undefined,
  notValues: readonly string[] | undefined,
  actual: string,
  test: (value: string, negated: boolean) => boolean,
): Verdict {
  if (values !== undefined && !values.some((value) => test(value, false))) {
    return { matched: false, because: `${name} is ${actual}, none of ${shown(values.join(', '))}` };
  }
  const excluding = notValues?.find((value) => test(value, true));
  if (excluding !== undefined) return { matched: false, because: `${name} is ${actual}, which ${shown(excluding)} excludes` };
  return HOLDS;
}

/** Reads rules as they are written, one field after the other, for one connection and request. The slow twin of compileWorkloadPolicy. */
class Reader {
  readonly #peer: ConnectionAttributes;
  readonly #request: RequestAttributes | null;
  readonly #domains: TrustDomains;

  constructor(peer: ConnectionAttributes, request: RequestAttributes | null, domains: TrustDomains) {
    this.#peer = peer;
    this.#request = request;
    this.#domains = domains;
  }

  rule(rule: PolicyRule, policy: PolicyEntry): Verdict {
    const refuses = policy.action !== 'ALLOW';
    if (this.#request === null && !refuses) {
      const http = httpField(rule);
      if (http !== null)
        return { matched: false, because: `${http} cannot be asked of a connection that is not HTTP, so this ALLOW rule is void` };
    }
    const namespace = policy.name.slice(0, Math.max(policy.name.indexOf('/'), 0));
    const from = any('from', rule.from, (source) => this.#source(source, namespace, refuses));
    if (!from.matched) return from;
    const to = any('to', rule.to, (operation) => this.#operation(operation, refuses));
    if (!to.matched) return to;
    for (const condition of rule.when) {
      const held = this.#condition(condition, namespace, refuses);
      if (!held.matched) return { matched: false, because: `when: ${held.because}` };
    }
    const dropped = this.#request === null ? httpField(rule) : null;
    return {
      matched: true,
      because: dropped === null ? 'every field matched' : `every field matched, without ${dropped}, which only HTTP has`,
    };
  }

  #source(source: PolicySource, namespace: string, refuses: boolean): Verdict {
    const identity = this.#peer.sourceIdentity;
    const principal = identity?.text.slice('spiffe://'.length) ?? '';
    const ns = identity?.namespace ?? '';
    const account = identity?.serviceAccount ?? '';
    const checks: (() => Verdict)[] = [
      () => this.#principal('principals', source.principals, source.notPrincipals, principal),
      () => field('the namespace', source.namespaces, source.notNamespaces, shown(ns), (value) => valueMatches(value, ns)),
      () => this.#account('the service account', source.serviceAccounts, source.notServiceAccounts, namespace, ns, account),
      () => this.#address('the peer address', source.ipBlocks, source.notIpBlocks, this.#peer.sourceAddress, refuses),
      () => this.#address('the remote address', source.remoteIpBlocks, source.notRemoteIpBlocks, this.#remoteAddress(), refuses),
      () => this.#requestPrincipal(source.requestPrincipals, source.notRequestPrincipals),
    ];
    return all(checks);
  }

  #operation(operation: PolicyOperation, refuses: boolean): Verdict {
    const { ports, notPorts, hosts, notHosts, methods, notMethods, paths, notPaths } = operation;
    const port = String(this.#peer.destinationPort);
    const checks: (() => Verdict)[] = [() => field('the port', ports?.map(String), notPorts?.map(String), port, (value) => value === port)];
    const request = this.#request;
    if (request !== null) {
      const { host, method, path } = request;
      checks.push(
        () => field('the method', methods, notMethods, shown(method), (value) => valueMatches(value, method)),
        () => field('the path', paths, notPaths, shown(path), (value, negated) => pathMatches(value, path, refuses !== negated)),
        () => field('the host', hosts, notHosts, shown(host), (value) => valueMatches(value.toLowerCase(), host)),
      );
    }
    return all(checks);
  }

  #condition({ key: written, values, notValues }: PolicyCondition, namespace: string, refuses: boolean): Verdict {
    const key = parseConditionKey(written);
    const request = this.#request;
    if (request === null && isHttpOnly(key)) return HOLDS;
    const identity = this.#peer.sourceIdentity;
    const oneOf = (texts: readonly string[]): Verdict =>
      field(written, values, notValues, texts.length === 0 ? 'not there' : shown(texts.join(', ')), (value) =>
        texts.some((text) => valueMatches(value, text)),
      );
    switch (key.kind) {
      case 'source.ip':
        return this.#address(written, values, notValues, this.#peer.sourceAddress, refuses);
      case 'destination.ip':
        return this.#address(written, values, notValues, this.#peer.destinationAddress, refuses);
      case 'remote.ip':
        return this.#address(written, values, notValues, this.#remoteAddress(), refuses);
      case 'destination.port':
        return oneOf([String(this.#peer.destinationPort)]);
      case 'source.namespace':
        return oneOf([identity?.namespace ?? '']);
      case 'source.serviceAccount':
        return this.#account(written, values, notValues, namespace, identity?.namespace ?? '', identity?.serviceAccount ?? '');
      case 'source.principal':
        return this.#principal(written, values, notValues, identity?.text.slice('spiffe://'.length) ?? '');
      case 'source.trustDomain': {
        const domain = identity?.trustDomain ?? '';
        const domains = this.#domains;
        return field(written, values, notValues, shown(domain), (value) =>
          expandTrustDomains([value], domains).some((one) => valueMatches(one, domain)),
        );
      }
      case 'connection.sni': {
        const { serverName } = this.#peer;
        if (request === null && serverName === undefined) {
          return { matched: refuses, because: `${written} is not known, and so it ${refuses ? 'may' : 'must not'} be a match` };
        }
        const name = serverName?.toLowerCase() ?? '';
        return field(written, values, notValues, shown(name), (value) => valueMatches(value.toLowerCase(), name));
      }
      case 'request.headers':
        return header(written, key.name, values, notValues, request as RequestAttributes);
      case 'request.auth.principal':
        return this.#requestPrincipal(values, notValues);
      case 'request.auth.audiences':
        return oneOf(request?.jwt?.audiences ?? []);
      case 'request.auth.presenter':
        return oneOf([request?.jwt?.presenter ?? '']);
      case 'request.auth.claims':
        return oneOf(claimValues(request?.jwt ?? null, key.path));
    }
  }

  #remoteAddress(): string {
    return this.#request?.remoteAddress ?? this.#peer.sourceAddress;
  }

  #principal(name: string, values: readonly string[] | undefined, notValues: readonly string[] | undefined, principal: string): Verdict {
    const domains = this.#domains;
    return field(name, values, notValues, shown(principal), (value) =>
      expandPrincipals([value], domains).some((one) => valueMatches(one, principal)),
    );
  }

  #account(
    name: string,
    values: readonly string[] | undefined,
    notValues: readonly string[] | undefined,
    policyNamespace: string,
    namespace: string,
    account: string,
  ): Verdict {
    const actual = namespace === '' || account === '' ? '' : `${namespace}/${account}`;
    return field(
      name,
      values,
      notValues,
      shown(actual),
      (value) => actual === (value.includes('/') ? value : `${policyNamespace}/${value}`),
    );
  }

  #address(
    name: string,
    blocks: readonly string[] | undefined,
    notBlocks: readonly string[] | undefined,
    text: string,
    ifUnknown: boolean,
  ): Verdict {
    if (blocks === undefined && notBlocks === undefined) return HOLDS;
    const address = parseIpAddress(text);
    if (address === null) return { matched: ifUnknown, because: `${name} is no address: ${shown(text)}` };
    return field(name, blocks, notBlocks, text, (block) => new IpBlockSet(name, [block]).has(address));
  }

  #requestPrincipal(values: readonly string[] | undefined, notValues: readonly string[] | undefined): Verdict {
    const request = this.#request;
    if (request === null) return HOLDS;
    const { jwt } = request;
    const actual = jwt === null ? 'not there, without a valid token' : shown(jwt.principal);
    return field('the request principal', values, notValues, actual, (value) => new RequestPrincipalMatcher('', [value]).matches(jwt));
  }
}

function pathMatches(value: string, path: string, wide: boolean): boolean {
  const pattern = parsePathPattern('paths', value, wide);
  return pattern.kind === 'template' ? templateMatches(pattern.template, path) : valueMatches(value, path);
}

function header(
  written: string,
  name: string,
  values: readonly string[] | undefined,
  notValues: readonly string[] | undefined,
  request: RequestAttributes,
): Verdict {
  const isHost = name === 'host' || name === ':authority';
  if (isHost || name === ':method') {
    const text = isHost ? request.host : request.method;
    return field(written, values, notValues, shown(text), (value) => valueMatches(isHost ? value.toLowerCase() : value, text));
  }
  const sent = request.header(name);
  const actual = sent.length === 0 ? 'not there' : shown(sent.join(', '));
  return field(written, values, notValues, actual, (value) =>
    value === '*' ? sent.length > 0 : sent.some((text) => valueMatches(value, text)),
  );
}

function all(checks: readonly (() => Verdict)[]): Verdict {
  for (const check of checks) {
    const held = check();
    if (!held.matched) return held;
  }
  return HOLDS;
}

/** An empty list is no constraint; else one entry must match, and the reason is that of the last that did not. */
function any<Entry>(name: string, entries: readonly Entry[], test: (entry: Entry) => Verdict): Verdict {
  let last = HOLDS;
  for (const [i, entry] of entries.entries()) {
    const held = test(entry);
    if (held.matched) return HOLDS;
    last = { matched: false, because: `${name}[${i}]: ${held.because}` };
  }
  return last;
}

const HTTP_OPERATION_FIELDS = ['hosts', 'notHosts', 'methods', 'notMethods', 'paths', 'notPaths'] as const;

/** The first field of a rule that only an HTTP request answers, by name; null if it has none. */
export function httpField(rule: PolicyRule): string | null {
  for (const source of rule.from) {
    if (source.requestPrincipals !== undefined) return 'requestPrincipals';
    if (source.notRequestPrincipals !== undefined) return 'notRequestPrincipals';
  }
  for (const operation of rule.to) {
    const name = HTTP_OPERATION_FIELDS.find((one) => operation[one] !== undefined);
    if (name !== undefined) return name;
  }
  return rule.when.find(({ key }) => isHttpOnly(parseConditionKey(key)))?.key ?? null;
}

const NOT_COMPILED = Object.freeze({ verdict: 'deny', policy: null, rule: null, reason: '' } as const);

/** Why a rule cannot be compiled; null: it can. */
export function ruleError(rule: PolicyRule, policy: PolicyEntry, domains: TrustDomains): PolicyError | null {
  const namespace = policy.name.slice(0, Math.max(policy.name.indexOf('/'), 0));
  try {
    compileRule(rule, { domains, namespace, refuses: policy.action !== 'ALLOW' }, NOT_COMPILED, NOT_COMPILED, { next: 0 });
    return null;
  } catch (error) {
    return error instanceof PolicyError ? error : new PolicyError('WEFT_POLICY_FIELD', 'malformed', { cause: error });
  }
}

/**
 * Decides as the compiled policies do, slowly, and says of every rule why it matched or did not. For `weft policy explain`, and as the oracle
 * of tests.
 * @param request null: the connection is not HTTP
 */
export function explain(
  policies: readonly PolicyEntry[],
  connection: ConnectionAttributes,
  request: RequestAttributes | null,
  options: WorkloadPolicyOptions,
): Explanation {
  const reader = new Reader(connection, request, options);
  const steps: ExplainedStep[] = [];
  const provider = customProvider(policies, options.providers);
  /** First match of each policy. A rule that cannot be compiled matches if its action refuses. */
  const matches = new Map<PolicyEntry, { readonly rule: number | null; readonly broken: boolean }>();
  let brokenAllow = false;
  for (const policy of policies) {
    const { name, action, dryRun, rules } = policy;
    const step = (rule: number | null, matched: boolean, because: string): void => {
      steps.push({ policy: name, action, dryRun, rule, matched, because });
    };
    if (!['ALLOW', 'DENY', 'AUDIT', 'CUSTOM'].includes(action) || !Array.isArray(rules)) {
      step(null, true, 'its action or its rules cannot be evaluated, so it denies');
      matches.set(policy, { rule: null, broken: true });
      continue;
    }
    if (rules.length === 0) step(null, false, 'it has no rules, and so never matches');
    for (const [index, rule] of rules.entries()) {
      const error = ruleError(rule, policy, options);
      if (error !== null) {
        const closes = action === 'DENY' || action === 'CUSTOM';
        step(index, closes, `it cannot be compiled: ${error.message}`);
        brokenAllow ||= action === 'ALLOW' && !dryRun;
        if (closes && !matches.has(policy)) matches.set(policy, { rule: index, broken: true });
        continue;
      }
      const verdict = reader.rule(rule, policy);
      step(index, verdict.matched, verdict.because);
      if (verdict.matched && !matches.has(policy)) matches.set(policy, { rule: index, broken: false });
    }
  }
  const isBroken = (policy: PolicyEntry): boolean => matches.get(policy)?.broken === true;
  const first = (test: (policy: PolicyEntry) => boolean): PolicyEntry | undefined =>
    policies.find((policy) => matches.has(policy) && test(policy));
  const made = (verdict: Decision['verdict'], policy: PolicyEntry, reason: string): Decision => ({
    verdict,
    policy: policy.name,
    rule: matches.get(policy)?.rule ?? null,
    reason,
  });
  return { ...summary(decide()), dryRun: shadows(), custom: custom(), steps };

  function decide(): Decision {
    const unreadable = first((policy) => isBroken(policy) && matches.get(policy)?.rule === null);
    if (unreadable !== undefined) return made('deny', unreadable, 'the policy could not be compiled');
    const asked = first(({ action, dryRun }) => action === 'CUSTOM' && !dryRun);
    if (asked !== undefined && isBroken(asked)) return made('deny', asked, 'a CUSTOM rule could not be compiled');
    if (asked !== undefined && provider instanceof PolicyError)
      return made('deny', asked, 'matched a CUSTOM rule whose provider cannot be asked');
    if (asked !== undefined && request === null) {
      return made('deny', asked, 'a CUSTOM rule matches a connection that is not HTTP, which no provider can be asked about');
    }
    const denied = first(({ action, dryRun }) => action === 'DENY' && !dryRun);
    if (denied !== undefined) return made('deny', denied, isBroken(denied) ? 'a DENY rule could not be compiled' : denyReason(denied));
    const allows = policies.filter(({ action, dryRun }) => action === 'ALLOW' && !dryRun);
    if (allows.length === 0) {
      return {
        verdict: 'allow',
        policy: null,
        rule: null,
        reason: policies.length === 0 ? 'no policy applies' : 'no ALLOW policy applies',
      };
    }
    const allowed = first(({ action, dryRun }) => action === 'ALLOW' && !dryRun);
    if (allowed !== undefined) return made('allow', allowed, 'matched an ALLOW rule');
    const reason = brokenAllow ? 'no ALLOW rule matched; some could not be compiled' : 'no ALLOW rule matched';
    return { verdict: 'deny', policy: joinNames(allows.map(({ name }) => name)), rule: null, reason };
  }

  function denyReason(policy: PolicyEntry): string {
    const rule = policy.rules[matches.get(policy)?.rule ?? -1];
    const dropped = request === null && rule !== undefined && httpField(rule) !== null;
    return dropped ? 'matched a DENY rule, without its HTTP fields' : 'matched a DENY rule';
  }

  function custom(): CustomMatch | null {
    if (request === null) return null;
    const matching = (dry: boolean): PolicyEntry | undefined =>
      first((policy) => policy.action === 'CUSTOM' && policy.dryRun === dry && matches.get(policy)?.broken === false);
    const asked = (provider instanceof PolicyError ? undefined : matching(false)) ?? matching(true);
    if (asked === undefined) return null;
    return { policy: asked.name, rule: matches.get(asked)?.rule ?? 0, provider: asked.provider ?? '', dryRun: asked.dryRun };
  }

  function shadows(): ShadowDecision[] {
    const found: ShadowDecision[] = [];
    for (const [policy, { rule, broken }] of matches) {
      const { name, action, dryRun } = policy;
      if (rule === null) continue;
      if (action === 'AUDIT') found.push({ policy: name, rule, effect: 'audit', reason: 'matched an AUDIT rule' });
      else if (action === 'DENY' && dryRun) {
        found.push({ policy: name, rule, effect: 'deny', reason: broken ? 'a DENY rule could not be compiled' : 'matched a DENY rule' });
      }
    }
    const allows = policies.filter(({ action }) => action === 'ALLOW');
    if (allows.length > 0 && allows.every((policy) => policy.dryRun && !matches.has(policy))) {
      const policy = joinNames(allows.map(({ name }) => name));
      found.push({ policy, rule: null, effect: 'deny', reason: 'would be denied because no dry-run allow matched' });
    }
    return found;
  }
}

function summary({ verdict, policy, rule, reason }: Decision): Pick<Explanation, 'decision' | 'policy' | 'rule' | 'reason'> {
  return { decision: verdict, policy, rule, reason };
}
