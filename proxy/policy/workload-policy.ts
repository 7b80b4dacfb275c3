import type { ConnectionAttributes, ConnectionPolicy, Decision, RequestAttributes, WorkloadPolicy } from '../../src/model/policy.ts';
import type { PolicyRule } from '../../src/model/resources.ts';
import type { PolicyEntry } from '../../src/model/snapshot.ts';
import { checkFields, type FieldNames } from './field-names.ts';
import { type IndexedOperation, OperationIndex, type OperationSelection } from './operation-index.ts';
import { OperationMatcher } from './operation-matcher.ts';
import { PolicyError } from './policy-error.ts';
import { type PeerFacts, peerFacts, SourceMatcher } from './source-matcher.ts';

/** A workload's policies, with what could not be compiled. Errors never open anything: they are for status and logs. */
export interface CompiledWorkloadPolicy extends WorkloadPolicy {
  readonly errors: readonly PolicyError[];
}

const RULE_FIELDS: FieldNames<PolicyRule> = { from: true, to: true };

/** How long the list of policy names in a refusal may get. */
const MAX_NAMES_LENGTH = 200;

const NO_POLICY: Decision = Object.freeze({ verdict: 'allow', policy: null, rule: null, reason: 'no policy applies' });
const NO_ALLOW_POLICY: Decision = Object.freeze({ verdict: 'allow', policy: null, rule: null, reason: 'no ALLOW policy applies' });

function decision(verdict: Decision['verdict'], policy: string | null, rule: number | null, reason: string): Decision {
  return Object.freeze({ verdict, policy, rule, reason });
}

/** One rule, compiled. Its decisions are made here, once. */
interface Rule {
  /** Empty: any peer. */
  readonly sources: readonly SourceMatcher[];
  /** Operations without HTTP fields. */
  readonly portOperations: readonly OperationMatcher[];
  /** Operations that ask each request. */
  readonly httpOperations: readonly IndexedOperation[];
  /** True for a rule that constrains no operation. */
  readonly anyOperation: boolean;
  readonly decision: Decision;
  /** The decision where the connection is not HTTP and the rule has HTTP fields. Null for an ALLOW rule: then it never matches. */
  readonly tcpDecision: Decision | null;
}

function fromAnySource(rule: Rule, peer: PeerFacts): boolean {
  if (rule.sources.length === 0) return true;
  for (const source of rule.sources) {
    if (source.matches(peer)) return true;
  }
  return false;
}

function decidedByPort(rule: Rule, port: number): boolean {
  if (rule.anyOperation) return true;
  for (const operation of rule.portOperations) {
    if (operation.matchesPort(port)) return true;
  }
  return false;
}

/** Collects the rules of one action in the order of policies and rules. */
class RuleSet {
  readonly rules: Rule[] = [];
  readonly operations: IndexedOperation[] = [];

  add(policy: string, index: number, rule: PolicyRule, action: 'ALLOW' | 'DENY'): void {
    if (!Array.isArray(rule.from) || !Array.isArray(rule.to)) {
      throw new PolicyError('WEFT_POLICY_FIELD', 'a rule has no list of sources or operations', { nextStep: 'write from and to as lists' });
    }
    checkFields('rule', rule, RULE_FIELDS);
    const made =
      action === 'ALLOW'
        ? decision('allow', policy, index, 'matched an ALLOW rule')
        : decision('deny', policy, index, 'matched a DENY rule');
    const sources = rule.from.map((source) => new SourceMatcher(source, action));
    const matchers = rule.to.map((operation) => new OperationMatcher(operation));
    const http = matchers.filter((matcher) => matcher.hasHttpFields);
    const first = this.operations.length;
    const httpOperations = http.map((matcher, i) => ({ order: first + i, matcher, decision: made }));
    for (const operation of httpOperations) this.operations.push(operation);
    this.rules.push({
      sources,
      portOperations: matchers.filter((matcher) => !matcher.hasHttpFields),
      httpOperations,
      anyOperation: matchers.length === 0,
      decision: made,
      tcpDecision: action === 'DENY' ? decision('deny', policy, index, 'matched a DENY rule, without its HTTP fields') : null,
    });
  }

  /** A rule that matches everything, for what could not be compiled. */
  addEverything(made: Decision): void {
    this.rules.push({ sources: [], portOperations: [], httpOperations: [], anyOperation: true, decision: made, tcpDecision: made });
  }
}

/** What a connection leaves of the rules of one action. */
interface Remainder {
  /** Of the first rule that the connection alone matches. */
  decided: Decision | null;
  /** Of the first rule that matches a connection that is not HTTP. */
  tcp: Decision | null;
  /** The operations that each request has to be asked about. */
  readonly open: IndexedOperation[];
}

function evaluate(rules: readonly Rule[], peer: PeerFacts, port: number): Remainder {
  const remainder: Remainder = { decided: null, tcp: null, open: [] };
  for (const rule of rules) {
    if (!fromAnySource(rule, peer)) continue;
    if (decidedByPort(rule, port)) {
      remainder.decided ??= rule.decision;
      remainder.tcp ??= rule.httpOperations.length === 0 ? rule.decision : rule.tcpDecision;
      continue;
    }
    for (const operation of rule.httpOperations) {
      if (!operation.matcher.matchesPort(port)) continue;
      remainder.tcp ??= rule.tcpDecision;
      remainder.open.push(operation);
    }
  }
  return remainder;
}

/** A connection whose every request has the same answer. */
class FixedPolicy implements ConnectionPolicy {
  readonly scope: 'allow' | 'deny';
  readonly tcp: Decision;
  readonly #decision: Decision;

  constructor(made: Decision, tcp: Decision) {
    this.scope = made.verdict;
    this.tcp = tcp;
    this.#decision = made;
  }

  request(_attributes: RequestAttributes): Decision {
    return this.#decision;
  }
}

/** A connection whose requests are asked one by one. */
class RequestPolicy implements ConnectionPolicy {
  readonly scope = 'request';
  readonly tcp: Decision;
  readonly #denies: OperationSelection;
  readonly #allows: OperationSelection | null;
  readonly #otherwise: Decision;

  /** @param allows null when `otherwise` is all that is left after the DENY rules */
  constructor(tcp: Decision, denies: OperationSelection, allows: OperationSelection | null, otherwise: Decision) {
    this.tcp = tcp;
    this.#denies = denies;
    this.#allows = allows;
    this.#otherwise = otherwise;
  }

  request(attributes: RequestAttributes): Decision {
    const denied = this.#denies.find(attributes);
    if (denied !== null) return denied;
    const allowed = this.#allows === null ? null : this.#allows.find(attributes);
    return allowed === null ? this.#otherwise : allowed;
  }
}

/** `name`, or several names in one bounded text. */
function joinNames(names: readonly string[]): string {
  let text = '';
  for (const [i, name] of names.entries()) {
    const next = text === '' ? name : `${text}, ${name}`;
    if (i > 0 && next.length > MAX_NAMES_LENGTH) return `${text} and ${names.length - i} more`;
    text = next;
  }
  return text;
}

class CompiledPolicies implements CompiledWorkloadPolicy {
  readonly errors: readonly PolicyError[];
  readonly #denies: readonly Rule[];
  readonly #allows: readonly Rule[];
  readonly #denyIndex: OperationIndex;
  readonly #allowIndex: OperationIndex;
  /** What is left when neither a DENY nor an ALLOW rule matched. */
  readonly #otherwise: Decision;

  constructor(denies: RuleSet, allows: RuleSet, otherwise: Decision, errors: readonly PolicyError[]) {
    this.errors = errors;
    this.#denies = denies.rules;
    this.#allows = allows.rules;
    this.#denyIndex = new OperationIndex(denies.operations);
    this.#allowIndex = new OperationIndex(allows.operations);
    this.#otherwise = otherwise;
  }

  bind(connection: ConnectionAttributes): ConnectionPolicy {
    const peer = peerFacts(connection);
    const port = connection.destinationPort;
    const denies = evaluate(this.#denies, peer, port);
    if (denies.decided !== null) return new FixedPolicy(denies.decided, denies.decided);
    const allows = evaluate(this.#allows, peer, port);
    const answer = allows.decided ?? this.#otherwise;
    const tcp = denies.tcp ?? allows.tcp ?? this.#otherwise;
    const asksAllow = allows.decided === null && allows.open.length > 0;
    // Where nothing can be allowed any more, no DENY rule needs to be asked.
    const asksDeny = denies.open.length > 0 && (asksAllow || answer.verdict === 'allow');
    // The scope promises one verdict for whatever the connection carries, HTTP or not.
    if (!asksAllow && !asksDeny && answer.verdict === tcp.verdict) return new FixedPolicy(answer, tcp);
    return new RequestPolicy(tcp, this.#denyIndex.select(denies.open), asksAllow ? this.#allowIndex.select(allows.open) : null, answer);
  }
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

/**
 * Compiles the AuthorizationPolicies of one workload, with Istio's meaning and order: a DENY rule that matches denies; then, if no ALLOW
 * policy applies, the answer is allow; then an ALLOW rule that matches allows; all else is denied. A policy without rules never matches;
 * a rule with empty `from` and `to` always does.
 *
 * On a connection that is not HTTP an ALLOW rule with any HTTP field (hosts, methods, paths, or their not-forms) never matches, and a DENY
 * rule counts without those fields. So a DENY of HTTP fields alone denies all such traffic; it never silently has no effect.
 *
 * Nothing is thrown for bad content. A rule that cannot be compiled fails closed by itself: a DENY rule then denies everything, an ALLOW
 * rule allows nothing, and `errors` says why. A policy whose action or rules cannot be read denies everything.
 */
export function compileWorkloadPolicy(policies: readonly PolicyEntry[]): CompiledWorkloadPolicy {
  const denies = new RuleSet();
  const allows = new RuleSet();
  const allowNames: string[] = [];
  const errors: PolicyError[] = [];
  let allowIsIncomplete = false;
  for (const { name, action, rules } of policies) {
    if ((action !== 'ALLOW' && action !== 'DENY') || !Array.isArray(rules)) {
      errors.push(
        new PolicyError('WEFT_POLICY_ACTION', `${name}: its action or its rules cannot be evaluated`, {
          nextStep: 'use action ALLOW or DENY with a list of rules',
        }),
      );
      denies.addEverything(decision('deny', name, null, 'the policy could not be compiled'));
      continue;
    }
    if (action === 'ALLOW') allowNames.push(name);
    for (const [index, rule] of rules.entries()) {
      try {
        (action === 'ALLOW' ? allows : denies).add(name, index, rule, action);
      } catch (cause) {
        errors.push(compileError(name, index, cause));
        if (action === 'DENY') denies.addEverything(decision('deny', name, index, 'a DENY rule could not be compiled'));
        else allowIsIncomplete = true;
      }
    }
  }
  const noMatch = allowIsIncomplete ? 'no ALLOW rule matched; some could not be compiled' : 'no ALLOW rule matched';
  let otherwise: Decision;
  if (allowNames.length > 0) otherwise = decision('deny', joinNames(allowNames), null, noMatch);
  else otherwise = policies.length === 0 ? NO_POLICY : NO_ALLOW_POLICY;
  return new CompiledPolicies(denies, allows, otherwise, errors);
}
