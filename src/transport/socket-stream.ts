import type { Socket } from 'node:net';
import type { ByteStream, ByteStreamHandler } from '../model/byte-stream.ts';
import { WeftError } from '../model/errors.ts';

/** A byte stream ended without an orderly close in both directions. Code: WEFT_STREAM_DESTROYED. */
export class StreamError extends WeftError {
  override readonly name = 'StreamError';
}

/** What a byte stream reports when it was destroyed and nobody gave a reason. */
export function destroyedError(): StreamError {
  return new StreamError('WEFT_STREAM_DESTROYED', 'the stream was closed before both directions had ended');
}

const NOBODY: ByteStreamHandler = { onData() {}, onEnd() {}, onDrain() {}, onClose() {} };

/**
 * A TCP or TLS socket as a ByteStream: legs, dialled sockets and the transport of a tunnel.
 *
 * It owns the socket from construction on. The listeners are installed once and forward to the attached handler, so that relaying
 * allocates nothing per chunk. Whoever makes the socket sets `allowHalfOpen` (without it Node closes both directions at once).
 * Writes before 'connect' are kept by the socket and sent when it is connected.
 */
export class SocketByteStream implements ByteStream {
  readonly socket: Socket;
  bytesRead = 0;
  bytesWritten = 0;
  destroyed = false;
  #handler: ByteStreamHandler = NOBODY;
  #error: Error | null = null;
  #ended = false;
  #farEnded = false;
  /** 'close' came; `#told` says whether a handler has been told. */
  #closed = false;
  #told = false;

  constructor(socket: Socket) {
    this.socket = socket;
    // An explicit pause first: adding a 'data' listener would start the flow.
    socket.pause();
    socket.setNoDelay(true);
    socket.on('data', (chunk: Buffer) => {
      this.bytesRead += chunk.length;
      this.#handler.onData(chunk);
    });
    socket.on('end', () => {
      this.#farEnded = true;
      if (!this.destroyed) this.#handler.onEnd();
    });
    socket.on('drain', () => {
      if (!this.destroyed) this.#handler.onDrain();
    });
    socket.on('error', (error: Error) => {
      this.#error ??= error;
    });
    socket.on('close', () => {
      this.#closed = true;
      this.destroyed = true;
      if (this.#handler !== NOBODY) this.#tellClosed();
    });
    // A socket that died before it was wrapped emits no more events.
    if (socket.closed) {
      this.#closed = true;
      this.destroyed = true;
      this.#error = socket.errored;
    }
  }

  #tellClosed(): void {
    if (this.#told) return;
    this.#told = true;
    const orderly = this.#ended && this.#farEnded;
    this.#handler.onClose(this.#error ?? (orderly ? null : destroyedError()));
  }

  attach(handler: ByteStreamHandler): void {
    this.#handler = handler;
    if (this.#closed && !this.#told) setImmediate(() => this.#tellClosed());
  }

  write(chunk: Uint8Array): boolean {
    if (this.#ended || this.destroyed) return true;
    this.bytesWritten += chunk.length;
    return this.socket.write(chunk);
  }

  /** Writes several chunks with one system call where the socket can. Same contract as `write`. */
  writeMany(chunks: readonly Uint8Array[]): boolean {
    if (this.#ended || this.destroyed) return true;
    const socket = this.socket;
    socket.cork();
    let room = true;
    for (let i = 0; i < chunks.length; i++) {
      const chunk = chunks[i] as Uint8Array;
      this.bytesWritten += chunk.length;
      room = socket.write(chunk);
    }
    socket.uncork();
    return room;
  }

  end(): void {
    if (this.#ended || this.destroyed) return;
    this.#ended = true;
    this.socket.end();
  }

  destroy(error?: Error): void {
    if (this.destroyed) return;
    this.destroyed = true;
    this.#error ??= error ?? null;
    const socket = this.socket;
    // Between shutdown() and its completion a reset fails, and Node then never closes the descriptor. All that was written is out by then.
    const isShuttingDown = this.#ended && !socket.writableFinished && socket.writableLength === 0;
    // resetAndDestroy waits for a pending connect and knows plain TCP only; elsewhere closing the descriptor is all there is.
    if (socket.connecting || socket.destroyed || isShuttingDown || 'encrypted' in socket) {
      socket.destroy();
      return;
    }
    try {
      socket.resetAndDestroy();
    } catch {
      socket.destroy();
    }
  }

  pause(): void {
    this.socket.pause();
  }

  resume(): void {
    if (!this.destroyed) this.socket.resume();
  }
}
