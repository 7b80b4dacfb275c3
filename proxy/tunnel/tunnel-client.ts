import type { Socket } from 'node:net';
import tls from 'node:tls';
import type { ConnectionOptions, SecureContext, TLSSocket } from 'node:tls';
import type { ByteStream } from '../../src/model/byte-stream.ts';
import type { Dialer, PeerVerifier } from '../../src/model/data-plane.ts';
import { errorText } from '../../src/model/errors.ts';
import type { LifecycleState } from '../../src/model/lifecycle.ts';
import { Http2Connection } from '../../src/transport/http2/connection.ts';
import type { Http2Options } from '../../src/transport/http2/connection.ts';
import { ErrorCode, Http2Error } from '../../src/transport/http2/errors.ts';
import { fieldValue, isFieldName, isFieldValue } from '../../src/transport/http2/message.ts';
import { SocketByteStream } from '../../src/transport/socket-stream.ts';
import { peerChain } from '../../src/model/peer-certificates.ts';
import type { ChainWatch, WatchedTunnel } from './chain-watch.ts';
import type { ResumableSession, TunnelSessions } from './session-store.ts';
import { TunnelError } from './tunnel-error.ts';

/** The port every mesh node listens on in its pods (HBONE). */
export const TUNNEL_PORT = 15008;
export const ALPN_HTTP2 = 'h2';

/** Milliseconds. */
export interface TunnelClientLimits {
  readonly connectTimeoutMs: number;
  readonly handshakeTimeoutMs: number;
  /** Time for the far node to reach the application and answer a CONNECT. */
  readonly openTimeoutMs: number;
  readonly http2: Partial<Http2Options>;
}

export const DEFAULT_CLIENT_LIMITS: TunnelClientLimits = {
  connectTimeoutMs: 10_000,
  handshakeTimeoutMs: 10_000,
  openTimeoutMs: 30_000,
  // ztunnel's outbound header limit.
  http2: { maxHeaderListSize: 16_384 },
};

export interface TunnelClientOptions {
  readonly dialer: Dialer;
  readonly verifier: PeerVerifier;
  /** Ends the tunnel when a certificate it was made with is trusted no more. */
  readonly watch?: ChainWatch;
  /** The certificates that `context` shows, DER, leaf first. Needed with `watch`. */
  readonly ownChain?: readonly Uint8Array[];
  /** TLS sessions of earlier tunnels like this one, and where those of this one go. Default: full handshakes only. */
  readonly sessions?: TunnelSessions;
  /** Of the source workload's identity. */
  readonly context: SecureContext;
  readonly sourceWorkloadId: number;
  readonly destinationAddress: string;
  /** Default 15008. */
  readonly port?: number;
  /** SPIFFE ID texts; the peer must be one of them. */
  readonly expectedIdentities: readonly string[];
  readonly limits?: Partial<TunnelClientLimits>;
  /** The connection takes no new streams from now on. */
  readonly onRetired?: () => void;
  /** A stream ended. */
  readonly onStreamClosed?: () => void;
  /** It is gone; `null`: orderly. Exactly once, also when it never came to be. */
  readonly onClosed?: (error: Error | null) => void;
}

/**
 * One tunnel: a TLS 1.3 and HTTP/2 connection from a source workload's network namespace to the node proxy of a destination. Each
 * stream is one CONNECT and carries one TCP connection.
 *
 * Lifecycle: `starting` (dial, handshake, peer verified), `running`, `draining` (no new streams), `stopped`. Nothing is sent before
 * the peer's certificate passed: the chain that it showed, or on a resumed session the one that it showed when the session began. There is
 * no early data.
 */
export class TunnelClient {
  /** Settles when the peer is verified and streams may be opened. Rejects with TunnelError. */
  readonly ready: Promise<void>;
  readonly context: SecureContext;
  readonly #options: TunnelClientOptions;
  readonly #limits: TunnelClientLimits;
  #socket: Socket | null = null;
  #connection: Http2Connection | null = null;
  #stream: SocketByteStream | null = null;
  #failed: TunnelError | null = null;
  #closed = false;
  #peer = '';
  #settle: { resolve: () => void; reject: (error: TunnelError) => void };
  #timer: NodeJS.Timeout | null = null;
  #watched: WatchedTunnel | null = null;
  #offered: ResumableSession | null = null;
  #isResumed = false;
  /** The peer has said that it does not trust our certificate. */
  #isDistrusted = false;
  /** The peer has sent its SETTINGS: it took the connection. */
  #isTaken = false;
  #opened = 0;
  readonly #since: number = Date.now();

  constructor(options: TunnelClientOptions) {
    this.#options = options;
    this.context = options.context;
    this.#limits = { ...DEFAULT_CLIENT_LIMITS, ...options.limits };
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.ready = promise;
    this.#settle = { resolve, reject };
    // Whoever opens hears of it; nobody has to.
    promise.catch(() => {});
    this.#dial();
  }

  get state(): LifecycleState {
    if (this.#closed || this.#failed !== null) return 'stopped';
    return this.#connection === null ? 'starting' : this.#connection.state === 'starting' ? 'running' : this.#connection.state;
  }

  /** Whether the handshake offered a session of an earlier one. */
  get offeredSession(): boolean {
    return this.#offered !== null;
  }

  /** Whether TLS failed with a session of an earlier handshake: a full handshake may be what helps. */
  get failedOverSession(): boolean {
    const code = (this.#failed?.cause as NodeJS.ErrnoException | undefined)?.code ?? '';
    return this.#offered !== null && this.#failed?.code === 'WEFT_TUNNEL_TLS' && code.startsWith('ERR_SSL_');
  }

  /** Whether the peer took it. */
  get isResumed(): boolean {
    return this.#isResumed;
  }

  get activeStreams(): number {
    return this.#connection?.activeStreams ?? 0;
  }

  /** How many streams may be opened now: 0 while starting. */
  get availableStreams(): number {
    return this.#connection?.availableStreams ?? 0;
  }

  /** For the admin endpoint. */
  stats(): TunnelConnectionStats {
    return {
      state: this.state,
      peer: this.#peer === '' ? null : this.#peer,
      resumed: this.#isResumed,
      activeStreams: this.activeStreams,
      openedStreams: this.#opened,
      bytesRead: this.#stream?.bytesRead ?? 0,
      bytesWritten: this.#stream?.bytesWritten ?? 0,
      ageMs: Date.now() - this.#since,
    };
  }

  #where(): string {
    const { destinationAddress, port = TUNNEL_PORT } = this.#options;
    return destinationAddress.includes(':') ? `[${destinationAddress}]:${port}` : `${destinationAddress}:${port}`;
  }

  #dial(): void {
    const { dialer, sourceWorkloadId, destinationAddress, port = TUNNEL_PORT } = this.#options;
    let socket: Socket;
    try {
      socket = dialer.dial({ workloadId: sourceWorkloadId, address: destinationAddress, port, presentedPeer: null });
    } catch (error) {
      this.#fail(this.#dialError(error));
      return;
    }
    this.#socket = socket;
    this.#timer = setTimeout(() => this.#fail(this.#dialError(new Error('timed out'))), this.#limits.connectTimeoutMs);
    const failed = (error: Error): void => this.#fail(this.#dialError(error));
    socket.once('error', failed);
    const connected = (): void => {
      socket.off('error', failed);
      this.#handshake(socket);
    };
    if (socket.connecting) socket.once('connect', connected);
    else connected();
  }

  #dialError(cause: unknown): TunnelError {
    return new TunnelError('WEFT_TUNNEL_DIAL', `cannot reach the tunnel port ${this.#where()}: ${errorText(cause)}`, {
      cause,
      nextStep: 'check that the destination is enrolled, and that no NetworkPolicy blocks port 15008',
    });
  }

  #tlsError(cause: unknown): TunnelError {
    return new TunnelError('WEFT_TUNNEL_TLS', `no TLS with ${this.#where()}: ${errorText(cause)}`, {
      cause,
      nextStep: 'check what listens there, and that both nodes have roots of the same trust domain',
    });
  }

  #handshake(socket: Socket): void {
    if (this.#failed !== null) return;
    this.#clearTimer();
    this.#timer = setTimeout(() => this.#fail(this.#tlsError(handshakeTimeout())), this.#limits.handshakeTimeoutMs);
    socket.setNoDelay(true);
    this.#offered = this.#options.sessions?.take() ?? null;
    const secure = tls.connect(tunnelTlsOptions(socket, this.#options.context, this.#offered?.session));
    this.#socket = secure;
    // What happens to the TCP socket from now on shows on the TLS socket.
    socket.on('error', () => {});
    const failed = (error: Error): void => this.#fail(this.#tlsError(error));
    const closed = (): void => this.#fail(this.#tlsError(new Error('the peer closed the connection during the handshake')));
    secure.once('error', failed);
    secure.once('close', closed);
    secure.once('secureConnect', () => {
      secure.off('error', failed);
      secure.off('close', closed);
      if (this.#failed === null) this.#verified(secure);
    });
  }

  #verified(secure: TLSSocket): void {
    this.#clearTimer();
    this.#isResumed = secure.isSessionReused();
    // A peer that does not resume has shown its certificates, as if nothing had been offered.
    const chain = this.#isResumed ? (this.#offered?.peerChain ?? []) : peerChain(secure);
    let peer: string;
    try {
      peer = this.#options.verifier.verify(chain).text;
    } catch (error) {
      this.#fail(
        new TunnelError('WEFT_TUNNEL_PEER', `the certificate of ${this.#where()} was refused: ${errorText(error)}`, {
          cause: error,
          nextStep: 'look at the cause: it names the rule that the certificate broke',
        }),
      );
      return;
    }
    if (!this.#options.expectedIdentities.includes(peer)) {
      const expected = this.#options.expectedIdentities.join(' or ');
      this.#fail(
        new TunnelError('WEFT_TUNNEL_PEER_IDENTITY', `${this.#where()} is ${peer}, not ${expected}`, {
          nextStep: 'wait until the address is known under its new workload, or find out who took it',
        }),
      );
      return;
    }
    if (secure.alpnProtocol !== ALPN_HTTP2 || secure.getProtocol() !== 'TLSv1.3') {
      this.#fail(this.#tlsError(new Error('the peer did not agree on TLS 1.3 and h2')));
      return;
    }
    this.#peer = peer;
    this.#stream = new SocketByteStream(secure);
    this.#connection = new Http2Connection(
      'client',
      this.#stream,
      {
        onReady: () => {
          this.#isTaken = true;
        },
        onGoaway: (code) => this.#goaway(code),
        onStreamClosed: () => this.#options.onStreamClosed?.(),
        onClose: (error) => this.#ended(error),
      },
      this.#limits.http2,
    );
    const { watch, ownChain, sessions } = this.#options;
    if (watch !== undefined && ownChain !== undefined) {
      this.#watched = { peerChain: chain, ownChain, verifiedAt: Date.now(), end: (error) => this.destroy(error) };
      watch.add(this.#watched);
    }
    // Sessions come after the handshake, and only full ones have successors: so none is older than what the peer proved with its key.
    if (sessions !== undefined && !this.#isResumed) secure.on('session', (session) => sessions.keep({ session, peerChain: chain }));
    this.#settle.resolve();
  }

  /** In TLS 1.3 the peer judges our certificate after we have gone on: this is how it says that it refuses. */
  #goaway(code: number): void {
    if (code !== ErrorCode.noError) this.#options.sessions?.forget();
    this.#isDistrusted = code === ErrorCode.inadequateSecurity;
    this.#options.onRetired?.();
  }

  #clearTimer(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }

  #fail(error: TunnelError): void {
    if (this.#failed !== null || this.#closed) return;
    this.#failed = error;
    if (this.#offered !== null) this.#options.sessions?.forget();
    this.#clearTimer();
    const socket = this.#socket;
    if (socket !== null) {
      socket.on('error', () => {});
      socket.destroy();
    }
    this.#settle.reject(error);
    this.#ended(error);
  }

  #ended(error: Error | null): void {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#watched !== null) this.#options.watch?.delete(this.#watched);
    this.#options.onClosed?.(error);
  }

  /**
   * Opens one tunnelled connection. Resolves when the peer has reached the application (200); the stream is paused.
   * @param authority `ip:port`, `[ipv6]:port` or `host:port` as the peer shall see it
   * @throws TunnelError WEFT_TUNNEL_REFUSED with status and policy; WEFT_TUNNEL_BUSY when the connection takes no more streams;
   *   WEFT_TUNNEL_OPEN_TIMEOUT; WEFT_TUNNEL_LOST; and what `ready` rejects with
   */
  async open(authority: string, headers: Readonly<Record<string, string>> = {}): Promise<ByteStream> {
    if (this.#connection === null) await this.ready;
    return await this.#open(authority, headers);
  }

  #open(authority: string, headers: Readonly<Record<string, string>>): Promise<ByteStream> {
    const connection = this.#connection as Http2Connection;
    const fields = [':method', 'CONNECT', ':authority', authority];
    for (const name in headers) {
      const value = headers[name] as string;
      if (!isFieldName(name) || !isFieldValue(value)) {
        throw new TunnelError('WEFT_TUNNEL_HEADER', `${JSON.stringify(name.slice(0, 60))} cannot be sent as a header`, {
          nextStep: 'report this as a bug: header values are to be checked where they come from',
        });
      }
      fields.push(name, value);
    }
    return new Promise((resolve, reject) => {
      if (connection.availableStreams === 0) {
        reject(new TunnelError('WEFT_TUNNEL_BUSY', `the tunnel to ${this.#where()} takes no more streams`, { isUnheard: true }));
        return;
      }
      const stream = connection.request(fields);
      this.#opened++;
      const timer = setTimeout(() => {
        reject(
          new TunnelError('WEFT_TUNNEL_OPEN_TIMEOUT', `no answer from ${this.#where()} to CONNECT ${authority}`, {
            nextStep: 'check that the application behind it accepts connections',
          }),
        );
        stream.destroy();
      }, this.#limits.openTimeoutMs);
      stream.attach({
        onData() {},
        onEnd() {},
        onDrain() {},
        onClose: (error) => {
          clearTimeout(timer);
          reject(this.#lost(error, authority));
        },
      });
      stream.onResponse = (head, fields) => {
        if (head.status < 200) return;
        clearTimeout(timer);
        stream.onResponse = null;
        if (head.status < 300) {
          stream.detach();
          resolve(stream);
          return;
        }
        const deniedBy = fieldValue(fields, 'x-weft-denied-by')?.slice(0, 300) ?? null;
        reject(
          new TunnelError(
            'WEFT_TUNNEL_REFUSED',
            `${this.#where()} refused CONNECT ${authority} with ${head.status}${deniedBy === null ? '' : `, denied by ${deniedBy}`}`,
            {
              status: head.status,
              deniedBy,
              nextStep: refusalHint(head.status),
            },
          ),
        );
        stream.destroy();
      };
    });
  }

  #lost(cause: Error | null, authority: string): TunnelError {
    const refused = cause instanceof Http2Error && cause.http2Code === ErrorCode.refusedStream;
    if (refused && this.#isDistrusted && !this.#isResumed) {
      return new TunnelError('WEFT_TUNNEL_DISTRUSTED', `${this.#where()} does not trust this workload's certificate: ${cause.message}`, {
        cause,
        nextStep: 'look at the log of the far node: it names the rule that the certificate broke',
      });
    }
    // It went away between the handshake and its first frame, as one does whose listener was just closed, and did not say that it minds us.
    const hasLeft = cause instanceof Http2Error && cause.code === 'WEFT_HTTP2_CONNECTION_LOST';
    const leftAtOnce = !this.#isTaken && hasLeft && !((cause.cause as NodeJS.ErrnoException | null)?.code ?? '').startsWith('ERR_SSL_');
    return new TunnelError(
      // A session that the peer resumed and then refused is gone: another connection does a full handshake.
      refused ? 'WEFT_TUNNEL_BUSY' : 'WEFT_TUNNEL_LOST',
      `CONNECT ${authority} through ${this.#where()} got no answer: ${cause === null ? 'the stream ended' : cause.message}`,
      {
        cause,
        isUnheard: refused || leftAtOnce,
        nextStep: refused ? 'try again on another connection' : 'look at the far node: it closed the tunnel or cannot be reached',
      },
    );
  }

  /** No new streams; closes when those open have ended, or at the deadline. */
  drain(deadlineMs: number): void {
    if (this.#connection !== null) this.#connection.drain(deadlineMs);
    else this.destroy();
  }

  /** Ends everything at once. Idempotent. */
  destroy(error?: Error): void {
    if (this.#connection !== null) this.#connection.destroy(error);
    else this.#fail(new TunnelError('WEFT_TUNNEL_CLOSED', `the tunnel to ${this.#where()} was given up`, { cause: error }));
  }
}

/**
 * How the dialling end of a tunnel does TLS. No servername: HBONE has no SNI. The chain and the identity are checked by the caller from the
 * DER, on every handshake, so that Node's own check (which knows host names, and is skipped on resumed sessions) decides nothing.
 */
export function tunnelTlsOptions(socket: Socket, context: SecureContext, session?: Buffer): ConnectionOptions {
  return {
    socket,
    secureContext: context,
    ALPNProtocols: [ALPN_HTTP2],
    minVersion: 'TLSv1.3',
    rejectUnauthorized: false,
    checkServerIdentity: () => undefined,
    ...(session === undefined ? {} : { session }),
  };
}

function handshakeTimeout(): Error {
  return Object.assign(new Error('the handshake timed out'), { code: 'handshake_timeout' });
}

function refusalHint(status: number): string {
  if (status === 401) return 'ask the destination: its policy does not allow this source';
  if (status === 503) return 'check that the application listens on that port';
  return 'check that the address belongs to the destination workload';
}

export interface TunnelConnectionStats {
  readonly state: LifecycleState;
  /** SPIFFE ID text of the verified peer. */
  readonly peer: string | null;
  /** Its TLS session is that of an earlier tunnel. */
  readonly resumed: boolean;
  readonly activeStreams: number;
  readonly openedStreams: number;
  readonly bytesRead: number;
  readonly bytesWritten: number;
  readonly ageMs: number;
}
