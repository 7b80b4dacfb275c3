import type { Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import type { ByteStream } from '../../src/model/byte-stream.ts';
import type { PeerVerifier, TlsContexts } from '../../src/model/data-plane.ts';
import { canonicalAddress } from '../../src/model/address.ts';
import { WeftError, errorText } from '../../src/model/errors.ts';
import type { SpiffeId } from '../../src/model/identity.ts';
import type { LifecycleState } from '../../src/model/lifecycle.ts';
import { Http2Connection } from '../../src/transport/http2/connection.ts';
import type { Http2Options } from '../../src/transport/http2/connection.ts';
import { ErrorCode, Http2Error } from '../../src/transport/http2/errors.ts';
import { FRAME_HEADER_BYTES, FrameType, writeFrameHeader, writeUint32 } from '../../src/transport/http2/frame.ts';
import { fieldValue } from '../../src/transport/http2/message.ts';
import type { RequestHead } from '../../src/transport/http2/message.ts';
import type { HeaderList } from '../../src/transport/http2/hpack.ts';
import type { Http2Stream } from '../../src/transport/http2/stream.ts';
import { SocketByteStream } from '../../src/transport/socket-stream.ts';
import { parseAuthority } from './authority.ts';
import { Handshake, type HandshakeFailure, type HandshakeOwner } from './handshake.ts';
import { peerChain } from '../../src/model/peer-certificates.ts';
import type { ChainWatch, WatchedTunnel } from './chain-watch.ts';
import { ALPN_HTTP2 } from './tunnel-client.ts';

/** Why a connection, or a request on it, was turned away. The label of a counter. */
export type TunnelRefusal =
  | HandshakeFailure
  /** No client certificate. */
  | 'no_certificate'
  /** A certificate that the verifier refused. */
  | 'certificate'
  /** TLS, and then no HTTP/2, or HTTP/2 that breaks its rules. */
  | 'http2'
  /** A well-formed request that is not CONNECT. */
  | 'not_connect'
  /** A CONNECT to something that is no host and port. */
  | 'authority';

export interface TunnelRefused {
  readonly reason: TunnelRefusal;
  /** The code underneath, such as WEFT_IDENTITY_PEER_EXPIRED; null if there is none. */
  readonly code: string | null;
  readonly message: string;
  readonly remoteAddress: string;
  readonly remotePort: number;
  /** SPIFFE ID text of a peer that was verified; null before that. */
  readonly peer: string | null;
}

/** A CONNECT by a verified peer. */
export interface TunnelConnect {
  /** IPv4, IPv6 without brackets, or a host name as it was written. */
  readonly host: string;
  readonly port: number;
  readonly peer: SpiffeId;
  /** Of the tunnel's TCP connection: the client pod's address. */
  readonly remoteAddress: string;
  readonly remotePort: number;
  /** The TCP destination: this pod's address. */
  readonly localAddress: string;
  /** The request's fields: `traceparent`, `baggage`, `forwarded`… `get` returns the first value. */
  readonly headers: TunnelHeaders;
}

/** A look into the fields of a request. */
export interface TunnelHeaders {
  get(name: string): string | null;
}

/** The answer to a CONNECT: exactly one of accept and refuse. A second answer, or one to a client that left, does nothing. */
export interface TunnelResponder {
  /** 200: the application was reached. The stream is paused. If the client has left, its onClose tells. */
  accept(headers?: Readonly<Record<string, string>>): ByteStream;
  /** 400: not this workload's address. 401: denied by policy. 503: the application cannot be reached. */
  refuse(status: 400 | 401 | 503, headers?: Readonly<Record<string, string>>): void;
  /** Calls back if the client leaves before the answer. `null` takes the callback away. */
  onAbort(callback: (() => void) | null): void;
}

export interface TunnelServerLimits {
  /** From the accepted TCP connection to the end of the TLS handshake, in milliseconds. */
  readonly handshakeTimeoutMs: number;
  /** How long a handshake waits for an SVID when there is none, in milliseconds. */
  readonly identityTimeoutMs: number;
  /** Connections that have not said anything yet. The oldest makes room for the next: an honest peer speaks at once. */
  readonly maxSilent: number;
  /** Handshakes under way at once: they are what costs CPU and memory. The oldest makes room for the next. */
  readonly maxHandshakes: number;
  /** While no more are half-open, TLS does not wait for a peer's first byte, which is quicker and costs memory for who never says anything. */
  readonly eagerHandshakes: number;
  readonly maxConnections: number;
  readonly http2: Partial<Http2Options>;
}

export const DEFAULT_SERVER_LIMITS: TunnelServerLimits = {
  handshakeTimeoutMs: 10_000,
  identityTimeoutMs: 1000,
  maxSilent: 4096,
  maxHandshakes: 512,
  eagerHandshakes: 64,
  maxConnections: 16_384,
  http2: {},
};

export interface TunnelServerOptions {
  readonly contexts: TlsContexts;
  /** SPIFFE ID text of the workload behind this server. */
  readonly identity: string;
  readonly verifier: PeerVerifier;
  /** Ends tunnels when a certificate they were made with is trusted no more. */
  readonly watch?: ChainWatch;
  readonly onConnect: (connect: TunnelConnect, responder: TunnelResponder) => void;
  readonly onRefused?: (refused: TunnelRefused) => void;
  /** A peer was verified, in full or on a resumed session, and its tunnel is open; `onClosed` follows. */
  readonly onOpened?: (isResumed: boolean) => void;
  /** `error`: what ended it; null for an orderly end. */
  readonly onClosed?: (error: Error | null) => void;
  readonly limits?: Partial<TunnelServerLimits>;
}

/** Where a connection comes from. */
type RemoteEnd = Pick<Handshake, 'remoteAddress' | 'remotePort'>;

export interface TunnelServerStats {
  readonly state: LifecycleState;
  readonly identity: string;
  readonly handshakes: number;
  readonly connections: number;
  readonly streams: number;
  readonly acceptedConnections: number;
  readonly acceptedStreams: number;
}

/**
 * The receiving end of tunnels for one workload: takes accepted TCP connections, does TLS 1.3 with the workload's SVID, verifies the peer
 * on every handshake, and turns each CONNECT into one call of `onConnect`.
 *
 * Each handshake takes the SVID that is current when the connection is accepted, so rotation needs no call. Tickets are sealed with a
 * key inside that context: none survives a rotation, and a resumed session is verified like a full one.
 */
export class TunnelServer {
  readonly #options: TunnelServerOptions;
  readonly #limits: TunnelServerLimits;
  /** Both in the order of arrival. */
  readonly #silent = new Set<Handshake>();
  readonly #handshakes = new Set<Handshake>();
  readonly #handshakeOwner: HandshakeOwner;
  readonly #connections = new Set<Http2Connection>();
  #state: LifecycleState = 'running';
  #acceptedConnections = 0;
  #acceptedStreams = 0;
  #drained: (() => void) | null = null;
  /** Milliseconds since the epoch. 0: it does not drain. */
  #drainUntil = 0;

  constructor(options: TunnelServerOptions) {
    this.#options = options;
    this.#limits = { ...DEFAULT_SERVER_LIMITS, ...options.limits };
    this.#handshakeOwner = {
      context: () => this.#options.contexts.context(this.#options.identity),
      wait: () => this.#options.contexts.wait(this.#options.identity, this.#limits.identityTimeoutMs),
      onStarted: (handshake) => {
        this.#silent.delete(handshake);
        this.#makeRoom(this.#handshakes, this.#limits.maxHandshakes);
        this.#handshakes.add(handshake);
      },
      onFailed: (handshake, reason, error) => {
        this.#forgetHandshake(handshake);
        this.#refused(reason, error, handshake);
        this.#checkDrained();
      },
      onSecure: (handshake, secure) => {
        this.#forgetHandshake(handshake);
        this.#secured(secure, handshake);
        this.#checkDrained();
      },
    };
  }

  #forgetHandshake(handshake: Handshake): void {
    this.#silent.delete(handshake);
    this.#handshakes.delete(handshake);
  }

  /** Half-open connections must not keep others out: the oldest of them goes. */
  #makeRoom(handshakes: ReadonlySet<Handshake>, limit: number): void {
    if (handshakes.size < limit) return;
    const [oldest] = handshakes;
    oldest?.fail('limit', new Error('it was the oldest of too many half-open connections'));
  }

  stats(): TunnelServerStats {
    let streams = 0;
    for (const connection of this.#connections) streams += connection.activeStreams;
    return {
      state: this.#state,
      identity: this.#options.identity,
      handshakes: this.#silent.size + this.#handshakes.size,
      connections: this.#connections.size,
      streams,
      acceptedConnections: this.#acceptedConnections,
      acceptedStreams: this.#acceptedStreams,
    };
  }

  #refused(reason: TunnelRefusal, error: unknown, from: RemoteEnd, peer: string | null = null): void {
    const code = error instanceof WeftError ? error.code : ((error as NodeJS.ErrnoException | null)?.code ?? null);
    const { remoteAddress, remotePort } = from;
    this.#options.onRefused?.({ reason, code, message: errorText(error), remoteAddress, remotePort, peer });
  }

  /** Takes a TCP connection that was accepted on the tunnel port. */
  accept(socket: Socket): void {
    const isFull = this.#connections.size >= this.#limits.maxConnections;
    if (this.#state !== 'running' || isFull) {
      const from = { remoteAddress: canonicalAddress(socket.remoteAddress ?? ''), remotePort: socket.remotePort ?? 0 };
      socket.on('error', () => {});
      socket.destroy();
      if (isFull) this.#refused('limit', 'too many tunnels at once', from);
      else this.#refused('draining', 'the tunnel server is draining', from);
      return;
    }
    this.#makeRoom(this.#silent, this.#limits.maxSilent);
    const handshake = new Handshake(socket, this.#handshakeOwner, this.#limits.handshakeTimeoutMs);
    this.#silent.add(handshake);
    if (this.#silent.size + this.#handshakes.size <= this.#limits.eagerHandshakes) handshake.start(null);
    else handshake.awaitFirstByte();
  }

  /** The handshake is over, full or resumed: nothing is read before the peer is verified. */
  #secured(secure: TLSSocket, from: Handshake): void {
    // Whatever the context allows, a tunnel is TLS 1.3 with HTTP/2.
    if (secure.getProtocol() !== 'TLSv1.3' || secure.alpnProtocol !== ALPN_HTTP2) {
      secure.destroy();
      this.#refused('tls', 'the client did not agree on TLS 1.3 and h2', from);
      return;
    }
    const shown = peerChain(secure);
    const [leaf] = shown;
    if (leaf === undefined) {
      this.#sendAway(secure, 'the client showed no certificate');
      this.#refused('no_certificate', 'the client showed no certificate', from);
      return;
    }
    const { verifier } = this.#options;
    const isResumed = secure.isSessionReused();
    // A ticket has the leaf alone in it.
    const chain = isResumed ? verifier.complete(leaf) : shown;
    let peer: SpiffeId;
    try {
      peer = verifier.verify(chain);
    } catch (error) {
      this.#sendAway(secure, error instanceof WeftError ? error.code : 'certificate refused');
      this.#refused('certificate', error, from);
      return;
    }
    const drainMs = this.#state === 'running' ? null : this.#drainUntil - Date.now();
    if (drainMs !== null && drainMs <= 0) {
      secure.destroy();
      this.#refused('draining', 'the tunnel server is closing', from, peer.text);
      return;
    }
    this.#acceptedConnections++;
    this.#options.onOpened?.(isResumed);
    const { watch, contexts } = this.#options;
    const watched: WatchedTunnel = {
      peerChain: chain,
      ownChain: from.context === null ? [] : contexts.chainOf(from.context),
      verifiedAt: Date.now(),
      end: (error) => connection.destroy(error),
    };
    const connection: Http2Connection = new Http2Connection(
      'server',
      new SocketByteStream(secure),
      {
        onStream: (stream, head, fields) => this.#connect(stream, head, fields, peer, from),
        onMalformed: (reason) => this.#refused('http2', reason, from, peer.text),
        onClose: (error) => {
          this.#connections.delete(connection);
          watch?.delete(watched);
          // Losing a peer is no refusal; breaking the protocol is.
          if (error instanceof Http2Error && error.code !== 'WEFT_HTTP2_CONNECTION_LOST' && error.code !== 'WEFT_HTTP2_DRAIN_DEADLINE') {
            this.#refused('http2', error, from, peer.text);
          }
          this.#options.onClosed?.(error);
          this.#checkDrained();
        },
      },
      this.#limits.http2,
    );
    this.#connections.add(connection);
    watch?.add(watched);
    // It was accepted before the drain began, and its client may have sent a CONNECT with the end of the handshake.
    if (drainMs !== null) connection.drain(drainMs);
  }

  /**
   * TLS 1.3 lets a client believe that the handshake is over before its certificate was looked at, and Node cannot send an alert. GOAWAY
   * tells it why: a Weft client logs it.
   */
  #sendAway(secure: TLSSocket, reason: string): void {
    const text = Buffer.from(reason.slice(0, 120), 'latin1');
    const words = Buffer.alloc(2 * FRAME_HEADER_BYTES + 8 + text.length);
    writeFrameHeader(words, 0, 0, FrameType.settings, 0, 0);
    writeFrameHeader(words, FRAME_HEADER_BYTES, 8 + text.length, FrameType.goaway, 0, 0);
    writeUint32(words, 2 * FRAME_HEADER_BYTES + 4, ErrorCode.inadequateSecurity);
    text.copy(words, 2 * FRAME_HEADER_BYTES + 8);
    secure.on('error', () => {});
    const timer = setTimeout(() => secure.destroy(), 1000);
    secure.once('close', () => clearTimeout(timer));
    // Whatever the peer says is thrown away.
    secure.resume();
    secure.end(words);
  }

  #connect(stream: Http2Stream, head: RequestHead, fields: HeaderList, peer: SpiffeId, from: Handshake): void {
    if (head.method !== 'CONNECT') {
      this.#refused('not_connect', `${head.method.slice(0, 20)} instead of CONNECT`, from, peer.text);
      answerAndEnd(stream, 400, {});
      return;
    }
    const authority = parseAuthority(head.authority);
    if (authority === null) {
      this.#refused('authority', `CONNECT to ${JSON.stringify(head.authority.slice(0, 80))}`, from, peer.text);
      answerAndEnd(stream, 400, {});
      return;
    }
    this.#acceptedStreams++;
    this.#options.onConnect(
      {
        host: authority.host,
        port: authority.port,
        peer,
        remoteAddress: from.remoteAddress,
        remotePort: from.remotePort,
        localAddress: from.localAddress,
        headers: { get: (name) => fieldValue(fields, name) },
      },
      new StreamResponder(stream),
    );
  }

  /**
   * No new connections or streams; what was accepted is served, also when its handshake is still under way. Resolves when all have ended, at
   * the latest after the deadline, or when the last handshake has timed out.
   */
  drain(deadlineMs: number): Promise<void> {
    if (this.#state === 'stopped') return Promise.resolve();
    this.#state = 'draining';
    this.#drainUntil = Date.now() + deadlineMs;
    for (const connection of this.#connections) connection.drain(deadlineMs);
    return new Promise((resolve) => {
      const before = this.#drained;
      this.#drained = () => {
        before?.();
        resolve();
      };
      this.#checkDrained();
    });
  }

  #checkDrained(): void {
    if (this.#state === 'running' || this.#connections.size + this.#silent.size + this.#handshakes.size > 0) return;
    this.#state = 'stopped';
    this.#drained?.();
    this.#drained = null;
  }

  /** Ends everything at once. Idempotent. */
  dispose(): void {
    if (this.#state === 'running') this.#state = 'draining';
    for (const handshake of [...this.#silent, ...this.#handshakes]) handshake.fail('draining', 'the tunnel server is closing');
    for (const connection of this.#connections) connection.destroy();
    this.#checkDrained();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** A final answer without a body. A client that still sends is told to stop, without blame (RFC 9113 section 8.1). */
function answerAndEnd(stream: Http2Stream, status: number, headers: Readonly<Record<string, string>>): void {
  stream.respond(responseFields(status, headers), true);
  stream.reset(ErrorCode.noError);
}

function responseFields(status: number, headers: Readonly<Record<string, string>>): string[] {
  const fields = [':status', String(status)];
  for (const name in headers) fields.push(name, headers[name] as string);
  return fields;
}

/** States: waiting, answered, aborted. It leaves `waiting` once. */
class StreamResponder implements TunnelResponder {
  readonly #stream: Http2Stream;
  #state: 'waiting' | 'answered' | 'aborted' = 'waiting';
  #abort: (() => void) | null = null;

  constructor(stream: Http2Stream) {
    this.#stream = stream;
    stream.attach({ onData() {}, onEnd() {}, onDrain() {}, onClose: () => this.#aborted() });
  }

  #aborted(): void {
    if (this.#state !== 'waiting') return;
    this.#state = 'aborted';
    this.#abort?.();
  }

  accept(headers: Readonly<Record<string, string>> = {}): ByteStream {
    if (this.#state === 'waiting') {
      this.#state = 'answered';
      this.#stream.respond(responseFields(200, headers));
    }
    this.#stream.detach();
    return this.#stream;
  }

  refuse(status: 400 | 401 | 503, headers: Readonly<Record<string, string>> = {}): void {
    if (this.#state !== 'waiting') return;
    this.#state = 'answered';
    answerAndEnd(this.#stream, status, headers);
  }

  onAbort(callback: (() => void) | null): void {
    this.#abort = callback;
    if (this.#state === 'aborted') callback?.();
  }
}
