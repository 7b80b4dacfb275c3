import type { Duplex } from 'node:stream';
import { ClientCall } from './client-call.ts';
import { CallEnding } from './call-ending.ts';
import { ClientSession } from './client-session.ts';
import { GRPC_STATUS, GrpcError, GrpcStatusError } from './grpc-error.ts';
import { type DecodeLimits, DEFAULT_DECODE_LIMITS, decodeMessage, encodeMessage, type MessageType } from './message.ts';
import { type MetadataEntries, metadataFields } from './metadata.ts';
import type { AnyMethod, MethodDefinition } from './service.ts';
import { formatTimeout } from './timeout.ts';

export interface GrpcClientOptions {
  /** A connection to the server, secured and verified by the caller; aborted when nobody waits for it any more. */
  readonly connect: (signal: AbortSignal) => Promise<Duplex>;
  /** For `:authority`: the server's name, or `localhost` on a unix socket. */
  readonly authority: string;
  /** `:scheme`; of a TLS connection 'https'. Default 'http'. */
  readonly scheme?: 'http' | 'https';
  /** Of one answer. Default: DEFAULT_DECODE_LIMITS. */
  readonly answerLimits?: DecodeLimits;
  /** Until there is a connection. Default 10 s. */
  readonly connectTimeoutMs?: number;
  /**
   * While calls wait, the server is asked so often whether it is there (PING), and has as long to answer. Default: never, since servers
   * that do not expect it count it as abuse (gRPC's own: more than once in five minutes).
   */
  readonly keepaliveIntervalMs?: number;
}

export interface CallOptions {
  readonly metadata?: MetadataEntries;
  readonly signal?: AbortSignal;
  /** Milliseconds for the whole call; the server is told. A stream without it has no end of its own. */
  readonly timeoutMs?: number;
}

const DEFAULT_CONNECT_TIMEOUT_MS = 10_000;

/**
 * Calls the services of one server over one HTTP/2 connection. Invariant: at most one session takes new calls; it is made by the first
 * call, and anew by the next one after it broke or the server sent GOAWAY. There are no retries: UNAVAILABLE says that one may be tried.
 * Idle, it does not keep the process alive.
 */
export class GrpcClient implements AsyncDisposable {
  readonly #options: GrpcClientOptions;
  #session: Promise<ClientSession> | null = null;
  /** All that are open: also those that take no new calls. */
  readonly #sessions = new Set<ClientSession>();
  readonly #calls = new Set<CallEnding>();
  readonly #closing = new AbortController();
  #onIdle: () => void = () => {};

  constructor(options: GrpcClientOptions) {
    this.#options = options;
  }

  /**
   * Calls a method that takes one request and gives one answer.
   * @throws GrpcStatusError with the status of the call; UNAVAILABLE when there is no connection
   */
  async unary<Request, Response>(
    method: MethodDefinition<Request, Response>,
    request: NoInfer<Request>,
    options: CallOptions & { readonly timeoutMs: number },
  ): Promise<Response> {
    let answer: Response | null = null;
    for await (const each of this.#call(method, encodeMessage(method.request, request), options)) {
      if (answer !== null) throw new GrpcStatusError(GRPC_STATUS.INTERNAL, 'several answers of a method that gives one');
      answer = each;
    }
    if (answer === null) throw new GrpcStatusError(GRPC_STATUS.INTERNAL, 'no answer');
    return answer;
  }

  /**
   * Calls a method that gives many answers. Ending the iteration cancels the call.
   * @throws GrpcStatusError as unary(), out of the iteration
   */
  serverStream<Request, Response>(
    method: MethodDefinition<Request, Response>,
    request: NoInfer<Request>,
    options: CallOptions = {},
  ): AsyncIterable<Response> {
    return this.#call(method, encodeMessage(method.request, request), options);
  }

  /**
   * Calls a method that takes and gives many messages; requests are taken as fast as the server reads them. Ending the iteration cancels it.
   * @throws GrpcStatusError as unary(), out of the iteration
   */
  bidi<Request, Response>(
    method: MethodDefinition<Request, Response>,
    requests: AsyncIterable<NoInfer<Request>>,
    options: CallOptions = {},
  ): AsyncIterable<Response> {
    return this.#call(method, encodeAll(method.request, requests), options);
  }

  async *#call<Response>(
    method: AnyMethod & { readonly response: MessageType<Response> },
    requests: Uint8Array | AsyncIterable<Uint8Array>,
    { metadata = {}, signal, timeoutMs }: CallOptions,
  ): AsyncGenerator<Response> {
    const fields = metadataFields(metadata);
    using ending = new CallEnding([this.#closing.signal, ...(signal === undefined ? [] : [signal])], timeoutMs ?? null);
    using _counted = this.#count(ending);
    const session = await ending.race(this.#connected());
    const { authority, scheme = 'http', answerLimits = DEFAULT_DECODE_LIMITS } = this.#options;
    const headers = {
      ':method': 'POST',
      ':scheme': scheme,
      ':authority': authority,
      ':path': method.path,
      'content-type': 'application/grpc',
      te: 'trailers',
      ...(timeoutMs === undefined ? {} : { 'grpc-timeout': formatTimeout(timeoutMs) }),
      ...fields,
    };
    const call = new ClientCall(session.request(headers), answerLimits.maxBytes, () => session.isConnected);
    ending.attach(call);
    if (requests instanceof Uint8Array) call.send(requests);
    else void call.sendAll(requests);
    for await (const answer of call.answers()) yield decodeAnswer(method.response, answer, answerLimits);
  }

  #count(call: CallEnding): Disposable {
    this.#calls.add(call);
    return {
      [Symbol.dispose]: () => {
        this.#calls.delete(call);
        if (this.#calls.size === 0) this.#onIdle();
      },
    };
  }

  #connected(): Promise<ClientSession> {
    if (this.#session !== null) return this.#session;
    const session = this.#connect();
    const forget = (): void => {
      if (this.#session === session) this.#session = null;
    };
    this.#session = session;
    session.then((open) => open.onRetired(forget), forget);
    return session;
  }

  async #connect(): Promise<ClientSession> {
    const { authority, scheme = 'http', connectTimeoutMs = DEFAULT_CONNECT_TIMEOUT_MS, keepaliveIntervalMs = null } = this.#options;
    const giveUp = new AbortController();
    using ending = new CallEnding([this.#closing.signal], connectTimeoutMs);
    const connection = this.#options.connect(giveUp.signal);
    try {
      const socket = await ending.race(connection);
      const session = new ClientSession(socket, `${scheme}://${authority}`, keepaliveIntervalMs);
      this.#sessions.add(session);
      session.onClosed(() => this.#sessions.delete(session));
      return session;
    } catch (cause) {
      giveUp.abort(cause);
      // It may still come, and would have no owner.
      connection.then(
        (socket) => socket.destroy(),
        () => {},
      );
      throw new GrpcStatusError(GRPC_STATUS.UNAVAILABLE, `no connection to ${authority}`, { cause });
    }
  }

  /** Lets the calls under way end, within `ms`, and closes. For when another client takes the new ones. */
  async drain(ms: number): Promise<void> {
    if (this.#calls.size > 0) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#onIdle = resolve;
      const timer = setTimeout(resolve, ms);
      await promise;
      clearTimeout(timer);
    }
    await this[Symbol.asyncDispose]();
  }

  /** Ends all calls with CANCELLED, and the connections. Later calls fail. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort(new GrpcStatusError(GRPC_STATUS.CANCELLED, 'the client is closed'));
    const open = [...this.#sessions];
    await Promise.all(open.map((session) => session.destroy()));
  }
}

async function* encodeAll<Message>(type: MessageType<Message>, messages: AsyncIterable<Message>): AsyncGenerator<Uint8Array> {
  for await (const message of messages) yield encodeMessage<Message>(type, message);
}

function decodeAnswer<Response>(type: MessageType<Response>, bytes: Uint8Array, limits: DecodeLimits): Response {
  try {
    return decodeMessage(type, bytes, limits);
  } catch (cause) {
    if (!(cause instanceof GrpcError)) throw cause;
    throw new GrpcStatusError(GRPC_STATUS.INTERNAL, `the answer is ${cause.message}`, { cause });
  }
}
