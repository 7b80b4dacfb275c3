import type { RequestAttributes } from '../../src/model/policy.ts';
import type { PolicySource } from '../../src/model/resources.ts';
import { AddressMatcher } from './address-matcher.ts';
import type { ConnectionFacts } from './connection-facts.ts';
import { checkFields, type FieldNames } from './field-names.ts';
import { PolicyError } from './policy-error.ts';
import type { RuleContext } from './policy-context.ts';
import { RequestPrincipalMatcher } from './request-principal.ts';
import { TextMatcher } from './text-matcher.ts';
import { expandPrincipals } from './trust-domain.ts';

const FIELDS: FieldNames<PolicySource> = {
  principals: true,
  notPrincipals: true,
  namespaces: true,
  notNamespaces: true,
  serviceAccounts: true,
  notServiceAccounts: true,
  ipBlocks: true,
  notIpBlocks: true,
  requestPrincipals: true,
  notRequestPrincipals: true,
  remoteIpBlocks: true,
  notRemoteIpBlocks: true,
};

/**
 * Service accounts with their namespaces: they are matched by equality alone.
 * @throws PolicyError WEFT_POLICY_VALUE
 */
export function serviceAccountMatcher(field: string, values: readonly string[], namespace: string): TextMatcher {
  const whole = values.map((value) => (typeof value !== 'string' || value === '' || value.includes('/') ? value : `${namespace}/${value}`));
  const matcher = new TextMatcher(field, whole);
  for (const value of whole) {
    const parts = value.split('/');
    if (value.includes('*') || parts.length !== 2 || parts[0] === '' || parts[1] === '') {
      throw new PolicyError(
        'WEFT_POLICY_VALUE',
        `${field} has a value that is not a service account: ${JSON.stringify(value.slice(0, 80))}`,
        { nextStep: 'write <namespace>/<service account>, without wildcards' },
      );
    }
  }
  return matcher;
}

/** The part of a source that each request answers. */
export class RequestSourceMatcher {
  readonly #principals: RequestPrincipalMatcher | null;
  readonly #notPrincipals: RequestPrincipalMatcher | null;
  /** Null: no remoteIpBlocks. Where a connection is not HTTP, its peer's own address is the remote one. */
  readonly remote: AddressMatcher | null;

  constructor(principals: RequestPrincipalMatcher | null, notPrincipals: RequestPrincipalMatcher | null, remote: AddressMatcher | null) {
    this.#principals = principals;
    this.#notPrincipals = notPrincipals;
    this.remote = remote;
  }

  matches(request: RequestAttributes): boolean {
    if (this.#principals !== null && !this.#principals.matches(request.jwt)) return false;
    if (this.#notPrincipals?.matches(request.jwt)) return false;
    return this.remote === null || this.remote.matchesText(request.remoteAddress);
  }
}

/** Values that a source's peer must have one of, for an index; null if it may match others. */
export interface SourceKeys {
  readonly field: 'principals' | 'namespaces' | 'serviceAccounts';
  readonly values: readonly string[];
}

/** One entry of a rule's `from`: all fields must hold. */
export class SourceMatcher {
  readonly #principals: TextMatcher | null;
  readonly #notPrincipals: TextMatcher | null;
  readonly #namespaces: TextMatcher | null;
  readonly #notNamespaces: TextMatcher | null;
  readonly #serviceAccounts: TextMatcher | null;
  readonly #notServiceAccounts: TextMatcher | null;
  readonly address: AddressMatcher | null;
  /** What requests have to be asked; null: nothing. */
  readonly request: RequestSourceMatcher | null;
  /** True if any field asks something that only an HTTP request can answer. */
  readonly hasHttpFields: boolean;
  readonly keys: SourceKeys | null;

  /** @throws PolicyError WEFT_POLICY_FIELD, _VALUE or _ADDRESS */
  constructor(source: PolicySource, { domains, namespace, refuses }: RuleContext) {
    checkFields('source', source, FIELDS);
    const text = (field: 'namespaces' | 'notNamespaces'): TextMatcher | null =>
      source[field] === undefined ? null : new TextMatcher(field, source[field]);
    const principals = (field: 'principals' | 'notPrincipals'): TextMatcher | null =>
      source[field] === undefined ? null : principalMatcher(field, source[field], domains);
    const accounts = (field: 'serviceAccounts' | 'notServiceAccounts'): TextMatcher | null =>
      source[field] === undefined ? null : serviceAccountMatcher(field, source[field], namespace);
    const requestPrincipals = (field: 'requestPrincipals' | 'notRequestPrincipals'): RequestPrincipalMatcher | null =>
      source[field] === undefined ? null : new RequestPrincipalMatcher(field, source[field]);
    const addresses = (field: 'ipBlocks' | 'remoteIpBlocks', notField: 'notIpBlocks' | 'notRemoteIpBlocks'): AddressMatcher | null =>
      source[field] === undefined && source[notField] === undefined
        ? null
        : new AddressMatcher(field, source[field], notField, source[notField], refuses);
    this.#principals = principals('principals');
    this.#notPrincipals = principals('notPrincipals');
    this.#namespaces = text('namespaces');
    this.#notNamespaces = text('notNamespaces');
    this.#serviceAccounts = accounts('serviceAccounts');
    this.#notServiceAccounts = accounts('notServiceAccounts');
    this.address = addresses('ipBlocks', 'notIpBlocks');
    const asked = requestPrincipals('requestPrincipals');
    const notAsked = requestPrincipals('notRequestPrincipals');
    const remote = addresses('remoteIpBlocks', 'notRemoteIpBlocks');
    this.hasHttpFields = asked !== null || notAsked !== null;
    this.request = this.hasHttpFields || remote !== null ? new RequestSourceMatcher(asked, notAsked, remote) : null;
    this.keys =
      exactKeys('principals', this.#principals) ??
      exactKeys('serviceAccounts', this.#serviceAccounts) ??
      exactKeys('namespaces', this.#namespaces);
  }

  /** The part that the connection decides. */
  matches(peer: ConnectionFacts): boolean {
    if (this.#principals !== null && !this.#principals.matches(peer.principal)) return false;
    // NOT over a missing attribute is true: a peer without identity is not one of the named.
    if (this.#notPrincipals?.matches(peer.principal)) return false;
    if (this.#namespaces !== null && !this.#namespaces.matches(peer.namespace)) return false;
    if (this.#notNamespaces?.matches(peer.namespace)) return false;
    if (this.#serviceAccounts !== null && !this.#serviceAccounts.matches(peer.serviceAccount)) return false;
    if (this.#notServiceAccounts?.matches(peer.serviceAccount)) return false;
    return this.address === null || this.address.matches(peer.sourceAddress());
  }

  /** The same for a connection that is not HTTP: what only a request could answer is left out. */
  matchesTcp(peer: ConnectionFacts): boolean {
    if (!this.matches(peer)) return false;
    const remote = this.request === null ? null : this.request.remote;
    return remote === null || remote.matches(peer.sourceAddress());
  }
}

/** Principals with their trust domains' aliases. */
export function principalMatcher(field: string, values: readonly string[], domains: RuleContext['domains']): TextMatcher {
  // Checked as written first: the expansion needs texts.
  const written = new TextMatcher(field, values);
  const expanded = expandPrincipals(values, domains);
  return expanded.length === values.length && expanded.every((value, i) => value === values[i])
    ? written
    : new TextMatcher(field, expanded);
}

function exactKeys(field: SourceKeys['field'], matcher: TextMatcher | null): SourceKeys | null {
  const beginnings = matcher === null ? null : matcher.beginnings;
  return beginnings === null || beginnings.prefixes.length > 0 ? null : { field, values: [...beginnings.exact] };
}
