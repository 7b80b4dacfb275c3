import type { ConnectionAttributes } from '../../src/model/policy.ts';
import type { PolicySource } from '../../src/model/resources.ts';
import { type IpAddress, IpBlockSet, parseIpAddress } from './ip-block.ts';
import { PolicyError } from './policy-error.ts';
import { checkFields, type FieldNames } from './field-names.ts';
import { TextMatcher } from './text-matcher.ts';

const SCHEME = 'spiffe://';

const FIELDS: FieldNames<PolicySource> = {
  principals: true,
  notPrincipals: true,
  namespaces: true,
  notNamespaces: true,
  serviceAccounts: true,
  notServiceAccounts: true,
  ipBlocks: true,
  notIpBlocks: true,
};

/** The peer of a connection in the words of the matchers. A missing attribute is the empty text, which matches no value. */
export interface PeerFacts {
  /** The SPIFFE ID without its scheme, as principals are written. */
  readonly principal: string;
  readonly namespace: string;
  /** `<namespace>/<service account>`. */
  readonly serviceAccount: string;
  /** Parsed when first asked for: few policies do. Null when it is no address: then no rule about addresses may decide in the peer's favour. */
  readonly address: () => IpAddress | null;
}

/** Takes from a connection what the source matchers ask. */
export function peerFacts(connection: ConnectionAttributes): PeerFacts {
  const identity = connection.sourceIdentity;
  const namespace = identity?.namespace ?? '';
  const account = identity?.serviceAccount ?? '';
  let address: IpAddress | null | undefined;
  return {
    principal: identity?.text.startsWith(SCHEME) ? identity.text.slice(SCHEME.length) : '',
    namespace,
    serviceAccount: namespace === '' || account === '' ? '' : `${namespace}/${account}`,
    address: () => (address === undefined ? (address = parseIpAddress(connection.sourceAddress)) : address),
  };
}

/** Service accounts are matched by equality alone, and always with their namespace. */
function serviceAccountMatcher(field: string, values: readonly string[]): TextMatcher {
  const matcher = new TextMatcher(field, values);
  for (const value of values) {
    const parts = value.split('/');
    if (value.includes('*') || parts.length !== 2 || parts[0] === '' || parts[1] === '') {
      throw new PolicyError(
        'WEFT_POLICY_VALUE',
        `${field} has a value that is not a service account: ${JSON.stringify(value.slice(0, 80))}`,
        {
          nextStep: 'write <namespace>/<service account>, without wildcards',
        },
      );
    }
  }
  return matcher;
}

/** One entry of a rule's `from`: all fields must hold. */
export class SourceMatcher {
  readonly #principals: TextMatcher | null;
  readonly #notPrincipals: TextMatcher | null;
  readonly #namespaces: TextMatcher | null;
  readonly #notNamespaces: TextMatcher | null;
  readonly #serviceAccounts: TextMatcher | null;
  readonly #notServiceAccounts: TextMatcher | null;
  readonly #ipBlocks: IpBlockSet | null;
  readonly #notIpBlocks: IpBlockSet | null;
  readonly #ifAddressUnknown: boolean;

  /** @throws PolicyError WEFT_POLICY_FIELD, _VALUE or _ADDRESS */
  constructor(source: PolicySource, action: 'ALLOW' | 'DENY') {
    checkFields('source', source, FIELDS);
    const text = (field: keyof PolicySource): TextMatcher | null =>
      source[field] === undefined ? null : new TextMatcher(field, source[field]);
    const accounts = (field: 'serviceAccounts' | 'notServiceAccounts'): TextMatcher | null =>
      source[field] === undefined ? null : serviceAccountMatcher(field, source[field]);
    const blocks = (field: 'ipBlocks' | 'notIpBlocks'): IpBlockSet | null =>
      source[field] === undefined ? null : new IpBlockSet(field, source[field]);
    this.#principals = text('principals');
    this.#notPrincipals = text('notPrincipals');
    this.#namespaces = text('namespaces');
    this.#notNamespaces = text('notNamespaces');
    this.#serviceAccounts = accounts('serviceAccounts');
    this.#notServiceAccounts = accounts('notServiceAccounts');
    this.#ipBlocks = blocks('ipBlocks');
    this.#notIpBlocks = blocks('notIpBlocks');
    this.#ifAddressUnknown = action === 'DENY';
  }

  matches(peer: PeerFacts): boolean {
    if (this.#principals !== null && !this.#principals.matches(peer.principal)) return false;
    // NOT over a missing attribute is true: a peer without identity is not one of the named.
    if (this.#notPrincipals?.matches(peer.principal)) return false;
    if (this.#namespaces !== null && !this.#namespaces.matches(peer.namespace)) return false;
    if (this.#notNamespaces?.matches(peer.namespace)) return false;
    if (this.#serviceAccounts !== null && !this.#serviceAccounts.matches(peer.serviceAccount)) return false;
    if (this.#notServiceAccounts?.matches(peer.serviceAccount)) return false;
    if (this.#ipBlocks === null && this.#notIpBlocks === null) return true;
    const address = peer.address();
    if (address === null) return this.#ifAddressUnknown;
    if (this.#ipBlocks !== null && !this.#ipBlocks.has(address)) return false;
    return !this.#notIpBlocks?.has(address);
  }
}
