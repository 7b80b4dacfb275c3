import type { SecureContext } from 'node:tls';
import type { PeerVerifier } from '../../src/model/data-plane.ts';

/** A TLS session that a client may resume. */
export interface ResumableSession {
  /** As node:tls hands it out: the server's ticket, and the secret that goes with it. */
  readonly session: Buffer;
  /** DER, leaf first: what the server showed, and what was verified, in the full handshake that the session comes from. */
  readonly peerChain: readonly Uint8Array[];
}

/** The sessions of tunnels that are alike: same source, destination, expected identities and SecureContext. */
export interface TunnelSessions {
  /** The newest, which is given to nobody else; null: do a full handshake. Its chain has just been verified. */
  take(): ResumableSession | null;
  /** For a session of a full handshake whose peer was verified. */
  keep(session: ResumableSession): void;
  /** The server would not have them, or what came of them was bad. */
  forget(): void;
}

export interface SessionStoreLimits {
  /** Kinds of tunnels that have sessions kept. The oldest make room. */
  readonly maxKeys: number;
  /** For each of them: what a Node server gives with one full handshake. It gives none with a resumed one. */
  readonly maxSessionsPerKey: number;
  /** From the full handshake on, in milliseconds: after this time a peer has to prove again that it has its key. */
  readonly lifeMs: number;
  /** Of a session and its chain: an honest one has 3 KiB. */
  readonly maxBytes: number;
}

export const DEFAULT_SESSION_LIMITS: SessionStoreLimits = { maxKeys: 1024, maxSessionsPerKey: 2, lifeMs: 3_600_000, maxBytes: 16 * 1024 };

interface Kept {
  /** Weak: a context that was replaced holds the key of an old SVID. */
  readonly context: WeakRef<SecureContext>;
  readonly peerChain: readonly Uint8Array[];
  readonly since: number;
  /** Newest last. */
  readonly sessions: Buffer[];
}

/**
 * TLS sessions to resume, with the chain that the server showed when it gave them: on a resumed session node:tls shows a client no
 * certificate at all. Each is used once (RFC 8446 appendix C.4).
 *
 * Invariant: `take` hands out only what was given under the very SecureContext it is asked for, so that no session outlives the SVID or
 * the bundles under which it was given; and only with a chain that verifies now.
 */
export class SessionStore {
  readonly #verifier: PeerVerifier;
  readonly #limits: SessionStoreLimits;
  readonly #now: () => number;
  /** Oldest first. */
  readonly #kept = new Map<string, Kept>();

  constructor(verifier: PeerVerifier, limits: Partial<SessionStoreLimits> = {}, now: () => number = Date.now) {
    this.#verifier = verifier;
    this.#limits = { ...DEFAULT_SESSION_LIMITS, ...limits };
    this.#now = now;
  }

  /** Sessions kept now. */
  get size(): number {
    let size = 0;
    for (const { sessions } of this.#kept.values()) size += sessions.length;
    return size;
  }

  /** @param key what makes tunnels alike, apart from their context */
  of(key: string, context: SecureContext): TunnelSessions {
    return {
      take: () => this.#take(key, context),
      keep: (session) => this.#keep(key, context, session),
      forget: () => this.#kept.delete(key),
    };
  }

  #take(key: string, context: SecureContext): ResumableSession | null {
    const kept = this.#kept.get(key);
    const session = kept?.sessions.pop();
    if (kept === undefined || session === undefined) return null;
    const isGood = this.#isGood(kept, context);
    if (!isGood || kept.sessions.length === 0) this.#kept.delete(key);
    return isGood ? { session, peerChain: kept.peerChain } : null;
  }

  #isGood(kept: Kept, context: SecureContext): boolean {
    if (kept.context.deref() !== context || this.#isOld(kept.since)) return false;
    try {
      this.#verifier.verify(kept.peerChain);
      return true;
    } catch {
      // The full handshake that follows tells what is wrong with the peer, if anything still is.
      return false;
    }
  }

  #isOld(since: number): boolean {
    return this.#now() - since > this.#limits.lifeMs;
  }

  #keep(key: string, context: SecureContext, { session, peerChain }: ResumableSession): void {
    const bytes = peerChain.reduce((sum, { length }) => sum + length, session.length);
    if (bytes > this.#limits.maxBytes) return;
    const before = this.#kept.get(key);
    // A chain is of one connection: sessions of another one replace what there was.
    const kept = before?.peerChain === peerChain ? before : { context: new WeakRef(context), peerChain, since: this.#now(), sessions: [] };
    kept.sessions.push(session);
    if (kept.sessions.length > this.#limits.maxSessionsPerKey) kept.sessions.shift();
    this.#kept.delete(key);
    this.#kept.set(key, kept);
    for (const [oldest, { since }] of this.#kept) {
      if (this.#kept.size <= this.#limits.maxKeys && !this.#isOld(since)) break;
      this.#kept.delete(oldest);
    }
  }
}
