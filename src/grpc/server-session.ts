import type { Socket } from 'node:net';
import { Http2Connection } from '../transport/http2/connection.ts';
import type { HeaderList } from '../transport/http2/hpack.ts';
import { fieldValue, type RequestHead } from '../transport/http2/message.ts';
import type { Http2Stream } from '../transport/http2/stream.ts';
import { SocketByteStream } from '../transport/socket-stream.ts';
import { GRPC_STATUS, GrpcStatusError } from './grpc-error.ts';
import { GRPC_CONTENT_TYPE } from './message-framing.ts';
import { Metadata } from './metadata.ts';
import { type HeldBytes, ServerCall } from './server-call.ts';
import type { GrpcServerLimits } from './server-limits.ts';
import type { MethodKind } from './service.ts';
import { parseTimeout } from './timeout.ts';

/** What a client may have sent and nobody read yet: of one call, and of all calls of its connection. */
const STREAM_WINDOW = 65_535;
const CONNECTION_WINDOW = 256 * 1024;
const MAX_HEADER_COUNT = 64;
/** Of answers that a client does not read. */
const MAX_UNREAD_CONTROL = 64 * 1024;
/** GrpcServer has the deadline of a drain. */
const NO_DEADLINE_MS = 2 ** 31 - 1;

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
 * One connection of a client: `open`, `draining` after GOAWAY, and `closed` with its socket: only forward. Whatever a client calls the
 * server (`:authority`) is taken: on a unix socket some say `localhost`, some the socket's path.
 */
export class ServerSession<Peer> {
  readonly #options: ServerSessionOptions<Peer>;
  readonly #connection: Http2Connection;
  readonly #calls = new Map<ServerCall<Peer>, MethodKind>();
  readonly #held: HeldBytes = { used: 0 };
  #state: 'open' | 'draining' | 'closed' = 'open';
  /** When it began, or its last stream ended. */
  #idleSince: number = performance.now();

  constructor(options: ServerSessionOptions<Peer>) {
    const { socket, limits, onClose } = options;
    this.#options = options;
    const closed = (): void => {
      this.#state = 'closed';
      onClose();
    };
    if (socket.closed) setImmediate(closed);
    else socket.once('close', closed);
    this.#connection = new Http2Connection(
      'server',
      new SocketByteStream(socket),
      { onStream: (stream, head, fields) => this.#begin(stream, head, fields), onClose() {} },
      {
        streamWindow: STREAM_WINDOW,
        connectionWindow: CONNECTION_WINDOW,
        maxConcurrentStreams: limits.maxStreamsPerSession,
        maxHeaderListSize: limits.maxHeaderListBytes,
        maxHeaderCount: MAX_HEADER_COUNT,
        maxHeaderBlock: limits.maxHeaderListBytes,
        maxUnreadControl: MAX_UNREAD_CONTROL,
        settingsTimeoutMs: limits.handshakeTimeoutMs,
        // A process at the other end of a unix socket cannot go without the socket's end.
        keepAliveMs: socket.remoteAddress === undefined ? 0 : limits.keepaliveIntervalMs,
        keepAliveTimeoutMs: limits.keepaliveTimeoutMs,
        resetBurst: limits.resetBurst,
        resetsPerSecond: limits.resetsPerSecond,
        countLateResets: true,
      },
    );
  }

  /**
   * GOAWAY: no new calls, and those of streaming methods end with UNAVAILABLE, since they would not by themselves. The connection closes
   * after the last.
   */
  drain(): void {
    if (this.#state !== 'open') return;
    this.#state = 'draining';
    for (const [call, kind] of this.#calls) if (kind !== 'unary') call.cancel(goingAway());
    this.#connection.drain(NO_DEADLINE_MS);
  }

  /** Ends what is left, at once; the calls' statuses go out first. */
  destroy(): void {
    for (const call of this.#calls.keys()) call.cancel(goingAway());
    this.#connection.destroy();
    // It would wait a moment for the client to close too; places are needed now.
    setImmediate(() => this.#options.socket.destroy());
  }

  /** Looks after its idle time; called every now and then. */
  check(now: number): void {
    if (this.#calls.size === 0 && now - this.#idleSince > this.#options.limits.idleTimeoutMs) this.drain();
  }

  #begin(stream: Http2Stream, head: RequestHead, fields: HeaderList): void {
    const { methods, limits, peer } = this.#options;
    if (head.method !== 'POST') return refuse(stream, 405);
    if (!GRPC_CONTENT_TYPE.test(fieldValue(fields, 'content-type') ?? '')) return refuse(stream, 415);

    const call = new ServerCall(stream, new Metadata(fields), peer, limits, this.#held, () => {
      this.#calls.delete(call);
      this.#idleSince = performance.now();
    });
    if (this.#held.used > limits.maxHeldBytes) {
      return call.end(new GrpcStatusError(GRPC_STATUS.RESOURCE_EXHAUSTED, 'too much metadata in the calls of this connection'));
    }
    const method = methods.get(head.path);
    if (method === undefined) return call.end(new GrpcStatusError(GRPC_STATUS.UNIMPLEMENTED, 'there is no such method'));
    const encoding = fieldValue(fields, 'grpc-encoding');
    if (encoding !== null && encoding !== 'identity') {
      return call.end(new GrpcStatusError(GRPC_STATUS.UNIMPLEMENTED, 'compressed messages are not supported'));
    }
    const timeout = fieldValue(fields, 'grpc-timeout');
    if (timeout !== null) {
      const milliseconds = parseTimeout(timeout);
      if (milliseconds === null) return call.end(new GrpcStatusError(GRPC_STATUS.INVALID_ARGUMENT, 'malformed grpc-timeout'));
      call.limitTo(milliseconds);
    }
    // It was on its way when the drain began.
    if (this.#state !== 'open' && method.kind !== 'unary') return call.end(goingAway());
    this.#calls.set(call, method.kind);
    void method.serve(call);
  }
}

function goingAway(): GrpcStatusError {
  return new GrpcStatusError(GRPC_STATUS.UNAVAILABLE, 'the server is going away');
}

/** What is not gRPC gets an answer of HTTP. */
function refuse(stream: Http2Stream, status: number): void {
  stream.respond([':status', String(status)], true);
  stream.finish();
  // What else it sends is thrown away.
  stream.resume();
}
