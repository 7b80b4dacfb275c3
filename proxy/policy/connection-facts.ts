import type { ConnectionAttributes } from '../../src/model/policy.ts';
import { type IpAddress, parseIpAddress } from './ip-block.ts';

const SCHEME = 'spiffe://';

/** A connection in the words of the matchers. A missing attribute is the empty text, which matches no value. */
export interface ConnectionFacts {
  /** The SPIFFE ID without its scheme, as principals are written. */
  readonly principal: string;
  readonly trustDomain: string;
  readonly namespace: string;
  /** `<namespace>/<service account>`. */
  readonly serviceAccount: string;
  /** Parsed when first asked for: few policies do. Null when it is no address: then no rule about addresses may decide in the peer's favour. */
  readonly sourceAddress: () => IpAddress | null;
  readonly destinationAddress: () => IpAddress | null;
  readonly destinationPort: number;
  /** Lower case; '' where there is none. */
  readonly serverName: string;
  /** False if nobody has looked for a server name yet. */
  readonly serverNameKnown: boolean;
}

function parsedOnce(text: string): () => IpAddress | null {
  let address: IpAddress | null | undefined;
  return () => (address === undefined ? (address = parseIpAddress(text)) : address);
}

/** Takes from a connection what the matchers ask. */
export function connectionFacts(connection: ConnectionAttributes): ConnectionFacts {
  const identity = connection.sourceIdentity;
  const namespace = identity?.namespace ?? '';
  const account = identity?.serviceAccount ?? '';
  return {
    principal: identity?.text.startsWith(SCHEME) ? identity.text.slice(SCHEME.length) : '',
    trustDomain: identity?.trustDomain ?? '',
    namespace,
    serviceAccount: namespace === '' || account === '' ? '' : `${namespace}/${account}`,
    sourceAddress: parsedOnce(connection.sourceAddress),
    destinationAddress: parsedOnce(connection.destinationAddress),
    destinationPort: connection.destinationPort,
    serverName: connection.serverName?.toLowerCase() ?? '',
    serverNameKnown: connection.serverName !== undefined,
  };
}
