import type { ByteStreamHandler } from '../model/byte-stream.ts';
import { ErrorCode } from '../transport/http2/errors.ts';
import type { Http2Stream } from '../transport/http2/stream.ts';
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

const ANSWER_FIELDS = [':status', '200', 'content-type', 'application/grpc', 'grpc-accept-encoding', 'identity'];

/** Bytes of messages that are not complete, and of metadata, of all calls of one session. */
export interface HeldBytes {
  used: number;
}

/**
 * One call at the server: an HTTP/2 stream, seen as messages and a status. Invariant: it ends once, by `end`; whatever comes later changes
 * nothing, and `signal` is aborted exactly when it ended with an error that the handler did not choose.
 */
export class ServerCall<Peer> implements Call<Peer>, ByteStreamHandler {
  readonly peer: Peer;
  readonly metadata: Metadata;
  readonly #stream: Http2Stream;
  readonly #limits: GrpcServerLimits;
  readonly #held: HeldBytes;
  #ended: GrpcStatusError | 'by handler' | null = null;
  // Made when somebody looks at it: most of ten thousand idle streams share their handler's.
  #controller: AbortController | null = null;
  #deadline: NodeJS.Timeout | null = null;
  /** Until a client that does not read has taken the end. */
  #ending: NodeJS.Timeout | null = null;
  readonly #onClosed: () => void;
  #headSent = false;
  #closed = false;
  /** What came and was not taken; there is no more than this, since the stream is paused with it. */
  #chunk: Buffer | null = null;
  #requestsEnded = false;
  /** Whoever waits for a chunk, for room to send, or for the end. */
  #waiters: (() => void)[] = [];

  /** @param onClosed called when the stream is over, however it ended */
  constructor(stream: Http2Stream, metadata: Metadata, peer: Peer, limits: GrpcServerLimits, held: HeldBytes, onClosed: () => void) {
    this.peer = peer;
    this.metadata = metadata;
    this.#stream = stream;
    this.#limits = limits;
    this.#held = held;
    held.used += metadata.size;
    this.#onClosed = onClosed;
    // A client that reset its call wants no answer, whatever part of its requests was not read yet; and the stream counts no more.
    stream.cancelAtOnce = true;
    stream.attach(this);
  }

  onData(chunk: Buffer): void {
    // After the end nobody takes it.
    if (this.#ended !== null) return;
    this.#stream.pause();
    this.#chunk = chunk;
    this.#wake();
  }

  onEnd(): void {
    this.#requestsEnded = true;
    this.#wake();
  }

  onDrain(): void {
    this.#wake();
  }

  onClose(): void {
    this.#closed = true;
    this.#held.used -= this.metadata.size;
    if (this.#deadline !== null) clearTimeout(this.#deadline);
    if (this.#ending !== null) clearTimeout(this.#ending);
    this.cancel(new GrpcStatusError(GRPC_STATUS.CANCELLED, 'the client is gone'));
    this.#wake();
    this.#onClosed();
  }

  #wake(): void {
    for (const wake of this.#waiters.splice(0)) wake();
  }

  #change(): Promise<void> {
    return new Promise((resolve) => this.#waiters.push(resolve));
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
    this.#wake();
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
      this.#held.used += framing.pending - counted;
      counted = framing.pending;
      if (this.#held.used > this.#limits.maxHeldBytes) {
        throw new GrpcStatusError(GRPC_STATUS.RESOURCE_EXHAUSTED, 'too many unfinished messages on this connection, or too much metadata');
      }
    };
    try {
      for (let chunk = await this.#nextChunk(); chunk !== null; chunk = await this.#nextChunk()) {
        yield* framing.push(chunk);
        count();
      }
    } finally {
      this.#held.used -= counted;
    }
    if (framing.pending > 0) throw new GrpcStatusError(GRPC_STATUS.INTERNAL, 'the last message is cut');
  }

  /** Null at the end of the requests. @throws GrpcStatusError with which the call ended */
  async #nextChunk(): Promise<Buffer | null> {
    for (;;) {
      const chunk = this.#chunk;
      this.#chunk = null;
      if (chunk !== null) return chunk;
      if (this.#requestsEnded) return null;
      this.#throwIfEnded();
      this.#stream.resume();
      await this.#change();
    }
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
      this.#stream.reset(ErrorCode.cancel);
    };
    const timer = setTimeout(expire, this.#limits.sendTimeoutMs).unref();
    try {
      while (this.#stream.wantsToSend && this.#ended === null && !this.#closed) await this.#change();
    } finally {
      clearTimeout(timer);
    }
    this.#throwIfEnded();
  }

  #throwIfEnded(): void {
    if (this.#ended === null) return;
    throw this.#ended instanceof GrpcStatusError ? this.#ended : new GrpcStatusError(GRPC_STATUS.CANCELLED, 'the call has ended');
  }

  #respond(trailers: Readonly<Record<string, string>>, endStream: boolean): void {
    if (this.#headSent) return;
    this.#headSent = true;
    this.#stream.respond([...ANSWER_FIELDS, ...Object.entries(trailers).flat()], endStream);
  }

  #writeStatus(error: GrpcStatusError | null): void {
    const stream = this.#stream;
    if (this.#deadline !== null) clearTimeout(this.#deadline);
    this.#chunk = null;
    if (stream.destroyed) return;
    const fields = statusFields(error);
    if (this.#headSent) stream.endWithTrailers(Object.entries(fields).flat());
    // "Trailers-Only".
    else this.#respond(fields, true);
    // What the client still sends would not be read: it is told so, and what is there already is thrown away.
    stream.finish();
    stream.resume();
    if (!this.#closed) this.#ending = setTimeout(() => stream.reset(ErrorCode.cancel), this.#limits.sendTimeoutMs).unref();
  }
}
