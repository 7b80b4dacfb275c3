import type { ByteStream, ByteStreamHandler } from '../../model/byte-stream.ts';
import type { Http2Connection } from './connection.ts';
import { ErrorCode, Http2Error, errorCodeName } from './errors.ts';
import type { HeaderList } from './hpack.ts';
import type { ResponseHead } from './message.ts';
import { StreamEvent, StreamState, nextStreamState } from './stream-state.ts';

const NOBODY: ByteStreamHandler = { onData() {}, onEnd() {}, onDrain() {}, onClose() {} };
/** Small chunks held for a paused reader are gathered in blocks of this size. */
const HELD_BLOCK_BYTES = 8192;
/** Smaller chunks are copied when held: a million one-byte frames must not become a million objects. */
const HELD_COPY_UNDER = 4096;

/**
 * One HTTP/2 stream: the body of a message in each direction as a ByteStream, and its header blocks.
 *
 * Invariants. The peer is given credit only for bytes that the handler took and did not pause for, so a paused stream holds at most its
 * receive window, what its handler could not pass on included.
 * Frames of a stream leave in the order of the calls. After `closed` was reached the connection no longer knows the stream; what the
 * peer had sent before an orderly end is still delivered.
 */
export class Http2Stream implements ByteStream {
  readonly id: number;
  readonly connection: Http2Connection;
  bytesRead = 0;
  bytesWritten = 0;
  destroyed = false;
  /** Client: called with every response head; 1xx heads come before the final one. Set it before the response can arrive. */
  onResponse: ((head: ResponseHead, fields: HeaderList, endStream: boolean) => void) | null = null;
  /** Called with the trailers, after the last data and before onEnd. */
  onTrailers: ((fields: HeaderList) => void) | null = null;

  /** @internal State of RFC 9113 section 5.1. */
  state: StreamState = StreamState.idle;
  /** @internal What the peer lets us send; negative after it shrank its window. */
  sendWindow: number;
  /** @internal What we let the peer send. */
  receiveWindow: number;
  /** @internal Taken by the handler, not yet credited to the peer. */
  uncredited = 0;
  /** @internal Body bytes the peer announced and still owes; -1: unknown. */
  owed = -1;
  /** @internal Waiting in the connection's round robin. */
  queued = false;
  /** @internal A CONNECT tunnel: nothing but DATA may follow its heads. */
  readonly isConnect: boolean;
  /** @internal The request was HEAD: its response has a content-length and no body. */
  readonly isHead: boolean;
  /** @internal Our head went out (server) or the final response came (client). */
  headDone = false;
  /** RST_STREAM ends this stream at once, even if the whole of the peer's message came before it and is not yet read: a cancelled request. */
  cancelAtOnce = false;

  #handler: ByteStreamHandler = NOBODY;
  #flowing = false;
  #delivering = false;
  #held: Buffer[] = [];
  #block: Buffer | null = null;
  #blockStart = 0;
  #blockEnd = 0;
  #heldTrailers: HeaderList | null = null;
  #farEnded = false;
  #endTold = false;
  #sending: Uint8Array[] = [];
  #ending = false;
  #endSent = false;
  #resetAfterEnd = false;
  /** Delivered to a handler that paused on it: credited when it goes on. */
  #owedCredit = 0;
  #trailers: readonly string[] | null = null;
  #needsDrain = false;
  #error: Error | null = null;
  #closeScheduled = false;
  #closeTold = false;

  constructor(connection: Http2Connection, id: number, method: string, sendWindow: number, receiveWindow: number) {
    this.connection = connection;
    this.id = id;
    this.isConnect = method === 'CONNECT';
    this.isHead = method === 'HEAD';
    this.sendWindow = sendWindow;
    this.receiveWindow = receiveWindow;
  }

  attach(handler: ByteStreamHandler): void {
    this.#handler = handler;
    if (this.#closeTold) return;
    if (this.#closeScheduled) setImmediate(tellClosed, this);
  }

  /** Takes the handler away: whoever attaches next is told what is still to come, the close included. */
  detach(): void {
    this.#handler = NOBODY;
    this.#closeTold = false;
  }

  /** Server: sends a response head, also an informational one. Call it once with a final status before writing. */
  respond(fields: readonly string[], endStream = false): void {
    if (this.destroyed || this.#ending) return;
    this.headDone = true;
    this.connection.stageHeaders(this, fields, endStream);
    if (endStream) this.headEnded();
  }

  /** @internal The head that was just staged carried END_STREAM. */
  headEnded(): void {
    this.#ending = true;
    this.#endSent = true;
    this.move(StreamEvent.sendEnd);
  }

  /** True once the end of our direction is staged, after everything written. */
  get endSent(): boolean {
    return this.#endSent;
  }

  /** True while a handler is attached. */
  get attached(): boolean {
    return this.#handler !== NOBODY;
  }

  /** Ends the sending direction with trailers, after everything written. */
  endWithTrailers(fields: readonly string[]): void {
    if (this.#ending || this.destroyed) return;
    this.#ending = true;
    this.#trailers = fields;
    if (this.#sending.length === 0) this.#sendEnd();
  }

  write(chunk: Uint8Array): boolean {
    if (this.#ending || this.destroyed) return true;
    const length = chunk.length;
    if (length === 0) return true;
    this.bytesWritten += length;
    if (this.#sending.length === 0) {
      const sent = this.connection.sendData(this, chunk);
      if (sent === length) {
        if (!this.connection.congested) return true;
        this.#needsDrain = true;
        this.connection.enqueue(this);
        return false;
      }
      this.#sending.push(compact(sent === 0 ? chunk : chunk.subarray(sent)));
    } else {
      this.#sending.push(compact(chunk));
    }
    this.#needsDrain = true;
    if (this.sendWindow > 0) this.connection.enqueue(this);
    return false;
  }

  end(): void {
    if (this.#ending || this.destroyed) return;
    this.#ending = true;
    if (this.#sending.length === 0) this.#sendEnd();
  }

  #sendEnd(): void {
    if (this.#trailers === null) this.connection.stageEnd(this);
    else this.connection.stageHeaders(this, this.#trailers, true);
    this.#endSent = true;
    this.move(StreamEvent.sendEnd);
    if (this.#resetAfterEnd && this.state === StreamState.halfClosedLocal) this.reset(ErrorCode.noError);
  }

  /**
   * Server, after end() or its like: once the end of the response is out, a client that still sends its request is told to stop, without
   * blame (RFC 9113 section 8.1).
   */
  finish(): void {
    if (this.destroyed) return;
    if (!this.#endSent) this.#resetAfterEnd = true;
    else if (this.state === StreamState.halfClosedLocal) this.reset(ErrorCode.noError);
  }

  /** Sends RST_STREAM with CANCEL, or with the code of an Http2Error. */
  destroy(error?: Error): void {
    this.reset(error instanceof Http2Error ? error.http2Code : ErrorCode.cancel, error);
  }

  /** Ends both directions at once with this RST_STREAM code. Idempotent. */
  reset(code: number, error?: Error): void {
    if (this.destroyed) return;
    const known = this.state !== StreamState.closed;
    if (known) this.connection.stageReset(this.id, code);
    this.abort(
      error ?? new Http2Error('WEFT_HTTP2_STREAM_DESTROYED', code, `stream ${this.id} was reset by this side with ${errorCodeName(code)}`),
    );
    if (known) this.move(StreamEvent.sendReset);
  }

  pause(): void {
    this.#flowing = false;
  }

  resume(): void {
    if (this.#flowing || this.destroyed) return;
    this.#flowing = true;
    if (this.#owedCredit > 0) {
      const owed = this.#owedCredit;
      this.#owedCredit = 0;
      this.connection.credit(this, owed);
    }
    if (this.#held.length > 0 || this.#block !== null || this.#farEnded) queueMicrotask(() => this.#deliverHeld());
  }

  /** True while bytes or an end are held for a paused reader. */
  get holding(): boolean {
    return this.#held.length > 0 || this.#block !== null;
  }

  // What follows is called by the connection.

  /** @internal Applies an event. False: the event may not happen now. */
  move(event: StreamEvent): boolean {
    const next = nextStreamState(this.state, event);
    if (next === -1) return false;
    const before = this.state;
    this.state = next;
    if (next === StreamState.closed && before !== StreamState.closed) {
      this.connection.forget(this);
      this.#finish();
    }
    return true;
  }

  /** @internal DATA that fits the windows. */
  receive(chunk: Buffer): void {
    if (this.#flowing && !this.#delivering && this.#held.length === 0 && this.#block === null) {
      this.#deliver(chunk);
      return;
    }
    this.#hold(chunk);
  }

  #deliver(chunk: Buffer): void {
    this.bytesRead += chunk.length;
    this.#handler.onData(chunk);
    if (this.#flowing || this.destroyed) this.connection.credit(this, chunk.length);
    else this.#owedCredit += chunk.length;
  }

  /** Keeps a chunk for a paused reader. A small view would keep its whole socket chunk alive, so it is copied. */
  #hold(chunk: Buffer): void {
    if (chunk.length >= HELD_COPY_UNDER && chunk.length * 2 >= chunk.buffer.byteLength) {
      this.#sealBlock();
      this.#held.push(chunk);
      return;
    }
    let from = 0;
    while (from < chunk.length) {
      if (this.#block === null) {
        this.#block = Buffer.allocUnsafeSlow(HELD_BLOCK_BYTES);
        this.#blockStart = 0;
        this.#blockEnd = 0;
      }
      const taken = Math.min(chunk.length - from, HELD_BLOCK_BYTES - this.#blockEnd);
      chunk.copy(this.#block, this.#blockEnd, from, from + taken);
      this.#blockEnd += taken;
      from += taken;
      if (this.#blockEnd === HELD_BLOCK_BYTES) this.#sealBlock();
    }
  }

  #sealBlock(): void {
    if (this.#block === null) return;
    this.#held.push(this.#block.subarray(this.#blockStart, this.#blockEnd));
    this.#block = null;
  }

  #deliverHeld(): void {
    if (this.#delivering) return;
    this.#delivering = true;
    while (this.#flowing && !this.destroyed) {
      if (this.#held.length === 0) this.#sealBlock();
      const chunk = this.#held.shift();
      if (chunk === undefined) break;
      this.#deliver(chunk);
    }
    this.#delivering = false;
    this.#deliverEnd();
  }

  #deliverEnd(): void {
    if (!this.#farEnded || this.#endTold || !this.#flowing || this.destroyed || this.holding || this.#delivering) return;
    this.#endTold = true;
    if (this.#heldTrailers !== null) this.onTrailers?.(this.#heldTrailers);
    this.#handler.onEnd();
    this.#finish();
  }

  /** @internal END_STREAM came, with trailers or without. */
  receiveEnd(trailers: HeaderList | null): void {
    this.#farEnded = true;
    this.#heldTrailers = trailers;
    // The handler first: moving may close the stream.
    this.#deliverEnd();
    this.move(StreamEvent.receiveEnd);
  }

  /** @internal RST_STREAM came. What was complete before it is still delivered. */
  receiveReset(code: number, reason = ''): void {
    const error = new Http2Error(
      code === ErrorCode.refusedStream ? 'WEFT_HTTP2_STREAM_REFUSED' : 'WEFT_HTTP2_STREAM_RESET',
      code,
      `the peer reset stream ${this.id} with ${errorCodeName(code)}${reason === '' ? '' : `: ${reason}`}`,
      { nextStep: 'look for the reason in the peer’s log' },
    );
    if (this.#farEnded && !this.#endTold && !this.cancelAtOnce) {
      this.#error ??= error;
      this.#ending = true;
      this.#sending = [];
    } else {
      this.abort(error);
    }
    this.move(StreamEvent.receiveReset);
  }

  /** @internal The stream is over with an error: nothing more is delivered or sent. */
  abort(error: Error): void {
    if (this.destroyed) return;
    this.destroyed = true;
    this.#error ??= error;
    this.#sending = [];
    this.#sealBlock();
    let held = this.#owedCredit;
    this.#owedCredit = 0;
    for (let i = 0; i < this.#held.length; i++) held += (this.#held[i] as Buffer).length;
    this.#held = [];
    // Other streams must not starve for what nobody will read.
    if (held > 0) this.connection.creditConnection(held);
    this.#scheduleClose();
  }

  /** Orderly: both directions have ended and everything was delivered. */
  #finish(): void {
    if (this.state === StreamState.closed && this.#endTold && !this.destroyed) {
      this.destroyed = true;
      this.#scheduleClose();
    }
  }

  #scheduleClose(): void {
    if (this.#closeScheduled) return;
    this.#closeScheduled = true;
    setImmediate(tellClosed, this);
  }

  /** @internal */
  tellClosed(): void {
    if (this.#closeTold || this.#handler === NOBODY) return;
    this.#closeTold = true;
    this.#handler.onClose(this.#error);
  }

  /**
   * @internal The connection's round robin gives this stream a turn to send up to `quantum` bytes.
   * Returns true if it wants another turn now.
   */
  takeTurn(quantum: number): boolean {
    if (this.destroyed) return false;
    const chunk = this.#sending[0];
    if (chunk !== undefined) {
      const part = chunk.length > quantum ? chunk.subarray(0, quantum) : chunk;
      const sent = this.connection.stageData(this, part);
      if (sent === chunk.length) this.#sending.shift();
      else if (sent > 0) this.#sending[0] = chunk.subarray(sent);
    }
    if (this.#sending.length > 0) return this.sendWindow > 0;
    if (this.#ending) {
      if (this.state === StreamState.open || this.state === StreamState.halfClosedRemote) this.#sendEnd();
    } else if (this.#needsDrain) {
      this.#needsDrain = false;
      this.#handler.onDrain();
    }
    return false;
  }

  /** @internal Has something to send. */
  get wantsToSend(): boolean {
    return this.#sending.length > 0;
  }
}

/** What waits to be sent must not keep a whole read of the transport alive for a few bytes. */
function compact(chunk: Uint8Array): Uint8Array {
  if (chunk.length * 2 >= chunk.buffer.byteLength) return chunk;
  const copy = Buffer.allocUnsafeSlow(chunk.length);
  copy.set(chunk);
  return copy;
}

function tellClosed(stream: Http2Stream): void {
  stream.tellClosed();
}
