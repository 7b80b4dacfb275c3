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

/**
 * Puts messages together from chunks that are cut anywhere. It holds one unfinished message at most, and no more of it than has arrived.
 */
export class MessageFraming {
  readonly #maxMessageBytes: number;
  #chunks: Buffer[] = [];
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
    this.#chunks.push(chunk);
    this.#size += chunk.length;
    for (;;) {
      this.#frameBytes ??= this.#readHeader();
      if (this.#frameBytes === null || this.#size < this.#frameBytes) return;
      const bytes = this.#joined();
      const message = bytes.subarray(FRAME_HEADER_BYTES, this.#frameBytes);
      this.#chunks = [bytes.subarray(this.#frameBytes)];
      this.#size -= this.#frameBytes;
      this.#frameBytes = null;
      yield message;
    }
  }

  #readHeader(): number | null {
    if (this.#size < FRAME_HEADER_BYTES) return null;
    const bytes = this.#joined();
    if (bytes[0] !== 0) throw new GrpcStatusError(GRPC_STATUS.UNIMPLEMENTED, 'compressed messages are not supported');
    const length = bytes.readUInt32BE(1);
    if (length > this.#maxMessageBytes) {
      throw new GrpcStatusError(
        GRPC_STATUS.RESOURCE_EXHAUSTED,
        `a message of ${length} bytes is over the limit of ${this.#maxMessageBytes}`,
      );
    }
    return FRAME_HEADER_BYTES + length;
  }

  #joined(): Buffer {
    const [only] = this.#chunks;
    const bytes = this.#chunks.length === 1 && only !== undefined ? only : Buffer.concat(this.#chunks);
    this.#chunks = [bytes];
    return bytes;
  }
}
