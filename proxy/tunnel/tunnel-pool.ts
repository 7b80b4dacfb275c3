import type { SecureContext } from 'node:tls';
import type { ByteStream } from '../../src/model/byte-stream.ts';
import type { Dialer, PeerVerifier, TlsContexts } from '../../src/model/data-plane.ts';
import { errorText } from '../../src/model/errors.ts';
import type { LifecycleState } from '../../src/model/lifecycle.ts';
import type { ChainWatch } from './chain-watch.ts';
import { SessionStore } from './session-store.ts';
import { TunnelClient } from './tunnel-client.ts';
import type { TunnelClientLimits, TunnelConnectionStats } from './tunnel-client.ts';
import { TunnelError } from './tunnel-error.ts';

/** One tunnelled connection that somebody wants. */
export interface TunnelRequest {
  /** The local workload in whose network namespace the tunnel is dialled. */
  readonly sourceWorkloadId: number;
  /** SPIFFE ID text shown to the peer. */
  readonly sourceIdentity: string;
  /** The pod's IP address. */
  readonly destinationAddress: string;
  /** SPIFFE ID texts; the peer must be one of them. */
  readonly expectedIdentities: readonly string[];
  /** What the peer shall connect to: `ip:port`, `[ipv6]:port` or `host:port`. */
  readonly authority: string;
  readonly headers?: Readonly<Record<string, string>>;
}

/** Milliseconds and numbers. */
export interface TunnelPoolLimits {
  /** A connection without streams is released after this. */
  readonly idleMs: number;
  /** Wait for a first SVID of the source. */
  readonly identityTimeoutMs: number;
  /** Connections for one pair of source and destination. */
  readonly maxConnectionsPerKey: number;
  /** How long streams of a retired connection (rotated SVID) may go on. */
  readonly retireDeadlineMs: number;
  /** After this many failures in a row the pool answers for the destination, without dialling, for `backoffMs`, doubled up to `maxBackoffMs`. */
  readonly failuresBeforeBackoff: number;
  readonly backoffMs: number;
  readonly maxBackoffMs: number;
  /** Default 15008. */
  readonly port: number;
  readonly client: Partial<TunnelClientLimits>;
}

export const DEFAULT_POOL_LIMITS: TunnelPoolLimits = {
  idleMs: 300_000,
  identityTimeoutMs: 5000,
  maxConnectionsPerKey: 256,
  retireDeadlineMs: 2 ** 31 - 1,
  failuresBeforeBackoff: 5,
  backoffMs: 100,
  maxBackoffMs: 1000,
  port: 15008,
  client: {},
};

export interface TunnelPoolOptions {
  readonly dialer: Dialer;
  readonly contexts: TlsContexts;
  readonly verifier: PeerVerifier;
  /** Ends tunnels when a certificate they were made with is trusted no more. */
  readonly watch?: ChainWatch;
  readonly limits?: Partial<TunnelPoolLimits>;
  /** A peer was verified, in full or on a resumed session, and its tunnel is open; `onClosed` follows. */
  readonly onOpened?: (isResumed: boolean) => void;
  /** `error`: what ended it; null for an orderly end. */
  readonly onClosed?: (error: Error | null) => void;
  /** There is no tunnel, for this reason. */
  readonly onFailed?: (error: TunnelError) => void;
}

export interface TunnelPoolStats {
  readonly state: LifecycleState;
  readonly handshakes: number;
  /** Of them: those that resumed a session. */
  readonly resumed: number;
  readonly failures: number;
  readonly openedStreams: number;
  readonly tunnels: readonly {
    readonly sourceWorkloadId: number;
    readonly sourceIdentity: string;
    readonly destinationAddress: string;
    readonly expectedIdentities: readonly string[];
    readonly failuresInARow: number;
    readonly connections: readonly TunnelConnectionStats[];
  }[];
}

/** An open that fails because its connection filled up or went away under it is tried again on another, this often. */
const ATTEMPTS = 4;

/** The connections of one (source workload, identity, destination, expected identities). */
interface Group {
  readonly key: string;
  readonly request: TunnelRequest;
  /** Take new streams, as long as they have room and the SVID is theirs. */
  readonly usable: Set<TunnelClient>;
  /** Finish what they have. */
  readonly retired: Set<TunnelClient>;
  /** The handshake under way: whoever needs a connection waits for it. */
  starting: TunnelClient | null;
  failures: number;
  retryAt: number;
  lastError: TunnelError | null;
  forgetting: NodeJS.Timeout | null;
}

/**
 * The tunnels of one worker thread. One connection carries the streams of a pair of pods until it is full; connections are never shared
 * between source workloads, identities or destinations, so that no peer sees another's identity.
 *
 * Invariant: a connection gets new streams only while it is in `usable`, its SVID is the current one, and the peer sent no GOAWAY.
 */
export class TunnelPool {
  readonly #options: TunnelPoolOptions;
  readonly #limits: TunnelPoolLimits;
  readonly #sessions: SessionStore;
  readonly #groups = new Map<string, Group>();
  readonly #idleTimers = new Map<TunnelClient, NodeJS.Timeout>();
  readonly #opened = new Set<TunnelClient>();
  #state: LifecycleState = 'running';
  #handshakes = 0;
  #resumed = 0;
  #failures = 0;
  #openedStreams = 0;
  #waiters: (() => void)[] = [];

  constructor(options: TunnelPoolOptions) {
    this.#options = options;
    this.#limits = { ...DEFAULT_POOL_LIMITS, ...options.limits };
    this.#sessions = new SessionStore(options.verifier);
  }

  /**
   * Opens a tunnelled connection; the stream is paused. Concurrent first opens share one handshake.
   * @throws TunnelError WEFT_TUNNEL_*: see TunnelClient.open; and WEFT_TUNNEL_BACKOFF, WEFT_TUNNEL_LIMIT, WEFT_TUNNEL_CLOSED
   * @throws IdentityError WEFT_IDENTITY_UNAVAILABLE when the source has no SVID
   */
  async open(request: TunnelRequest): Promise<ByteStream> {
    let last: unknown = null;
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      try {
        const stream = await this.#openOnce(request);
        this.#openedStreams++;
        return stream;
      } catch (error) {
        if (!(error instanceof TunnelError) || !error.isUnheard) throw error;
        last = error;
      }
    }
    throw last;
  }

  #checkRunning(): void {
    if (this.#state !== 'running') throw new TunnelError('WEFT_TUNNEL_CLOSED', 'this node takes no new connections: it is shutting down');
  }

  /**
   * Waits until a connection has room, and takes it in the same turn, before another waiter can. The SVID is looked up anew after every
   * wait: a rotation in between must not bring an old one back.
   */
  async #openOnce(request: TunnelRequest): Promise<ByteStream> {
    for (;;) {
      this.#checkRunning();
      const context = this.#options.contexts.context(request.sourceIdentity);
      if (context === null) {
        await this.#options.contexts.wait(request.sourceIdentity, this.#limits.identityTimeoutMs);
        continue;
      }
      const group = this.#group(request);
      const client = this.#findRoom(group, context);
      if (client !== null) return client.open(request.authority, request.headers ?? {});
      const started = group.starting;
      const starting = started !== null && started.context === context ? started : this.#start(group, context);
      try {
        await starting.ready;
      } catch (error) {
        // It has thrown the session away, so that the next one is a full handshake.
        if (!starting.failedOverSession) throw error;
      }
    }
  }

  #group(request: TunnelRequest): Group {
    const expected =
      request.expectedIdentities.length === 1 ? (request.expectedIdentities[0] as string) : request.expectedIdentities.toSorted().join(' ');
    const key = `${request.sourceWorkloadId} ${request.sourceIdentity} ${request.destinationAddress} ${expected}`;
    let group = this.#groups.get(key);
    if (group === undefined) {
      group = {
        key,
        request,
        usable: new Set(),
        retired: new Set(),
        starting: null,
        failures: 0,
        retryAt: 0,
        lastError: null,
        forgetting: null,
      };
      this.#groups.set(key, group);
    }
    return group;
  }

  #findRoom(group: Group, context: SecureContext): TunnelClient | null {
    for (const client of group.usable) {
      if (client.context !== context) {
        this.#retire(group, client);
        client.drain(this.#limits.retireDeadlineMs);
      } else if (client.availableStreams > 0) {
        this.#clearIdle(client);
        return client;
      }
    }
    return null;
  }

  #start(group: Group, context: SecureContext): TunnelClient {
    if (Date.now() < group.retryAt) {
      const last = group.lastError;
      throw new TunnelError(
        'WEFT_TUNNEL_BACKOFF',
        `not tried again yet after ${group.failures} failures: ${last === null ? 'unknown' : last.message}`,
        {
          cause: last?.cause ?? last ?? undefined,
          nextStep: last?.nextStep ?? 'look at the failures before this one',
        },
      );
    }
    if (group.usable.size + group.retired.size >= this.#limits.maxConnectionsPerKey) {
      throw new TunnelError(
        'WEFT_TUNNEL_LIMIT',
        `${group.usable.size + group.retired.size} connections to ${group.request.destinationAddress} are in use`,
        {
          nextStep: 'find out why the source opens so many connections to one pod',
        },
      );
    }
    this.#handshakes++;
    const client: TunnelClient = new TunnelClient({
      dialer: this.#options.dialer,
      verifier: this.#options.verifier,
      ...(this.#options.watch === undefined ? {} : { watch: this.#options.watch }),
      ownChain: this.#options.contexts.chainOf(context),
      context,
      sessions: this.#sessions.of(group.key, context),
      sourceWorkloadId: group.request.sourceWorkloadId,
      destinationAddress: group.request.destinationAddress,
      port: this.#limits.port,
      expectedIdentities: group.request.expectedIdentities,
      limits: this.#limits.client,
      onRetired: () => this.#retire(group, client),
      onStreamClosed: () => this.#armIdle(group, client),
      onClosed: (error) => setImmediate(() => this.#closed(group, client, error)),
    });
    group.starting = client;
    client.ready.then(
      () => {
        if (group.starting === client) group.starting = null;
        group.failures = 0;
        group.lastError = null;
        if (client.isResumed) this.#resumed++;
        this.#opened.add(client);
        this.#options.onOpened?.(client.isResumed);
        if (this.#state === 'running') {
          group.usable.add(client);
          this.#armIdle(group, client);
        } else {
          client.destroy();
        }
      },
      (error: unknown) => {
        if (group.starting === client) group.starting = null;
        this.#failures++;
        group.failures++;
        group.lastError = error instanceof TunnelError ? error : new TunnelError('WEFT_TUNNEL_DIAL', errorText(error), { cause: error });
        this.#options.onFailed?.(group.lastError);
        const beyond = group.failures - this.#limits.failuresBeforeBackoff;
        if (beyond >= 0)
          group.retryAt = Date.now() + Math.min(this.#limits.maxBackoffMs, this.#limits.backoffMs * 2 ** Math.min(beyond, 20));
      },
    );
    return client;
  }

  #retire(group: Group, client: TunnelClient): void {
    if (!group.usable.delete(client)) return;
    this.#clearIdle(client);
    group.retired.add(client);
  }

  #closed(group: Group, client: TunnelClient, error: Error | null): void {
    group.usable.delete(client);
    group.retired.delete(client);
    this.#clearIdle(client);
    if (this.#opened.delete(client)) this.#options.onClosed?.(error);
    this.#forgetIfEmpty(group);
    this.#checkDrained();
  }

  /** A group without connections goes; after a failure only when its backoff is long over, so that the failures count. */
  #forgetIfEmpty(group: Group): void {
    if (group.usable.size > 0 || group.retired.size > 0 || group.starting !== null || group.forgetting !== null) return;
    if (group.failures === 0) {
      this.#groups.delete(group.key);
      return;
    }
    group.forgetting = setTimeout(() => {
      group.forgetting = null;
      if (Date.now() < group.retryAt) this.#forgetIfEmpty(group);
      else if (this.#clients(group).length === 0) this.#groups.delete(group.key);
    }, 2 * this.#limits.maxBackoffMs).unref();
  }

  #armIdle(group: Group, client: TunnelClient): void {
    if (client.activeStreams > 0 || !group.usable.has(client)) return;
    this.#clearIdle(client);
    const timer = setTimeout(() => {
      if (client.activeStreams > 0) return;
      this.#retire(group, client);
      client.drain(1000);
    }, this.#limits.idleMs);
    this.#idleTimers.set(client, timer.unref());
  }

  #clearIdle(client: TunnelClient): void {
    const timer = this.#idleTimers.get(client);
    if (timer === undefined) return;
    clearTimeout(timer);
    this.#idleTimers.delete(client);
  }

  /** For the admin endpoint. */
  stats(): TunnelPoolStats {
    return {
      state: this.#state,
      handshakes: this.#handshakes,
      resumed: this.#resumed,
      failures: this.#failures,
      openedStreams: this.#openedStreams,
      tunnels: [...this.#groups.values()].map((group) => ({
        sourceWorkloadId: group.request.sourceWorkloadId,
        sourceIdentity: group.request.sourceIdentity,
        destinationAddress: group.request.destinationAddress,
        expectedIdentities: group.request.expectedIdentities,
        failuresInARow: group.failures,
        connections: this.#clients(group).map((client) => client.stats()),
      })),
    };
  }

  #clients(group: Group): TunnelClient[] {
    const clients = [...group.usable, ...group.retired];
    if (group.starting !== null) clients.push(group.starting);
    return clients;
  }

  /** Ends the tunnels of one workload: its network namespace is gone. */
  dropWorkload(workloadId: number, error?: Error): void {
    for (const group of this.#groups.values()) {
      if (group.request.sourceWorkloadId !== workloadId) continue;
      for (const client of this.#clients(group)) client.destroy(error);
    }
  }

  /** No new streams; resolves when all connections have closed, at the latest after the deadline. */
  drain(deadlineMs: number): Promise<void> {
    if (this.#state === 'stopped') return Promise.resolve();
    this.#state = 'draining';
    for (const group of this.#groups.values()) for (const client of this.#clients(group)) client.drain(deadlineMs);
    return new Promise((resolve) => {
      this.#waiters.push(resolve);
      this.#checkDrained();
    });
  }

  #checkDrained(): void {
    if (this.#state === 'running') return;
    for (const group of this.#groups.values()) if (this.#clients(group).length > 0) return;
    this.#state = 'stopped';
    this.#groups.clear();
    for (const resolve of this.#waiters.splice(0)) resolve();
  }

  /** Ends everything at once. Idempotent. */
  dispose(): void {
    if (this.#state === 'running') this.#state = 'draining';
    for (const group of this.#groups.values()) for (const client of this.#clients(group)) client.destroy();
    this.#checkDrained();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
