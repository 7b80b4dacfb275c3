import type { RequestAttributes } from '../../src/model/policy.ts';
import type { PolicyOperation } from '../../src/model/resources.ts';
import { checkFields, type FieldNames } from './field-names.ts';
import { type PathTemplate, templateMatches } from './path-template.ts';
import { PolicyError } from './policy-error.ts';
import { checkValues, TextMatcher } from './text-matcher.ts';
import { parsePathPattern, parseTextPattern, type TextPattern } from './text-pattern.ts';

const FIELDS: FieldNames<PolicyOperation> = {
  hosts: true,
  notHosts: true,
  ports: true,
  notPorts: true,
  methods: true,
  notMethods: true,
  paths: true,
  notPaths: true,
};

/** The values of an operation's HTTP fields taken apart, for a decision table. Null: the field is not there. */
export interface OperationPatterns {
  readonly methods: readonly TextPattern[] | null;
  readonly notMethods: readonly TextPattern[] | null;
  readonly paths: readonly TextPattern[] | null;
  readonly notPaths: readonly TextPattern[] | null;
  /** Lower case. */
  readonly hosts: readonly TextPattern[] | null;
  readonly notHosts: readonly TextPattern[] | null;
}

/**
 * The ports of a field.
 * @throws PolicyError WEFT_POLICY_VALUE
 */
export function portSet(field: string, ports: readonly number[]): ReadonlySet<number> {
  if (!Array.isArray(ports) || ports.length === 0) {
    throw new PolicyError('WEFT_POLICY_VALUE', `${field} has no values`, { nextStep: `give ${field} at least one port, or leave it out` });
  }
  for (const port of ports) {
    if (!Number.isInteger(port) || port < 1 || port > 65_535) {
      throw new PolicyError('WEFT_POLICY_VALUE', `${field} has a value that is not a port: ${JSON.stringify(port)}`, {
        nextStep: 'write a number from 1 to 65535',
      });
    }
  }
  return new Set(ports);
}

/** Values of a path field: texts as everywhere, and templates. */
class PathMatcher {
  readonly #texts: TextMatcher | null;
  readonly #templates: readonly PathTemplate[];

  constructor(field: string, values: readonly string[], patterns: readonly TextPattern[]) {
    const texts = values.filter((_, i) => (patterns[i] as TextPattern).kind !== 'template');
    this.#texts = texts.length === 0 ? null : new TextMatcher(field, texts);
    this.#templates = patterns.filter((pattern) => pattern.kind === 'template').map(({ template }) => template);
  }

  matches(path: string): boolean {
    if (this.#texts?.matches(path)) return true;
    const templates = this.#templates;
    for (let i = 0; i < templates.length; i++) {
      if (templateMatches(templates[i] as PathTemplate, path)) return true;
    }
    return false;
  }

  get beginnings(): TextMatcher['beginnings'] {
    return this.#templates.length > 0 || this.#texts === null ? null : this.#texts.beginnings;
  }
}

/** One entry of a rule's `to`: all fields must hold. Ports are decided by the connection, the rest by each request. */
export class OperationMatcher {
  readonly ports: ReadonlySet<number> | null;
  readonly notPorts: ReadonlySet<number> | null;
  readonly #hosts: TextMatcher | null;
  readonly #notHosts: TextMatcher | null;
  readonly #methods: TextMatcher | null;
  readonly #notMethods: TextMatcher | null;
  readonly #paths: PathMatcher | null;
  readonly #notPaths: PathMatcher | null;
  /** True if any field asks something that only an HTTP request can answer. */
  readonly hasHttpFields: boolean;
  /** The paths and beginnings of paths it can be found by; null when it has to be tried for every path. */
  readonly pathBeginnings: TextMatcher['beginnings'];
  readonly patterns: OperationPatterns;

  /**
   * @param refuses true if a match leads to a refusal: then templates are read wide (see PathTemplate)
   * @throws PolicyError WEFT_POLICY_FIELD, _VALUE or _TEMPLATE
   */
  constructor(operation: PolicyOperation, refuses: boolean) {
    checkFields('operation', operation, FIELDS);
    const text = (field: 'hosts' | 'notHosts' | 'methods' | 'notMethods', caseInsensitive: boolean): TextMatcher | null =>
      operation[field] === undefined ? null : new TextMatcher(field, operation[field], caseInsensitive);
    const texts = (field: 'hosts' | 'notHosts' | 'methods' | 'notMethods'): TextPattern[] | null =>
      operation[field]?.map((value) => parseTextPattern(field.endsWith('osts') ? value.toLowerCase() : value)) ?? null;
    const paths = (field: 'paths' | 'notPaths', wide: boolean): TextPattern[] | null => {
      if (operation[field] === undefined) return null;
      checkValues(field, operation[field]);
      return operation[field].map((value) => parsePathPattern(field, value, wide));
    };
    this.ports = operation.ports === undefined ? null : portSet('ports', operation.ports);
    this.notPorts = operation.notPorts === undefined ? null : portSet('notPorts', operation.notPorts);
    this.#hosts = text('hosts', true);
    this.#notHosts = text('notHosts', true);
    this.#methods = text('methods', false);
    this.#notMethods = text('notMethods', false);
    this.patterns = {
      methods: texts('methods'),
      notMethods: texts('notMethods'),
      paths: paths('paths', refuses),
      notPaths: paths('notPaths', !refuses),
      hosts: texts('hosts'),
      notHosts: texts('notHosts'),
    };
    const { paths: asked, notPaths: excluded } = this.patterns;
    this.#paths = asked === null ? null : new PathMatcher('paths', operation.paths as readonly string[], asked);
    this.#notPaths = excluded === null ? null : new PathMatcher('notPaths', operation.notPaths as readonly string[], excluded);
    this.pathBeginnings = this.#paths === null ? null : this.#paths.beginnings;
    this.hasHttpFields = Object.values(this.patterns).some((patterns) => patterns !== null);
  }

  /** The part that the connection decides. */
  matchesPort(port: number): boolean {
    if (this.ports !== null && !this.ports.has(port)) return false;
    return !this.notPorts?.has(port);
  }

  /** The part that each request decides. Allocates nothing. */
  matchesRequest(request: RequestAttributes): boolean {
    if (this.#paths !== null && !this.#paths.matches(request.path)) return false;
    return this.matchesBesidesPaths(request);
  }

  /** The same for a request that is known to match `paths`. */
  matchesBesidesPaths(request: RequestAttributes): boolean {
    if (this.#methods !== null && !this.#methods.matches(request.method)) return false;
    if (this.#notMethods?.matches(request.method)) return false;
    if (this.#notPaths?.matches(request.path)) return false;
    if (this.#hosts !== null && !this.#hosts.matches(request.host)) return false;
    return !this.#notHosts?.matches(request.host);
  }
}
