import type { Metadata as CallMetadata } from '../../src/grpc/metadata.ts';
import { errorText } from '../../src/model/errors.ts';
import { parseSpiffeId, type SpiffeId } from '../../src/model/identity.ts';
import type { Placements } from '../../src/model/placements.ts';
import { CertsError } from '../errors.ts';
import type { IssuingAuthority } from './issuing-authority.ts';
import { nodeNameOf } from './node-identity.ts';

/** Whose connection it is, as far as TLS has proven it. */
export interface IssuancePeer {
  /** Canonical text. */
  readonly address: string;
  /** Of its verified SVID; null when it showed none. */
  readonly identity: SpiffeId | null;
  /** When that SVID begins to be valid, and when it expires, in milliseconds since the epoch. */
  readonly validFrom: number | null;
  readonly expiresAt: number | null;
}

/** A node whose identity is proven. */
export interface Caller {
  readonly node: string;
  /** `svid`: by its own SVID. `token`: by a join token that stays valid. `one-time-token`: by one that is spent with `redeem`. */
  readonly by: 'svid' | 'token' | 'one-time-token';
  /** What its token grants: namespaces in which `weft run` there may start workloads. Null: it showed none. */
  readonly grantedNamespaces: readonly string[] | null;
  /**
   * Uses its token up, before it gets what it has shown it for; nothing when it showed none.
   * @throws CertsError WEFT_CERTS_CALLER_UNKNOWN when somebody else has done so meanwhile
   */
  readonly redeem: () => Promise<void>;
}

/** One way to prove who calls. Null: the call carries nothing of this kind. */
export type CallerAuthenticator = (peer: IssuancePeer, metadata: CallMetadata) => Promise<Caller | null>;

const BEARER = /^Bearer ([\x21-\x7e]{1,4096})$/i;

/**
 * By the SVID of the TLS connection.
 * @throws CertsError WEFT_CERTS_CALLER_REFUSED when it is not that of a node
 */
export const byNodeSvid: CallerAuthenticator = async ({ identity }) => {
  if (identity === null) return null;
  const node = nodeNameOf(identity);
  if (node === null) throw refused(`${identity.text} is no node`);
  return { node, by: 'svid', grantedNamespaces: null, redeem: async () => {} };
};

/** By `authorization: Bearer <join token>`. */
export function byJoinToken(tokens: IssuingAuthority['tokens']): CallerAuthenticator {
  return async (_peer, metadata) => {
    const fields = metadata.all('authorization');
    if (fields.length === 0) return null;
    const token = fields.length === 1 ? BEARER.exec(fields[0] as string)?.[1] : undefined;
    if (token === undefined) throw unknown('its authorization is no bearer token');
    const { node, reusable, namespaces } = await tokens.find(token).catch(refusedToken);
    return {
      node,
      by: reusable ? 'token' : 'one-time-token',
      grantedNamespaces: namespaces,
      redeem: async () => void (await tokens.redeem(token).catch(refusedToken)),
    };
  };
}

/**
 * The first authenticator that knows the call decides.
 * @throws CertsError WEFT_CERTS_CALLER_UNKNOWN when nothing proves who calls, WEFT_CERTS_CALLER_REFUSED when it is not a node
 */
export async function authenticate(
  authenticators: readonly CallerAuthenticator[],
  peer: IssuancePeer,
  metadata: CallMetadata,
): Promise<Caller> {
  for (const authenticator of authenticators) {
    const caller = await authenticator(peer, metadata);
    if (caller !== null) return caller;
  }
  throw unknown('it showed neither the SVID of a node nor a join token');
}

/**
 * Whether a node may have the identity of a workload: only one of its own trust domain that runs there, so that a node that is taken over
 * can be nobody but those it serves (Istio's rule for ImpersonatedIdentity, security/pkg/server/ca/node_auth.go).
 * @param rule `namespaces`: those that the node was granted when it joined, for workloads that no configuration has (`weft run`)
 * @throws CertsError WEFT_CERTS_CALLER_REFUSED with the reason
 */
export function authoriseImpersonation(
  caller: Caller,
  requested: string,
  rule: { readonly trustDomain: string; readonly placements: Placements; readonly namespaces: readonly string[] },
): SpiffeId {
  // It is spent on the node's own SVID, or on nothing.
  if (caller.by === 'one-time-token')
    throw refused(`${caller.node} asked for a workload's identity with a one-time token, before it joined`);
  let identity: SpiffeId;
  try {
    identity = parseSpiffeId(requested);
  } catch (cause) {
    throw refused(`${caller.node} asked for ${errorText(cause)}`, cause);
  }
  if (identity.trustDomain !== rule.trustDomain) throw refused(`${caller.node} asked for ${identity.text}, of another trust domain`);
  if (identity.namespace === null) throw refused(`${caller.node} asked for ${identity.text}, which is no workload's identity`);
  const isGranted = (caller.grantedNamespaces ?? rule.namespaces).includes(identity.namespace);
  if (!isGranted && !rule.placements.runsOn(caller.node, identity.text)) {
    throw refused(`${caller.node} asked for ${identity.text}, and no workload with it runs there`);
  }
  return identity;
}

function refusedToken(cause: unknown): never {
  if (!(cause instanceof CertsError) || cause.code !== 'WEFT_CERTS_TOKEN') throw cause;
  throw unknown(`its join token is refused: ${errorText(cause)}`, cause);
}

function unknown(message: string, cause?: unknown): CertsError {
  return new CertsError('WEFT_CERTS_CALLER_UNKNOWN', message, { cause, nextStep: 'join with a new token of `weft ca token`' });
}

function refused(message: string, cause?: unknown): CertsError {
  return new CertsError('WEFT_CERTS_CALLER_REFUSED', message, {
    cause,
    nextStep: 'check `spec.node` and the mode of the workload in the configuration of the authority',
  });
}
