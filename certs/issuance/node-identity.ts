import { parseSpiffeId, type SpiffeId } from '../../src/model/identity.ts';

const NODE_PATH = /^\/node\/([^/]+)$/;

/** The identity of a node's agent: `spiffe://<trust domain>/node/<name>`. No workload has such a path. */
export function nodeIdentity(trustDomain: string, node: string): SpiffeId {
  return parseSpiffeId(`spiffe://${trustDomain}/node/${node}`);
}

/** The name of the node with this identity, or null when it is nobody's node. */
export function nodeNameOf(identity: SpiffeId): string | null {
  return NODE_PATH.exec(identity.path)?.[1] ?? null;
}

/** The identity that the issuance service shows: `spiffe://<trust domain>/weft-ca`. */
export function issuanceIdentity(trustDomain: string): SpiffeId {
  return parseSpiffeId(`spiffe://${trustDomain}/weft-ca`);
}
