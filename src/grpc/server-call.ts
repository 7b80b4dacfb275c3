import { constants, type ServerHttp2Stream } from 'node:http2';
import { GRPC_STATUS, GrpcStatusError } from './grpc-error.ts';
import { frameMessage, MessageFraming } from './message-framing.ts';
import type { Metadata } from './metadata.ts';
import type { GrpcServerLimits } from './server-limits.ts';
import { statusFields } from './wire-status.ts';

/** What a handler knows of its caller. */
export interface Call<Peer> {
  /** As it was given to accept(). */
  readonly peer: Peer;
  readonly metadata: Metadata;
  /** Aborted when nobody waits for the answer any more: the client is gone, its deadline passed, or the server closes. */
  readonly signal: AbortSignal;
}

/** Bytes of messages that are not complete, of all calls of one session. */
export interface UnfinishedBytes {
  used: number;
}

/**
 * One call at the server: an HTTP/2 stream, seen as messages and a status. Invariant: it ends once, by `end`; whatever comes later changes
 * nothing, and `signal` is aborted exactly when it ended with an error that the handler did not choose.
 */
export class ServerCall<Peer> implements Call<Peer> {
  readonly peer: Peer;
  readonly metadata: Metadata;
  readonly #stream: ServerHttp2Stream;
  readonly #limits: GrpcServerLimits;
  readonly #unfinished: UnfinishedBytes;
  #ended: GrpcStatusError | 'by handler' | null = null;
  // Made when somebody looks at it: most of ten thousand idle streams share their handler's.
  #controller: AbortController | null = null;
  #deadline: NodeJS.Timeout | null = null;

  constructor(stream: ServerHttp2Stream, metadata: Metadata, peer: Peer, limits: GrpcServerLimits, unfinished: UnfinishedBytes) {
    this.peer = peer;
    this.metadata = metadata;
    this.#stream = stream;
    this.#limits = limits;
    this.#unfinished = unfinished;
    // Its reason is of no use to a server, and 'close' follows.
    stream.on('error', () => {});
    stream.once('close', () => {
      if (this.#deadline !== null) clearTimeout(this.#deadline);
      this.cancel(new GrpcStatusError(GRPC_STATUS.CANCELLED, 'the client is gone'));
    });
  }

  get signal(): AbortSignal {
    if (this.#controller === null) {
      this.#controller = new AbortController();
      if (this.#ended instanceof GrpcStatusError) this.#controller.abort(this.#ended);
    }
    return this.#controller.signal;
  }

  get hasEnded(): boolean {
    return this.#ended !== null;
  }

  /** From now on the call has so much time, and ends with DEADLINE_EXCEEDED. */
  limitTo(milliseconds: number): void {
    const expire = (): void => this.cancel(new GrpcStatusError(GRPC_STATUS.DEADLINE_EXCEEDED, 'the deadline passed'));
    this.#deadline = setTimeout(expire, milliseconds).unref();
  }

  /** Ends the call before its handler does. */
  cancel(error: GrpcStatusError): void {
    if (this.#ended !== null) return;
    this.#ended = error;
    this.#controller?.abort(error);
    this.#writeStatus(error);
  }

  /** Ends the call as its handler says: OK for null. */
  end(error: GrpcStatusError | null): void {
    if (this.#ended !== null) return;
    this.#ended = 'by handler';
    this.#writeStatus(error);
  }

  /**
   * The request of a method that takes one.
   * @throws GrpcStatusError INTERNAL when there are none or several, DEADLINE_EXCEEDED when it does not come, and what messages() throws
   */
  async message(): Promise<Buffer> {
    const expire = (): void => this.cancel(new GrpcStatusError(GRPC_STATUS.DEADLINE_EXCEEDED, 'the request did not come'));
    const timer = setTimeout(expire, this.#limits.requestTimeoutMs).unref();
    try {
      let request: Buffer | null = null;
      for await (const message of this.messages()) {
        if (request !== null) throw new GrpcStatusError(GRPC_STATUS.INTERNAL, 'several requests for a method that takes one');
        request = message;
      }
      if (request === null) throw new GrpcStatusError(GRPC_STATUS.INTERNAL, 'no request');
      return request;
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * Requests as they come, read only as fast as they are taken.
   * @throws GrpcStatusError RESOURCE_EXHAUSTED, UNIMPLEMENTED or INTERNAL for what is no message; with which the call ended, when it did
   */
  async *messages(): AsyncGenerator<Buffer> {
    const framing = new MessageFraming(this.#limits.maxMessageBytes);
    let counted = 0;
    const count = (): void => {
      this.#unfinished.used += framing.pending - counted;
      counted = framing.pending;
      if (this.#unfinished.used > this.#limits.maxUnfinishedBytes) {
        throw new GrpcStatusError(GRPC_STATUS.RESOURCE_EXHAUSTED, 'too many unfinished messages on this connection');
      }
    };
    try {
      for await (const chunk of this.#stream.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
        yield* framing.push(chunk);
        count();
      }
    } catch (error) {
      throw this.#ended instanceof GrpcStatusError ? this.#ended : error;
    } finally {
      this.#unfinished.used -= counted;
    }
    if (framing.pending > 0) throw new GrpcStatusError(GRPC_STATUS.INTERNAL, 'the last message is cut');
  }

  /**
   * Sends one message, and resolves when there is room for the next.
   * @throws GrpcStatusError with which the call ended
   */
  async send(message: Uint8Array): Promise<void> {
    this.#throwIfEnded();
    if (message.length > this.#limits.maxMessageBytes) {
      throw new GrpcStatusError(GRPC_STATUS.RESOURCE_EXHAUSTED, `an answer of ${message.length} bytes is over the limit`);
    }
    this.#respond({}, false);
    if (this.#stream.write(frameMessage(message))) return;
    const expire = (): void => {
      this.cancel(new GrpcStatusError(GRPC_STATUS.CANCELLED, 'the client does not read'));
      this.#stream.close(constants.NGHTTP2_CANCEL);
    };
    const timer = setTimeout(expire, this.#limits.sendTimeoutMs).unref();
    try {
      await this.#drained();
    } finally {
      clearTimeout(timer);
    }
    this.#throwIfEnded();
  }

  #drained(): Promise<void> {
    const stream = this.#stream;
    return new Promise((resolve) => {
      const settle = (): void => {
        stream.off('drain', settle).off('close', settle).off('finish', settle);
        resolve();
      };
      stream.on('drain', settle).on('close', settle).on('finish', settle);
    });
  }

  #throwIfEnded(): void {
    if (this.#ended === null) return;
    throw this.#ended instanceof GrpcStatusError ? this.#ended : new GrpcStatusError(GRPC_STATUS.CANCELLED, 'the call has ended');
  }

  #respond(trailers: Readonly<Record<string, string>>, endStream: boolean): void {
    if (this.#stream.headersSent) return;
    const headers = { ':status': 200, 'content-type': 'application/grpc', 'grpc-accept-encoding': 'identity', ...trailers };
    this.#stream.respond(headers, endStream ? { endStream } : { waitForTrailers: true });
  }

  #writeStatus(error: GrpcStatusError | null): void {
    const stream = this.#stream;
    if (this.#deadline !== null) clearTimeout(this.#deadline);
    if (stream.destroyed || stream.closed) return;
    const fields = statusFields(error);
    if (stream.headersSent) {
      stream.once('wantTrailers', () => {
        stream.sendTrailers(fields);
        this.#stopRequests();
      });
      stream.end();
    } else {
      // "Trailers-Only".
      this.#respond(fields, true);
      this.#stopRequests();
    }
    // A client that does not read would keep it open.
    const timer = setTimeout(() => stream.close(constants.NGHTTP2_CANCEL), this.#limits.sendTimeoutMs).unref();
    stream.once('close', () => clearTimeout(timer));
  }
  /** What the client still sends would not be read: RFC 9113 section 8.1, RST_STREAM with NO_ERROR after a complete answer. */
  #stopRequests(): void {
    if (!this.#stream.readableEnded) setImmediate(() => this.#stream.close(constants.NGHTTP2_NO_ERROR));
  }
}
