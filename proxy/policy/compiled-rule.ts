import type { Decision, RequestAttributes } from '../../src/model/policy.ts';
import type { PolicyRule } from '../../src/model/resources.ts';
import type { AddressMatcher } from './address-matcher.ts';
import { compileCondition, type ConnectionCondition, type RequestCondition } from './condition-matcher.ts';
import type { ConnectionFacts } from './connection-facts.ts';
import { checkFields, type FieldNames } from './field-names.ts';
import { OperationMatcher } from './operation-matcher.ts';
import type { RuleContext } from './policy-context.ts';
import { PolicyError } from './policy-error.ts';
import { type RequestSourceMatcher, SourceMatcher } from './source-matcher.ts';

/** What a rule asks a request besides method, path and host. */
export class RequestConditions {
  /** One of these must hold; null: the connection has answered for the source. */
  readonly #sources: readonly RequestSourceMatcher[] | null;
  readonly #conditions: readonly RequestCondition[];

  constructor(sources: readonly RequestSourceMatcher[] | null, conditions: readonly RequestCondition[]) {
    this.#sources = sources;
    this.#conditions = conditions;
  }

  hold(request: RequestAttributes): boolean {
    const conditions = this.#conditions;
    for (let i = 0; i < conditions.length; i++) {
      if (!(conditions[i] as RequestCondition).matches(request)) return false;
    }
    const sources = this.#sources;
    if (sources === null) return true;
    for (let i = 0; i < sources.length; i++) {
      if ((sources[i] as RequestSourceMatcher).matches(request)) return true;
    }
    return false;
  }
}

/** What a connection left open of a rule: one operation, to be asked for each request. One object for connections of one kind. */
export interface OpenOperation {
  /** Unique among those of one workload's policies. */
  readonly id: number;
  /** Null: any operation. */
  readonly matcher: OperationMatcher | null;
  readonly conditions: RequestConditions | null;
  readonly decision: Decision;
}

/** Counts operations of one workload's policies. */
export interface IdSource {
  next: number;
}

/** What a connection makes of a rule: it does not match, it matches whatever is requested, or these operations are open. */
export type RuleOutcome = 'never' | 'always' | readonly OpenOperation[];

const RULE_FIELDS: FieldNames<PolicyRule> = { from: true, to: true, when: true };
/** Connections differ in which of a rule's sources they match; of so many kinds the open operations are kept. */
const MAX_KINDS = 64;

/**
 * Compiles a rule.
 * @param tcpDecision its decision on a connection that is not HTTP, if it has fields that only HTTP answers and refuses
 * @throws PolicyError for content that cannot be evaluated
 */
export function compileRule(
  rule: PolicyRule,
  context: RuleContext,
  decision: Decision,
  tcpDecision: Decision,
  ids: IdSource,
): CompiledRule {
  return new CompiledRule(rule, context, decision, tcpDecision, ids);
}

/** One rule, compiled. Its decisions are made once. */
export class CompiledRule {
  readonly decision: Decision;
  readonly sources: readonly SourceMatcher[];
  readonly operations: readonly OperationMatcher[];
  readonly connectionConditions: readonly ConnectionCondition[];
  readonly requestConditions: readonly RequestCondition[];
  /** True if any field asks something that only an HTTP request can answer. */
  readonly hasHttpFields: boolean;
  readonly #refuses: boolean;
  readonly #tcpDecision: Decision;
  readonly #ids: IdSource;
  /** Made when first needed: there may be very many rules. */
  #openBySources: Map<string, readonly OpenOperation[]> | null = null;
  #wholeBySources: Map<string, OpenOperation> | null = null;
  readonly #hasPorts: boolean;

  /** Made by compileRule(). */
  constructor(rule: PolicyRule, context: RuleContext, decision: Decision, tcpDecision: Decision, ids: IdSource) {
    if (!Array.isArray(rule.from) || !Array.isArray(rule.to) || !Array.isArray(rule.when)) {
      throw new PolicyError('WEFT_POLICY_FIELD', 'a rule has no list of sources, operations or conditions', {
        nextStep: 'write from, to and when as lists',
      });
    }
    checkFields('rule', rule, RULE_FIELDS);
    this.decision = decision;
    this.#tcpDecision = tcpDecision;
    this.#refuses = context.refuses;
    this.#ids = ids;
    this.sources = rule.from.map((source) => new SourceMatcher(source, context));
    this.operations = rule.to.map((operation) => new OperationMatcher(operation, context.refuses));
    const conditions = rule.when.map((condition) => compileCondition(condition, context));
    this.connectionConditions = conditions.filter((condition) => condition.kind === 'connection');
    this.requestConditions = conditions.filter((condition) => condition.kind === 'request');
    this.#hasPorts = this.operations.some(({ ports, notPorts }) => ports !== null || notPorts !== null);
    this.hasHttpFields =
      this.sources.some((source) => source.hasHttpFields) ||
      this.operations.some((operation) => operation.hasHttpFields) ||
      this.requestConditions.some((condition) => condition.httpOnly);
  }

  /** What is left to ask HTTP requests of a connection. */
  bind(connection: ConnectionFacts): RuleOutcome {
    for (const condition of this.connectionConditions) {
      if (!condition.matches(connection)) return 'never';
    }
    let asked: RequestSourceMatcher[] | null = null;
    let key = '';
    let matched = this.sources.length === 0;
    for (const [i, source] of this.sources.entries()) {
      if (!source.matches(connection)) continue;
      matched = true;
      if (source.request === null) {
        asked = null;
        key = '';
        break;
      }
      asked = asked === null ? [source.request] : [...asked, source.request];
      key += `${i},`;
    }
    if (!matched) return 'never';
    const port = connection.destinationPort;
    const anyOperation = this.operations.length === 0 || this.operations.some((one) => !one.hasHttpFields && one.matchesPort(port));
    if (anyOperation) {
      if (asked === null && this.requestConditions.length === 0) return 'always';
      return [this.#whole(key, asked)];
    }
    const open = this.#open(key, asked);
    return this.#hasPorts ? open.filter(({ matcher }) => matcher === null || matcher.matchesPort(port)) : open;
  }

  #conditions(asked: readonly RequestSourceMatcher[] | null): RequestConditions | null {
    return asked === null && this.requestConditions.length === 0 ? null : new RequestConditions(asked, this.requestConditions);
  }

  #whole(key: string, asked: readonly RequestSourceMatcher[] | null): OpenOperation {
    this.#wholeBySources ??= new Map();
    let whole = this.#wholeBySources.get(key);
    if (whole === undefined) {
      whole = { id: this.#ids.next++, matcher: null, conditions: this.#conditions(asked), decision: this.decision };
      if (this.#wholeBySources.size < MAX_KINDS) this.#wholeBySources.set(key, whole);
    }
    return whole;
  }

  #open(key: string, asked: readonly RequestSourceMatcher[] | null): readonly OpenOperation[] {
    this.#openBySources ??= new Map();
    let open = this.#openBySources.get(key);
    if (open === undefined) {
      const conditions = this.#conditions(asked);
      open = this.operations
        .filter((operation) => operation.hasHttpFields)
        .map((matcher) => ({ id: this.#ids.next++, matcher, conditions, decision: this.decision }));
      if (this.#openBySources.size < MAX_KINDS) this.#openBySources.set(key, open);
    }
    return open;
  }

  /**
   * The decision for a connection that is not HTTP, or null: a rule that allows is void if it has HTTP fields, one that refuses does
   * without them.
   */
  tcp(connection: ConnectionFacts): Decision | null {
    if (this.hasHttpFields && !this.#refuses) return null;
    for (const condition of this.connectionConditions) {
      if (!condition.matchesTcp(connection)) return null;
    }
    for (const { remote } of this.requestConditions) {
      if (remote !== null && !remote.matches(connection.sourceAddress())) return null;
    }
    if (this.sources.length > 0 && !this.sources.some((source) => source.matchesTcp(connection))) return null;
    const port = connection.destinationPort;
    if (this.operations.length > 0 && !this.operations.some((operation) => operation.matchesPort(port))) return null;
    return this.hasHttpFields ? this.#tcpDecision : this.decision;
  }

  /** Everything that looks at the addresses of a connection. */
  *addresses(): IterableIterator<{ readonly side: 'source' | 'destination'; readonly matcher: AddressMatcher }> {
    for (const { address, request } of this.sources) {
      if (address !== null) yield { side: 'source', matcher: address };
      if (request !== null && request.remote !== null) yield { side: 'source', matcher: request.remote };
    }
    for (const { address } of this.connectionConditions) {
      if (address !== null) yield address;
    }
    for (const { remote } of this.requestConditions) {
      if (remote !== null) yield { side: 'source', matcher: remote };
    }
  }

  /** Every port that it names. */
  *ports(): IterableIterator<number> {
    for (const { ports, notPorts } of this.operations) {
      yield* ports ?? [];
      yield* notPorts ?? [];
    }
    for (const { ports } of this.connectionConditions) yield* ports;
  }
}
