import type { RequestAttributes } from '../../src/model/policy.ts';
import type { PolicyOperation } from '../../src/model/resources.ts';
import { checkFields, type FieldNames } from './field-names.ts';
import { PolicyError } from './policy-error.ts';
import { TextMatcher } from './text-matcher.ts';

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

function portSet(field: string, ports: readonly number[] | undefined): ReadonlySet<number> | null {
  if (ports === undefined) return null;
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

/** Path templates (`{*}`, `{**}`) have a meaning of their own: as plain text they would match something else than their author meant. */
function pathMatcher(field: string, values: readonly string[] | undefined): TextMatcher | null {
  if (values === undefined) return null;
  const matcher = new TextMatcher(field, values);
  const template = values.find((value) => value.includes('{*}') || value.includes('{**}'));
  if (template !== undefined) {
    throw new PolicyError('WEFT_POLICY_TEMPLATE', `${field} has a path template: ${JSON.stringify(template.slice(0, 80))}`, {
      nextStep: 'use exact, prefix or suffix paths; templates are not evaluated yet',
    });
  }
  return matcher;
}

/** One entry of a rule's `to`: all fields must hold. Ports are decided by the connection, the rest by each request. */
export class OperationMatcher {
  readonly #ports: ReadonlySet<number> | null;
  readonly #notPorts: ReadonlySet<number> | null;
  readonly #hosts: TextMatcher | null;
  readonly #notHosts: TextMatcher | null;
  readonly #methods: TextMatcher | null;
  readonly #notMethods: TextMatcher | null;
  readonly #paths: TextMatcher | null;
  readonly #notPaths: TextMatcher | null;
  /** True if any field asks something that only an HTTP request can answer. */
  readonly hasHttpFields: boolean;
  /** The paths and beginnings of paths it can be found by; null when it has to be tried for every path. */
  readonly pathBeginnings: TextMatcher['beginnings'];

  /** @throws PolicyError WEFT_POLICY_FIELD, _VALUE or _TEMPLATE */
  constructor(operation: PolicyOperation) {
    checkFields('operation', operation, FIELDS);
    const text = (field: 'hosts' | 'notHosts' | 'methods' | 'notMethods', caseInsensitive: boolean): TextMatcher | null =>
      operation[field] === undefined ? null : new TextMatcher(field, operation[field], caseInsensitive);
    this.#ports = portSet('ports', operation.ports);
    this.#notPorts = portSet('notPorts', operation.notPorts);
    this.#hosts = text('hosts', true);
    this.#notHosts = text('notHosts', true);
    this.#methods = text('methods', false);
    this.#notMethods = text('notMethods', false);
    this.#paths = pathMatcher('paths', operation.paths);
    this.#notPaths = pathMatcher('notPaths', operation.notPaths);
    this.pathBeginnings = this.#paths === null ? null : this.#paths.beginnings;
    this.hasHttpFields =
      this.#hosts !== null ||
      this.#notHosts !== null ||
      this.#methods !== null ||
      this.#notMethods !== null ||
      this.#paths !== null ||
      this.#notPaths !== null;
  }

  /** The part that the connection decides. */
  matchesPort(port: number): boolean {
    if (this.#ports !== null && !this.#ports.has(port)) return false;
    return !this.#notPorts?.has(port);
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
