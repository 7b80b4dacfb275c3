/**
 * The shape of the data path. A byte stream is one end of a connection: a socket, a TLS socket or an HTTP/2 CONNECT stream.
 * It is not a Node stream: one handler object, no events and no queues per chunk, so that relaying costs no more than the bytes.
 */
export interface ByteStreamHandler {
  /** Bytes arrived. The chunk belongs to the handler and may be kept. Never called while paused, after onEnd or after onClose. */
  onData(chunk: Buffer): void;
  /** The far end half-closed: no more data will come. Writing may go on. At most once. */
  onEnd(): void;
  /** A write that returned false has drained: write again. */
  onDrain(): void;
  /** The stream is gone, exactly once and last. `error` is null after an orderly close in both directions. */
  onClose(error: Error | null): void;
}

/** One end of a connection. Starts paused: attach a handler, then resume. */
export interface ByteStream {
  /** Replaces the handler: the stream has one reader at a time. */
  attach(handler: ByteStreamHandler): void;
  /** Takes the chunk (it must not be changed afterwards). False means: stop until onDrain. Ignored after end() or close. */
  write(chunk: Uint8Array): boolean;
  /** Half-closes the sending direction once everything written is out. Idempotent. */
  end(): void;
  /** Ends both directions at once: RST on TCP, RST_STREAM on a tunnel stream. onClose follows, in a later turn. Idempotent. */
  destroy(error?: Error): void;
  /** Stops onData and lets flow control reach the sender. */
  pause(): void;
  resume(): void;
  /** Bytes handed to onData so far. */
  readonly bytesRead: number;
  /** Bytes accepted by write so far. */
  readonly bytesWritten: number;
  /** True once onClose was called or destroy() was. */
  readonly destroyed: boolean;
}
