import { hash } from 'node:crypto';
import type { PeerVerifier } from '../../src/model/data-plane.ts';
import { TunnelError } from './tunnel-error.ts';

/** How long one slice of a look at all tunnels may hold up the event loop, in milliseconds. */
const SLICE_MS = 5;

/** An open tunnel, as far as its certificates go. */
export interface WatchedTunnel {
  /** DER, leaf first: the peer's chain, and our own. */
  readonly peerChain: readonly Uint8Array[];
  readonly ownChain: readonly Uint8Array[];
  /** When the chains were verified, in milliseconds since the epoch. */
  readonly verifiedAt: number;
  /** Ends it at once. Called at most once. */
  readonly end: (error: TunnelError) => void;
}

/**
 * Ends tunnels whose certificates are trusted no more: their root left the bundle, or a CA key in their chain was revoked.
 *
 * Chains are judged as of the moment of the handshake, so that one that has merely expired since does not end its tunnel: its owner showed
 * a valid certificate, and long connections outlive many of them. Revoking is what ends connections.
 */
export class ChainWatch implements Disposable {
  readonly #verifier: PeerVerifier;
  readonly #watched = new Set<WatchedTunnel>();
  /** Tunnels that this round has still to look at. One made meanwhile was verified with the bundles of this round, or later ones. */
  #left: Iterator<WatchedTunnel> | null = null;
  /** What this round found of chains, by leaf: peers have several tunnels each. */
  readonly #found = new Map<string, unknown>();
  #next: NodeJS.Immediate | null = null;

  constructor(verifier: PeerVerifier) {
    this.#verifier = verifier;
  }

  get size(): number {
    return this.#watched.size;
  }

  add(tunnel: WatchedTunnel): void {
    this.#watched.add(tunnel);
  }

  delete(tunnel: WatchedTunnel): void {
    this.#watched.delete(tunnel);
  }

  /** Bundles have changed: looks at every tunnel again, in slices. A round that is under way begins anew. */
  recheck(): void {
    this.#left = [...this.#watched].values();
    this.#found.clear();
    this.#next ??= setImmediate(() => this.#slice());
  }

  #slice(): void {
    this.#next = null;
    const until = performance.now() + SLICE_MS;
    while (this.#left !== null && performance.now() < until) {
      const { value, done } = this.#left.next();
      if (done === true) {
        this.#left = null;
        this.#found.clear();
      } else if (this.#watched.has(value)) this.#look(value);
    }
    if (this.#left !== null) this.#next = setImmediate(() => this.#slice());
  }

  #look(tunnel: WatchedTunnel): void {
    const problem =
      this.#problem(tunnel.peerChain, tunnel.verifiedAt, "the peer's certificate") ??
      this.#problem(tunnel.ownChain, tunnel.verifiedAt, "this workload's certificate");
    if (problem === null) return;
    this.#watched.delete(tunnel);
    tunnel.end(problem);
  }

  #problem(chain: readonly Uint8Array[], verifiedAt: number, whose: string): TunnelError | null {
    const leaf = chain[0];
    if (leaf === undefined) return null;
    const key = hash('sha256', leaf, 'base64');
    let cause = this.#found.get(key);
    if (cause === undefined) {
      cause = this.#verify(chain, verifiedAt);
      this.#found.set(key, cause);
    }
    if (cause === null) return null;
    return new TunnelError('WEFT_TUNNEL_REVOKED', `${whose} is trusted no more`, {
      cause,
      nextStep: 'see the cause: the certificate authority was revoked, or its root left the trust bundle; connect again',
    });
  }

  /** What is wrong with a chain, or null. */
  #verify(chain: readonly Uint8Array[], verifiedAt: number): unknown {
    try {
      this.#verifier.verify(chain, verifiedAt);
      return null;
    } catch (error) {
      return error;
    }
  }

  [Symbol.dispose](): void {
    if (this.#next !== null) clearImmediate(this.#next);
    this.#next = null;
    this.#left = null;
    this.#watched.clear();
  }
}
