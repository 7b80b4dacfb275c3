import type { ByteStream, ByteStreamHandler } from '../../src/model/byte-stream.ts';

/** How a pair of in-memory streams behaves. Every option holds for both directions. */
export interface MemoryStreamOptions {
  /** `write` returns false once this many bytes wait to be read by the other end. Default 64 KiB. */
  readonly highWaterMark?: number;
  /** The most bytes handed to one `onData` call: small values split what was written. Default: chunks as written. */
  readonly chunkSize?: number;
  /** When bytes arrive: in a microtask after the write (default), or in a later turn of the event loop. */
  readonly delivery?: 'microtask' | 'immediate';
}

/** What a test may do with a memory stream beyond `ByteStream`. */
export interface MemoryStream extends ByteStream {
  /** Bytes written by the other end that this end has not read yet: what a kernel buffer would hold. */
  readonly unreadBytes: number;
  readonly paused: boolean;
  /** True once this end called end(). */
  readonly ended: boolean;
}

class MemoryStreamEnd implements MemoryStream {
  #peer: MemoryStreamEnd | null = null;
  #handler: ByteStreamHandler | null = null;
  /** Written by the peer, not yet delivered here. */
  readonly #inbox: Buffer[] = [];
  #scheduled = false;
  #endReceived = false;
  #endDelivered = false;
  /** A write of this end returned false and onDrain is owed. */
  #drainOwed = false;
  #closeScheduled = false;
  #closed = false;
  readonly #highWaterMark: number;
  readonly #chunkSize: number;
  readonly #defer: (run: () => void) => void;

  unreadBytes = 0;
  bytesRead = 0;
  bytesWritten = 0;
  paused = true;
  ended = false;
  destroyed = false;

  constructor(options: MemoryStreamOptions) {
    this.#highWaterMark = options.highWaterMark ?? 65_536;
    this.#chunkSize = options.chunkSize ?? Number.POSITIVE_INFINITY;
    this.#defer = options.delivery === 'immediate' ? setImmediate : queueMicrotask;
  }

  join(peer: MemoryStreamEnd): void {
    this.#peer = peer;
  }

  attach(handler: ByteStreamHandler): void {
    this.#handler = handler;
  }

  write(chunk: Uint8Array): boolean {
    const peer = this.#peer;
    if (peer === null || this.ended || this.destroyed) return true;
    this.bytesWritten += chunk.length;
    if (chunk.length > 0) {
      peer.#inbox.push(Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength));
      peer.unreadBytes += chunk.length;
      peer.#schedule();
    }
    if (peer.unreadBytes < this.#highWaterMark) return true;
    this.#drainOwed = true;
    return false;
  }

  end(): void {
    if (this.ended || this.destroyed) return;
    this.ended = true;
    const peer = this.#peer;
    if (peer === null) return;
    peer.#endReceived = true;
    peer.#schedule();
    this.#closeIfFinished();
  }

  destroy(error?: Error): void {
    if (this.destroyed) return;
    this.#tearDown(error ?? null);
    (this.#peer as MemoryStreamEnd).#tearDown(Object.assign(new Error('connection reset by peer'), { code: 'ECONNRESET' }));
  }

  pause(): void {
    this.paused = true;
  }

  resume(): void {
    this.paused = false;
    this.#schedule();
  }

  #tearDown(error: Error | null): void {
    if (this.destroyed) return;
    this.destroyed = true;
    this.#inbox.length = 0;
    this.unreadBytes = 0;
    this.#scheduleClose(error);
  }

  #scheduleClose(error: Error | null): void {
    if (this.#closeScheduled) return;
    this.#closeScheduled = true;
    // A later turn, as the contract says, whatever the delivery of data is.
    setImmediate(() => {
      this.#closed = true;
      this.destroyed = true;
      this.#handler?.onClose(error);
    });
  }

  #closeIfFinished(): void {
    const peer = this.#peer as MemoryStreamEnd;
    if (!this.ended || !this.#endDelivered || !peer.ended || !peer.#endDelivered) return;
    this.#scheduleClose(null);
    peer.#scheduleClose(null);
  }

  #schedule(): void {
    if (this.#scheduled || this.destroyed) return;
    this.#scheduled = true;
    this.#defer(() => {
      this.#scheduled = false;
      this.#deliver();
    });
  }

  #deliver(): void {
    while (!this.paused && !this.destroyed && this.#handler !== null && this.#inbox.length > 0) {
      const first = this.#inbox[0] as Buffer;
      const chunk = first.length > this.#chunkSize ? first.subarray(0, this.#chunkSize) : first;
      if (chunk === first) this.#inbox.shift();
      else this.#inbox[0] = first.subarray(this.#chunkSize);
      this.unreadBytes -= chunk.length;
      this.bytesRead += chunk.length;
      this.#handler.onData(chunk);
      (this.#peer as MemoryStreamEnd).#drainIfOwed();
    }
    if (this.paused || this.destroyed || this.#closed || this.#handler === null || this.#inbox.length > 0) return;
    if (!this.#endReceived || this.#endDelivered) return;
    this.#endDelivered = true;
    this.#handler.onEnd();
    this.#closeIfFinished();
  }

  #drainIfOwed(): void {
    const peer = this.#peer as MemoryStreamEnd;
    if (!this.#drainOwed || peer.unreadBytes >= this.#highWaterMark) return;
    this.#drainOwed = false;
    this.#defer(() => {
      if (!this.destroyed && !this.ended) this.#handler?.onDrain();
    });
  }
}

/**
 * Two ends of one connection in memory, with the promises of `ByteStream` and nothing more: what is written to one end is read from
 * the other, asynchronously and in order; both start paused.
 */
export function memoryStreamPair(options: MemoryStreamOptions = {}): [MemoryStream, MemoryStream] {
  const left = new MemoryStreamEnd(options);
  const right = new MemoryStreamEnd(options);
  left.join(right);
  right.join(left);
  return [left, right];
}
