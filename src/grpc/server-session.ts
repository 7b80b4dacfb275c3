import { constants, type IncomingHttpHeaders, performServerHandshake, type ServerHttp2Session, type ServerHttp2Stream } from 'node:http2';
import type { Socket } from 'node:net';
import { GRPC_STATUS, GrpcStatusError } from './grpc-error.ts';
import { GRPC_CONTENT_TYPE } from './message-framing.ts';
import { Metadata } from './metadata.ts';
import { ServerCall, type UnfinishedBytes } from './server-call.ts';
import type { GrpcServerLimits } from './server-limits.ts';
import type { MethodKind } from './service.ts';
import { parseTimeout } from './timeout.ts';

/** HTTP/2 session memory in MiB, beyond which node:http2 refuses new streams. */
const MAX_SESSION_MEMORY = 10;
const MAX_HEADER_PAIRS = 64;

/** A method with its handler. */
export interface ServedMethod<Peer> {
  readonly kind: MethodKind;
  /** Serves one call to its end; never rejects. */
  serve(call: ServerCall<Peer>): Promise<void>;
}

export interface ServerSessionOptions<Peer> {
  readonly socket: Socket;
  readonly peer: Peer;
  readonly limits: GrpcServerLimits;
  readonly methods: ReadonlyMap<string, ServedMethod<Peer>>;
  /** Once, when the socket is closed. */
  readonly onClose: () => void;
}

/**
 * One connection of a client. It is `connecting` until the client's SETTINGS, then `open`, `draining` after GOAWAY, and `closed` with its
 * socket: only forward.
 */
export class ServerSession<Peer> {
  readonly #options: ServerSessionOptions<Peer>;
  readonly #session: ServerHttp2Session;
  readonly #calls = new Map<ServerCall<Peer>, MethodKind>();
  readonly #unfinished: UnfinishedBytes = { used: 0 };
  readonly #isTcp: boolean;
  #state: 'connecting' | 'open' | 'draining' | 'closed' = 'connecting';
  /** When it began, or its last stream ended. */
  #idleSince: number = performance.now();
  /** When the peer last answered or opened a stream. */
  #heardAt: number = performance.now();
  #pingedAt: number | null = null;

  constructor(options: ServerSessionOptions<Peer>) {
    const { socket, limits, onClose } = options;
    this.#options = options;
    this.#isTcp = socket.remoteAddress !== undefined;
    this.#session = performServerHandshake(socket, {
      settings: {
        enablePush: false,
        maxConcurrentStreams: limits.maxStreamsPerSession,
        maxHeaderListSize: limits.maxHeaderListBytes,
      },
      maxSessionMemory: MAX_SESSION_MEMORY,
      maxHeaderListPairs: MAX_HEADER_PAIRS,
      streamResetBurst: limits.resetBurst,
      streamResetRate: limits.resetsPerSecond,
    });
    this.#session
      // Malformed bytes, or a reset: 'close' follows.
      .on('error', () => {})
      .once('remoteSettings', () => {
        if (this.#state === 'connecting') this.#state = 'open';
      })
      .on('stream', (stream, headers, _flags, rawHeaders) => this.#begin(stream, headers, rawHeaders))
      .once('close', () => {
        this.#state = 'closed';
        onClose();
      });
  }

  /**
   * GOAWAY: no new calls, and those of streaming methods end with UNAVAILABLE, since they would not by themselves. The connection closes
   * after the last.
   */
  drain(): void {
    if (this.#state === 'draining' || this.#state === 'closed') return;
    this.#state = 'draining';
    for (const [call, kind] of this.#calls) if (kind !== 'unary') call.cancel(goingAway());
    this.#session.close();
  }

  /** Ends what is left, at once. */
  destroy(): void {
    for (const call of this.#calls.keys()) call.cancel(goingAway());
    // After the statuses were handed to the socket.
    setImmediate(() => this.#session.destroy());
  }

  /** Looks after its timeouts; called every now and then. */
  check(now: number): void {
    const { handshakeTimeoutMs, idleTimeoutMs, keepaliveIntervalMs, keepaliveTimeoutMs } = this.#options.limits;
    if (this.#state === 'connecting' && now - this.#idleSince > handshakeTimeoutMs) this.destroy();
    else if (this.#calls.size === 0 && now - this.#idleSince > idleTimeoutMs) this.drain();
    // Destroyed comes before 'close', and then nothing can be asked any more.
    if (!this.#isTcp || this.#session.destroyed) return;
    if (this.#pingedAt !== null && now - this.#pingedAt > keepaliveTimeoutMs) this.destroy();
    else if (this.#pingedAt === null && now - this.#heardAt > keepaliveIntervalMs) this.#ping(now);
  }

  #ping(now: number): void {
    this.#pingedAt = now;
    this.#session.ping((error: Error | null) => {
      if (error !== null) return;
      this.#pingedAt = null;
      this.#heardAt = performance.now();
    });
  }

  #begin(stream: ServerHttp2Stream, headers: IncomingHttpHeaders, rawHeaders: readonly string[]): void {
    const { methods, limits, peer } = this.#options;
    this.#heardAt = performance.now();
    if (headers[':method'] !== 'POST') return refuse(stream, constants.HTTP_STATUS_METHOD_NOT_ALLOWED);
    if (!GRPC_CONTENT_TYPE.test(headers['content-type'] ?? '')) return refuse(stream, constants.HTTP_STATUS_UNSUPPORTED_MEDIA_TYPE);

    const call = new ServerCall(stream, new Metadata(rawHeaders), peer, limits, this.#unfinished);
    const method = methods.get(headers[':path'] ?? '');
    if (method === undefined) return call.end(new GrpcStatusError(GRPC_STATUS.UNIMPLEMENTED, 'there is no such method'));
    const encoding = headers['grpc-encoding'];
    if (encoding !== undefined && encoding !== 'identity') {
      return call.end(new GrpcStatusError(GRPC_STATUS.UNIMPLEMENTED, 'compressed messages are not supported'));
    }
    const timeout = headers['grpc-timeout'];
    if (timeout !== undefined) {
      const milliseconds = parseTimeout(String(timeout));
      if (milliseconds === null) return call.end(new GrpcStatusError(GRPC_STATUS.INVALID_ARGUMENT, 'malformed grpc-timeout'));
      call.limitTo(milliseconds);
    }
    this.#calls.set(call, method.kind);
    stream.once('close', () => {
      this.#calls.delete(call);
      this.#idleSince = performance.now();
    });
    void method.serve(call);
  }
}

function goingAway(): GrpcStatusError {
  return new GrpcStatusError(GRPC_STATUS.UNAVAILABLE, 'the server is going away');
}

/** What is not gRPC gets an answer of HTTP. */
function refuse(stream: ServerHttp2Stream, status: number): void {
  stream.on('error', () => {});
  stream.respond({ ':status': status }, { endStream: true });
}
