import type { RequestAttributes } from '../../src/model/policy.ts';
import type { PolicyCondition } from '../../src/model/resources.ts';
import { AddressMatcher } from './address-matcher.ts';
import { claimValues } from './claim-values.ts';
import { type ConditionKey, isHttpOnly, parseConditionKey } from './condition-key.ts';
import type { ConnectionFacts } from './connection-facts.ts';
import { checkFields, type FieldNames } from './field-names.ts';
import { portSet } from './operation-matcher.ts';
import type { RuleContext } from './policy-context.ts';
import { PolicyError } from './policy-error.ts';
import { RequestPrincipalMatcher } from './request-principal.ts';
import { principalMatcher, serviceAccountMatcher } from './source-matcher.ts';
import { checkValues, TextMatcher } from './text-matcher.ts';
import { expandTrustDomains } from './trust-domain.ts';

const FIELDS: FieldNames<PolicyCondition> = { key: true, values: true, notValues: true };

/** A condition that the connection decides. */
export interface ConnectionCondition {
  readonly kind: 'connection';
  readonly address: { readonly side: 'source' | 'destination'; readonly matcher: AddressMatcher } | null;
  /** Ports that it names, or none. */
  readonly ports: Iterable<number>;
  readonly asksServerName: boolean;
  matches(connection: ConnectionFacts): boolean;
  /** The same for a connection that is not HTTP. */
  matchesTcp(connection: ConnectionFacts): boolean;
}

/** A condition that each request decides. */
export interface RequestCondition {
  readonly kind: 'request';
  readonly httpOnly: boolean;
  /** For remote.ip: where a connection is not HTTP, its peer's own address is the remote one. */
  readonly remote: AddressMatcher | null;
  matches(request: RequestAttributes): boolean;
}

const NO_PORTS: readonly number[] = [];

interface Pair<Matcher> {
  readonly positive: Matcher | null;
  readonly negative: Matcher | null;
}

function pair<Matcher>(condition: PolicyCondition, make: (field: string, values: readonly string[]) => Matcher): Pair<Matcher> {
  return {
    positive: condition.values === undefined ? null : make(`values of ${condition.key}`, condition.values),
    negative: condition.notValues === undefined ? null : make(`notValues of ${condition.key}`, condition.notValues),
  };
}

/** On texts: NOT over a missing one, the empty text, is true. */
function holds({ positive, negative }: Pair<TextMatcher>, text: string): boolean {
  return (positive === null || positive.matches(text)) && !negative?.matches(text);
}

function anyMatches(matcher: TextMatcher, texts: readonly string[]): boolean {
  for (let i = 0; i < texts.length; i++) {
    if (matcher.matches(texts[i] as string)) return true;
  }
  return false;
}

function anyHolds({ positive, negative }: Pair<TextMatcher>, texts: readonly string[]): boolean {
  if (positive !== null && !anyMatches(positive, texts)) return false;
  return negative === null || !anyMatches(negative, texts);
}

function onText(matchers: Pair<TextMatcher>, text: (connection: ConnectionFacts) => string): ConnectionCondition {
  const matches = (connection: ConnectionFacts): boolean => holds(matchers, text(connection));
  return { kind: 'connection', address: null, ports: NO_PORTS, asksServerName: false, matches, matchesTcp: matches };
}

function onAddress(side: 'source' | 'destination', matcher: AddressMatcher): ConnectionCondition {
  const matches = (connection: ConnectionFacts): boolean =>
    matcher.matches(side === 'source' ? connection.sourceAddress() : connection.destinationAddress());
  return { kind: 'connection', address: { side, matcher }, ports: NO_PORTS, asksServerName: false, matches, matchesTcp: matches };
}

function onPort({ positive, negative }: Pair<ReadonlySet<number>>): ConnectionCondition {
  const matches = ({ destinationPort }: ConnectionFacts): boolean =>
    (positive === null || positive.has(destinationPort)) && !negative?.has(destinationPort);
  const ports = [...(positive ?? []), ...(negative ?? [])];
  return { kind: 'connection', address: null, ports, asksServerName: false, matches, matchesTcp: matches };
}

function onServerName(matchers: Pair<TextMatcher>, refuses: boolean): ConnectionCondition {
  const matches = ({ serverName }: ConnectionFacts): boolean => holds(matchers, serverName);
  return {
    kind: 'connection',
    address: null,
    ports: NO_PORTS,
    asksServerName: true,
    matches,
    // Where nobody has looked for a name, it may be any: nothing may be allowed for it, and no DENY got around.
    matchesTcp: (connection) => (connection.serverNameKnown ? matches(connection) : refuses),
  };
}

function onRequest(matches: (request: RequestAttributes) => boolean, httpOnly: boolean): RequestCondition {
  return { kind: 'request', httpOnly, remote: null, matches };
}

function parsePorts(field: string, values: readonly string[]): ReadonlySet<number> {
  checkValues(field, values);
  return portSet(
    field,
    values.map((value) => (/^[1-9]\d{0,4}$/.test(value) ? Number(value) : (value as unknown as number))),
  );
}

/** A header as Envoy has it: value by value, and "*" asks only that it is there, even if it is empty. */
class HeaderTest {
  readonly #present: boolean;
  readonly #texts: TextMatcher | null;

  constructor(field: string, values: readonly string[], caseInsensitive: boolean) {
    checkValues(field, values);
    this.#present = values.includes('*');
    const texts = values.filter((value) => value !== '*');
    this.#texts = texts.length === 0 ? null : new TextMatcher(field, texts, caseInsensitive);
  }

  matches(texts: readonly string[]): boolean {
    if (this.#present && texts.length > 0) return true;
    return this.#texts !== null && anyMatches(this.#texts, texts);
  }

  matchesOne(text: string): boolean {
    if (text === '') return false;
    return this.#present || this.#texts?.matches(text) === true;
  }
}

function onHeader(name: string, { positive, negative }: Pair<HeaderTest>): RequestCondition {
  if (name === 'host' || name === ':authority' || name === ':method') {
    const text = ({ host, method }: RequestAttributes): string => (name === ':method' ? method : host);
    return onRequest((request) => (positive === null || positive.matchesOne(text(request))) && !negative?.matchesOne(text(request)), true);
  }
  return onRequest((request) => {
    const values = request.header(name);
    return (positive === null || positive.matches(values)) && !negative?.matches(values);
  }, true);
}

/**
 * Compiles one entry of `when`.
 * @throws PolicyError WEFT_POLICY_CONDITION, _FIELD, _VALUE or _ADDRESS
 */
export function compileCondition(condition: PolicyCondition, context: RuleContext): ConnectionCondition | RequestCondition {
  checkFields('condition', condition, FIELDS);
  const key = parseConditionKey(condition.key);
  if (condition.values === undefined && condition.notValues === undefined) {
    throw new PolicyError('WEFT_POLICY_VALUE', `the condition ${condition.key} has neither values nor notValues`, {
      nextStep: 'give values, notValues or both',
    });
  }
  return compileKey(key, condition, context);
}

function compileKey(key: ConditionKey, condition: PolicyCondition, context: RuleContext): ConnectionCondition | RequestCondition {
  const texts = (): Pair<TextMatcher> => pair(condition, (field, values) => new TextMatcher(field, values));
  const addresses = (): AddressMatcher =>
    new AddressMatcher(
      `values of ${condition.key}`,
      condition.values,
      `notValues of ${condition.key}`,
      condition.notValues,
      context.refuses,
    );
  switch (key.kind) {
    case 'source.ip':
      return onAddress('source', addresses());
    case 'destination.ip':
      return onAddress('destination', addresses());
    case 'remote.ip': {
      const remote = addresses();
      return { kind: 'request', httpOnly: false, remote, matches: (request) => remote.matchesText(request.remoteAddress) };
    }
    case 'source.namespace':
      return onText(texts(), (connection) => connection.namespace);
    case 'source.principal':
      return onText(
        pair(condition, (field, values) => principalMatcher(field, values, context.domains)),
        (connection) => connection.principal,
      );
    case 'source.serviceAccount':
      return onText(
        pair(condition, (field, values) => serviceAccountMatcher(field, values, context.namespace)),
        (connection) => connection.serviceAccount,
      );
    case 'source.trustDomain':
      return onText(
        pair(condition, (field, values) => {
          checkValues(field, values);
          return new TextMatcher(field, expandTrustDomains(values, context.domains));
        }),
        (connection) => connection.trustDomain,
      );
    case 'destination.port':
      return onPort(pair(condition, parsePorts));
    case 'connection.sni':
      return onServerName(
        pair(condition, (field, values) => new TextMatcher(field, values, true)),
        context.refuses,
      );
    case 'request.headers': {
      const caseInsensitive = key.name === 'host' || key.name === ':authority';
      return onHeader(
        key.name,
        pair(condition, (field, values) => new HeaderTest(field, values, caseInsensitive)),
      );
    }
    case 'request.auth.principal': {
      const { positive, negative } = pair(condition, (field, values) => new RequestPrincipalMatcher(field, values));
      return onRequest(({ jwt }) => (positive === null || positive.matches(jwt)) && !negative?.matches(jwt), isHttpOnly(key));
    }
    case 'request.auth.audiences': {
      const matchers = texts();
      return onRequest(({ jwt }) => anyHolds(matchers, jwt?.audiences ?? []), true);
    }
    case 'request.auth.presenter': {
      const matchers = texts();
      return onRequest(({ jwt }) => holds(matchers, jwt?.presenter ?? ''), true);
    }
    case 'request.auth.claims': {
      const matchers = texts();
      const { path } = key;
      return onRequest(({ jwt }) => anyHolds(matchers, claimValues(jwt, path)), true);
    }
  }
}
