import { GRPC_STATUS, GrpcStatusError } from './grpc-error.ts';

/** A flag for compression, and four bytes of length (grpc/doc/PROTOCOL-HTTP2.md, "Length-Prefixed-Message"). */
export const FRAME_HEADER_BYTES = 5;

/** Of every answer, and of every request: with the suffix of an encoding, or parameters. */
export const GRPC_CONTENT_TYPE: RegExp = /^application\/grpc(?:[+;]|$)/i;

/** A message as it goes out: not compressed. */
export function frameMessage(message: Uint8Array): Buffer {
  const frame = Buffer.allocUnsafe(FRAME_HEADER_BYTES + message.length);
  frame[0] = 0;
  frame.writeUInt32BE(message.length, 1);
  frame.set(message, FRAME_HEADER_BYTES);
  return frame;
}

const NO_BYTES = Buffer.alloc(0);
const MIN_HELD_BYTES = 256;

/**
 * Puts messages together from chunks that are cut anywhere. It holds one unfinished message at most, in memory of its own of at most twice what has
 * arrived of it: a view would keep the whole read alive that its bytes came in, and a client may send one byte in each.
 */
export class MessageFraming {
  readonly #maxMessageBytes: number;
  #held: Buffer = NO_BYTES;
  #size = 0;
  /** Of the frame that is being read, with its header; unknown before the header is there. */
  #frameBytes: number | null = null;

  constructor(maxMessageBytes: number) {
    this.#maxMessageBytes = maxMessageBytes;
  }

  /** Bytes held of a message that is not complete. */
  get pending(): number {
    return this.#size;
  }

  /**
   * The messages that are complete with this chunk.
   * @throws GrpcStatusError RESOURCE_EXHAUSTED for a message that is too long, UNIMPLEMENTED for a compressed one
   */
  *push(chunk: Buffer): Generator<Buffer> {
    const isContinued = this.#size > 0;
    if (isContinued) this.#hold(chunk);
    const bytes = isContinued ? this.#held.subarray(0, this.#size) : chunk;
    let start = 0;
    for (;;) {
      this.#frameBytes ??= this.#readHeader(bytes, start);
      if (this.#frameBytes === null || bytes.length - start < this.#frameBytes) break;
      const message = bytes.subarray(start + FRAME_HEADER_BYTES, start + this.#frameBytes);
      start += this.#frameBytes;
      this.#frameBytes = null;
      yield message;
    }
    if (isContinued && start === 0) return;
    // What was held is of messages that are somebody else's now.
    this.#held = NO_BYTES;
    this.#size = 0;
    if (start < bytes.length) this.#hold(bytes.subarray(start));
  }

  #hold(chunk: Buffer): void {
    const size = this.#size + chunk.length;
    if (size > this.#held.length) {
      const grown = Buffer.allocUnsafeSlow(Math.max(size, this.#held.length * 2, MIN_HELD_BYTES));
      this.#held.copy(grown, 0, 0, this.#size);
      this.#held = grown;
    }
    chunk.copy(this.#held, this.#size);
    this.#size = size;
  }

  #readHeader(bytes: Buffer, start: number): number | null {
    if (bytes.length - start < FRAME_HEADER_BYTES) return null;
    if (bytes[start] !== 0) throw new GrpcStatusError(GRPC_STATUS.UNIMPLEMENTED, 'compressed messages are not supported');
    const length = bytes.readUInt32BE(start + 1);
    if (length > this.#maxMessageBytes) {
      throw new GrpcStatusError(
        GRPC_STATUS.RESOURCE_EXHAUSTED,
        `a message of ${length} bytes is over the limit of ${this.#maxMessageBytes}`,
      );
    }
    return FRAME_HEADER_BYTES + length;
  }
}
