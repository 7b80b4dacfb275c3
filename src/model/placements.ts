/** Who runs where, for whoever decides which identities a node may have. */
export interface Placements {
  /** True when a workload that is in the mesh and has this identity (SPIFFE ID text) runs on this node. */
  runsOn(node: string, identity: string): boolean;
}
