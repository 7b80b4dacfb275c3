import type { SvidMaterial } from '../src/model/data-plane.ts';
import type { SpiffeBundle, TrustState } from './bundle/trust-state.ts';

/** A JWT-SVID (JWT-SVID.md) of one workload. */
export interface JwtSvid {
  /** SPIFFE ID text: its `sub`. */
  readonly identity: string;
  /** JWS in compact form. A bearer token: never logged. */
  readonly token: string;
  /** Milliseconds since the epoch. */
  readonly issuedAt: number;
  readonly expiresAt: number;
}

/** What a provider says of what is held: good; replaced, with another to be had; or taken back, not to be used any more. */
export type SvidStanding = 'current' | 'replaced' | 'withdrawn';

/** For status and metrics. */
export interface IdentityProviderStatus {
  /** `authority`: our own in this process. `remote`: our own on another host. `spire`: an upstream SPIRE agent. */
  readonly kind: 'authority' | 'remote' | 'spire';
  /** Where: a directory, `host:port`, or a socket. */
  readonly from: string;
  /** Null while it can be reached. */
  readonly problem: string | null;
  /** How far this node's clock is ahead of the provider's, in seconds; null: not measured. */
  readonly clockSkewSeconds: number | null;
}

/**
 * Where the identities of one node's workloads come from. The agent has exactly one: the authority in its own process, a remote authority,
 * or SPIRE. Disposing of it ends its connections and timers.
 */
export interface IdentityProvider extends AsyncDisposable {
  /**
   * A new X.509-SVID, with a new key, for a workload of this node.
   * @throws CertsError or IdentityError with the reason; the caller backs off and asks again
   */
  x509Svid(identity: string, ttlSeconds: number): Promise<SvidMaterial>;
  /**
   * A new JWT-SVID for a workload of this node.
   * @throws CertsError or IdentityError with the reason
   */
  jwtSvid(identity: string, audience: readonly string[]): Promise<JwtSvid>;
  /**
   * SPIRE gives, replaces and withdraws SVIDs by itself; with an authority of ours the node asks, and taint and revocation are in `trust()`.
   * @param held the SVID that is in use; null: none, and `replaced` says that there is one now
   */
  standing(identity: string, held: SvidMaterial | null): SvidStanding;
  /** The trust domain's state now; null until it is known, and where the provider says that this node may not know it any more. */
  trust(): TrustState | null;
  /** Bundles of other trust domains that the provider itself federates with (SPIRE does). Ours has none: the agent fetches them. */
  federatedBundles(): readonly SpiffeBundle[];
  /** Calls back after `trust()` or `federatedBundles()` changed, or after the SVID of an identity should be asked for anew. Returns the unsubscribe function. */
  onChange(listener: () => void): () => void;
  /** This node, all of its threads, verifies with the trust state of this sequence from now on. */
  acknowledge(sequence: bigint): void;
  status(): IdentityProviderStatus;
}
