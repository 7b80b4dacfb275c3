import type { Socket } from 'node:net';
import { type LifecycleState, mayMove } from '../model/lifecycle.ts';
import { GRPC_STATUS, GrpcError, GrpcStatusError } from './grpc-error.ts';
import { decodeMessage, encodeMessage, type MessageType } from './message.ts';
import { Reflection, REFLECTION_SERVICES } from './reflection.ts';
import type { Call, ServerCall } from './server-call.ts';
import { DEFAULT_GRPC_SERVER_LIMITS, type GrpcServerLimits } from './server-limits.ts';
import { type ServedMethod, ServerSession } from './server-session.ts';
import type { AnyMethod, MethodDefinition, ServiceDefinition } from './service.ts';

export type { Call } from './server-call.ts';
export { DEFAULT_GRPC_SERVER_LIMITS, type GrpcServerLimits } from './server-limits.ts';

export interface GrpcServerOptions<Peer> {
  readonly limits?: Partial<GrpcServerLimits>;
  /**
   * Who counts as one peer for `maxSessionsPerPeer`: a workload, a SPIFFE ID. When there are `maxSessions`, a peer with fewer than another gets the
   * place of the other's oldest. By default every connection is a peer of its own.
   */
  readonly peerKey?: (peer: Peer) => string;
  /** Told of what a handler threw that was no GrpcStatusError, and of answers that could not be sent; the client got INTERNAL. */
  readonly onError?: (error: unknown, path: string) => void;
}

/** Answers a request; what it throws is the status of the call (a GrpcStatusError), or INTERNAL. */
export type UnaryHandler<Request, Response, Peer> = (request: Request, call: Call<Peer>) => Promise<Response>;

/** Sends one answer, and resolves when there is room for the next. @throws GrpcStatusError when the call has ended */
export type Send<Response> = (message: Response) => Promise<void>;

/** Sends answers until it returns, which ends the call with OK. `call.signal` says when nobody listens any more. */
export type ServerStreamHandler<Request, Response, Peer> = (request: Request, call: Call<Peer>, send: Send<Response>) => Promise<void>;

/** As a ServerStreamHandler; requests are read as fast as they are taken, and end when the client says so. */
export type BidiHandler<Request, Response, Peer> = (
  requests: AsyncIterable<Request>,
  call: Call<Peer>,
  send: Send<Response>,
) => Promise<void>;

/** Timeouts are looked after in steps of this part of the shortest. */
const CHECKS_PER_TIMEOUT = 4;
const MIN_CHECK_MS = 10;

/**
 * A gRPC server for connections that somebody else accepted, and knows the peer of: by SO_PEERCRED of a unix socket, or by the certificate
 * of a TLS socket. `running` until drain() or disposal, then `draining`, then `stopped`; the state only moves forward. Sockets that it
 * accepted are its own.
 */
export class GrpcServer<Peer> implements AsyncDisposable {
  readonly #limits: GrpcServerLimits;
  readonly #options: GrpcServerOptions<Peer>;
  readonly #methods = new Map<string, ServedMethod<Peer>>();
  readonly #sessions = new Set<ServerSession<Peer>>();
  /** By peer, in the order in which they began. */
  readonly #sessionsOf = new Map<string, Set<ServerSession<Peer>>>();
  readonly #checks: NodeJS.Timeout;
  readonly #drained: PromiseWithResolvers<void> = Promise.withResolvers();
  #state: LifecycleState = 'running';

  constructor(options: GrpcServerOptions<Peer> = {}) {
    this.#options = options;
    this.#limits = { ...DEFAULT_GRPC_SERVER_LIMITS, ...options.limits };
    const { handshakeTimeoutMs, idleTimeoutMs, keepaliveIntervalMs, keepaliveTimeoutMs } = this.#limits;
    const shortest = Math.min(handshakeTimeoutMs, idleTimeoutMs, keepaliveIntervalMs, keepaliveTimeoutMs);
    this.#checks = setInterval(
      () => {
        const now = performance.now();
        for (const session of this.#sessions) session.check(now);
      },
      Math.max(shortest / CHECKS_PER_TIMEOUT, MIN_CHECK_MS),
    ).unref();
  }

  get state(): LifecycleState {
    return this.#state;
  }

  /** Connections that are open. */
  get sessions(): number {
    return this.#sessions.size;
  }

  /** Serves a method that takes one request and gives one answer. @throws GrpcError WEFT_GRPC_DEFINITION when the path is taken */
  add<Request, Response>(method: MethodDefinition<Request, Response>, handler: UnaryHandler<Request, Response, Peer>): this {
    return this.#serve(method, 'unary', async (call) => {
      const request = decodeRequest(method.request, await call.message());
      await call.send(encodeMessage(method.response, await handler(request, call)));
    });
  }

  /** Serves a method that takes one request and gives many answers. @throws GrpcError WEFT_GRPC_DEFINITION when the path is taken */
  addServerStream<Request, Response>(
    method: MethodDefinition<Request, Response>,
    handler: ServerStreamHandler<Request, Response, Peer>,
  ): this {
    return this.#serve(method, 'server-stream', async (call) => {
      const request = decodeRequest(method.request, await call.message());
      await handler(request, call, (message) => call.send(encodeMessage(method.response, message)));
    });
  }

  /** Serves a method that takes and gives many messages. @throws GrpcError WEFT_GRPC_DEFINITION when the path is taken */
  addBidi<Request, Response>(method: MethodDefinition<Request, Response>, handler: BidiHandler<Request, Response, Peer>): this {
    return this.#serve(method, 'bidi', async (call) => {
      const requests = decodeRequests(method.request, call.messages());
      await handler(requests, call, (message) => call.send(encodeMessage(method.response, message)));
    });
  }

  /**
   * Tells clients what these services look like (grpc.reflection.v1 and v1alpha), which are listed with reflection itself.
   * @throws GrpcError WEFT_GRPC_DEFINITION when the services cannot be described together
   */
  reflect(services: readonly ServiceDefinition[]): this {
    const reflection = new Reflection([...services, ...REFLECTION_SERVICES.map(({ service }) => service)]);
    for (const { method } of REFLECTION_SERVICES) {
      this.addBidi(method, async (requests, _call, send) => {
        for await (const request of requests) await send(reflection.answer(request));
      });
    }
    return this;
  }

  #serve(method: AnyMethod, kind: AnyMethod['kind'], run: (call: ServerCall<Peer>) => Promise<void>): this {
    const { path } = method;
    if (method.kind !== kind || this.#methods.has(path)) {
      throw new GrpcError('WEFT_GRPC_DEFINITION', `${path} is served already, or is not of the kind ${kind}`);
    }
    const serve = async (call: ServerCall<Peer>): Promise<void> => {
      try {
        await run(call);
        call.end(null);
      } catch (error) {
        if (error instanceof GrpcStatusError) return call.end(error);
        // After its end a call's failures are only that it ended.
        if (!call.hasEnded) this.#options.onError?.(error, path);
        call.end(new GrpcStatusError(GRPC_STATUS.INTERNAL, 'internal error'));
      }
    };
    this.#methods.set(path, { kind, serve });
    return this;
  }

  /**
   * Serves a connection: a unix socket, or a TLS socket whose peer was verified (HTTP/2 with prior knowledge, or by ALPN). False when there
   * are too many, or the server is closing: the socket is then destroyed.
   */
  accept(socket: Socket, peer: Peer): boolean {
    const key = this.#options.peerKey?.(peer) ?? null;
    const ofPeer = key === null ? 0 : (this.#sessionsOf.get(key)?.size ?? 0);
    const { maxSessions, maxSessionsPerPeer } = this.#limits;
    const isFull = this.#sessions.size >= maxSessions;
    if (this.#state !== 'running' || ofPeer >= maxSessionsPerPeer || (isFull && !this.#makeRoom(ofPeer))) {
      socket.on('error', () => {});
      socket.destroy();
      return false;
    }
    const session = new ServerSession({
      socket,
      peer,
      limits: this.#limits,
      methods: this.#methods,
      onClose: () => this.#forget(session, key),
    });
    this.#sessions.add(session);
    if (key !== null) this.#sessionsOf.set(key, (this.#sessionsOf.get(key) ?? new Set()).add(session));
    return true;
  }

  /** For a peer that has so many: false when no other has more than it will have then. */
  #makeRoom(ofPeer: number): boolean {
    let largest: ReadonlySet<ServerSession<Peer>> = new Set();
    for (const sessions of this.#sessionsOf.values()) if (sessions.size > largest.size) largest = sessions;
    if (largest.size <= ofPeer + 1) return false;
    const [oldest] = largest;
    oldest?.destroy();
    return true;
  }

  #forget(session: ServerSession<Peer>, key: string | null): void {
    this.#sessions.delete(session);
    if (key !== null) {
      const left = this.#sessionsOf.get(key);
      left?.delete(session);
      if (left?.size === 0) this.#sessionsOf.delete(key);
    }
    if (this.#state === 'draining' && this.#sessions.size === 0) this.#move('stopped');
  }

  /**
   * Takes no more connections and calls, ends streaming calls with UNAVAILABLE, waits for the others up to `milliseconds`, and then ends
   * them too. Resolves when every connection is closed.
   */
  async drain(milliseconds: number): Promise<void> {
    this.#move('draining');
    if (this.#sessions.size === 0) this.#move('stopped');
    for (const session of this.#sessions) session.drain();
    const timer = setTimeout(() => this.#destroy(), milliseconds);
    try {
      await this.#drained.promise;
    } finally {
      clearTimeout(timer);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#move('draining');
    if (this.#sessions.size === 0) this.#move('stopped');
    this.#destroy();
    await this.#drained.promise;
  }

  #destroy(): void {
    for (const session of this.#sessions) session.destroy();
  }

  #move(to: LifecycleState): void {
    if (!mayMove(this.#state, to)) return;
    this.#state = to;
    if (to !== 'stopped') return;
    clearInterval(this.#checks);
    this.#drained.resolve();
  }
}

/** "Error parsing request proto" is INTERNAL (grpc/doc/statuscodes.md). */
function decodeRequest<Request>(type: MessageType<Request>, bytes: Uint8Array): Request {
  try {
    return decodeMessage(type, bytes);
  } catch (cause) {
    if (!(cause instanceof GrpcError)) throw cause;
    throw new GrpcStatusError(GRPC_STATUS.INTERNAL, `the request is ${cause.message}`, { cause });
  }
}

async function* decodeRequests<Request>(type: MessageType<Request>, messages: AsyncIterable<Uint8Array>): AsyncGenerator<Request> {
  for await (const message of messages) yield decodeRequest(type, message);
}
