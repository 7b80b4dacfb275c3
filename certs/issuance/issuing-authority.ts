import type { IssuedSvid, IssueRequest } from '../authority/certificate-authority.ts';
import type { TrustState } from '../bundle/trust-state.ts';
import type { JwtSvid } from '../identity-provider.ts';

/** What a join token says once it is accepted. */
export interface RedeemedToken {
  /** The node that it was made for. */
  readonly node: string;
  /** It may be used again, which is for a ztunnel: that has no other credential. */
  readonly reusable: boolean;
}

/** What is known of a node that calls. */
export interface NodeSighting {
  readonly name: string;
  /** The sequence of the trust state that it verifies with; null: none yet. */
  readonly acknowledged: bigint | null;
  /** When its own SVID expires, in milliseconds since the epoch. */
  readonly svidExpiresAt?: number;
  /** How far its clock is ahead of ours. */
  readonly clockSkewSeconds?: number;
}

/** The part of the certificate authority that issuing for nodes needs. */
export interface IssuingAuthority {
  readonly trustDomain: string;
  /** @throws CertsError or IdentityError with what is wrong with the request */
  issue(csr: Uint8Array, request: IssueRequest): Promise<IssuedSvid>;
  issueJwt(request: { readonly identity: string; readonly audience: readonly string[]; readonly ttlSeconds?: number }): Promise<JwtSvid>;
  trust(): TrustState;
  /** Returns the unsubscribe function. */
  onChange(listener: () => void): () => void;
  nodeSeen(node: NodeSighting): void;
  /** May workloads of this namespace that no configuration has (`weft run`) get identities on this node? */
  mayRun(node: string, namespace: string): boolean;
  readonly tokens: {
    /** Consumes it, unless it is reusable. @throws CertsError with the reason */
    redeem(token: string): Promise<RedeemedToken>;
  };
}
