import type { Socket } from 'node:net';
import type { SecureContext } from 'node:tls';
import type { SpiffeId } from './identity.ts';

/** What the data plane is handed, so that it runs and is tested without root and without a kernel. */

/** Where a captured connection wanted to go, as the kernel recorded it at connect(). */
export interface OriginalDestination {
  /** Canonical text: an IPv4-mapped address is given as IPv4. */
  readonly address: string;
  readonly port: number;
  /** The workload that called connect(), attested by the kernel (netns cookie or cgroup id). */
  readonly workloadId: number;
}

/** Reads what `cgroup/connect4|6` and `sockops` recorded. */
export interface OriginalDestinations {
  /** The record of an accepted leg, or null when the kernel captured no such connection (somebody dialled the listener: drop it). */
  find(leg: Socket, workloadId: number): OriginalDestination | null;
}

export interface DialRequest {
  /** The local workload in whose network namespace the socket is made. */
  readonly workloadId: number;
  readonly address: string;
  readonly port: number;
  /** For a leg to an application: what its getpeername() and accept() shall say. Null: the truth. */
  readonly presentedPeer: { readonly address: string; readonly port: number } | null;
}

/** Makes outgoing sockets inside a workload's network namespace, known to the hooks as the agent's own. */
export interface Dialer {
  /**
   * Returns a connecting socket: 'connect' or 'error' follows.
   * @throws WeftError when the socket cannot be made (namespace gone, out of descriptors)
   */
  dial(request: DialRequest): Socket;
}

/** An X.509-SVID with its key, ready for TLS. */
export interface SvidMaterial {
  /** SPIFFE ID text. */
  readonly identity: string;
  /** PEM, leaf first, then intermediates. */
  readonly certificateChain: string;
  /**
   * PKCS#8 DER, in memory that all threads share: one copy, which is overwritten with zeros once the SVID is replaced or forgotten and
   * every thread knows. Whoever needs it longer than one turn of the event loop looks the SVID up again.
   */
  readonly privateKey: Uint8Array;
  /** Milliseconds since the epoch. */
  readonly notAfter: number;
}

/** The trust bundle of one trust domain. */
export interface TrustBundle {
  readonly trustDomain: string;
  /** DER. */
  readonly roots: readonly Uint8Array[];
  /**
   * CA keys through which no chain is valid any more, roots and intermediates: the lower-case hexadecimal SHA-256 of each one's
   * SubjectPublicKeyInfo.
   */
  readonly revokedKeys: readonly string[];
  /** Grows with each change; part of every TLS session cache key. */
  readonly sequence: number;
}

/** SVIDs and bundles for the workloads of this node. */
export interface IdentitySource {
  /** The SVID of an identity now, or null when there is none (yet). */
  current(identity: string): SvidMaterial | null;
  /**
   * The SVID of an identity, waiting for a first one.
   * @throws IdentityError WEFT_IDENTITY_UNAVAILABLE after `timeoutMs`
   */
  wait(identity: string, timeoutMs: number): Promise<SvidMaterial>;
  bundle(trustDomain: string): TrustBundle | null;
  /** Called after any SVID or bundle changed. Returns the unsubscribe function. */
  onChange(listener: () => void): () => void;
}

/** Checks a peer's certificates, whatever the TLS layer has checked before. */
export interface PeerVerifier {
  /**
   * X509-SVID.md section 5.2 on DER certificates, leaf first: exactly one URI SAN, workload path, key usages, validity, and a chain
   * that ends in a root of the leaf's own trust domain. On a resumed session Node shows a server the peer's leaf, and a client nothing:
   * a client that resumes must keep the chain beside the session, and verify that again.
   * @param at the time at which the chain has to be valid, in milliseconds since the epoch; default: now. The bundle is always that of now.
   * @throws IdentityError WEFT_IDENTITY_PEER_* with the reason
   */
  verify(chain: readonly Uint8Array[], at?: number): SpiffeId;
  /**
   * The chain to verify when there is a leaf alone, as a server has on a resumed session: with the intermediates through which the last
   * leaf of the same issuer was verified; the leaf by itself when none were needed, or none are known. Says nothing about trust.
   */
  complete(leaf: Uint8Array): readonly Uint8Array[];
}

/**
 * TLS key material of local identities for the tunnel, both roles: key, certificate chain, roots, TLS 1.3 and the cipher list.
 * The other options of a handshake (ALPN, client certificate asked for) are the tunnel's own, and so is calling PeerVerifier
 * in 'secureConnection' and 'secureConnect'.
 */
export interface TlsContexts {
  /** The context of an identity now, or null when it has no valid SVID (yet). The same object until the SVID or a bundle changes. */
  context(identity: string): SecureContext | null;
  /**
   * The context of an identity, waiting for its first SVID.
   * @throws IdentityError WEFT_IDENTITY_UNAVAILABLE after `timeoutMs`
   */
  wait(identity: string, timeoutMs: number): Promise<SecureContext>;
  /** The certificates that a context shows, DER, leaf first. Empty for a context that was not made here. */
  chainOf(context: SecureContext): readonly Uint8Array[];
  /** Grows when any SVID or bundle changed: part of the key of every TLS session cache. */
  readonly generation: number;
}
