import { LF } from './bytes.ts';

/** Below this many bytes a head is parsed again with every piece that arrives. */
const SMALL_HEAD = 1024;

/**
 * Collects a head that arrives in pieces. It says when a new parse can tell something new, so that a head sent byte by byte costs a
 * number of parses that is bounded by its lines, not by its bytes. Holds nothing between heads.
 */
export class HeadBuffer {
  #bytes: Buffer | null = null;
  #length = 0;
  #parsedLength = 0;
  #newLine = false;

  get empty(): boolean {
    return this.#length === 0;
  }

  /** Adds the bytes of `chunk` from `start`. */
  append(chunk: Buffer, start: number): void {
    const added = chunk.length - start;
    const needed = this.#length + added;
    if (this.#bytes === null || this.#bytes.length < needed) {
      const grown = Buffer.allocUnsafeSlow(Math.max(512, 2 ** Math.ceil(Math.log2(needed))));
      this.#bytes?.copy(grown, 0, 0, this.#length);
      this.#bytes = grown;
    }
    chunk.copy(this.#bytes, this.#length, start);
    this.#newLine ||= this.#bytes.subarray(this.#length, needed).includes(LF);
    this.#length = needed;
  }

  /** Everything so far. Valid until the next append; whoever calls clear() first may keep it. */
  view(): Buffer {
    return (this.#bytes as Buffer).subarray(0, this.#length);
  }

  /** True if a line has been completed or the head has grown by half since the last parse. The caller parses now if so. */
  shouldParse(headLimit: number): boolean {
    const should =
      this.#newLine ||
      this.#length < SMALL_HEAD ||
      this.#length >= headLimit ||
      this.#length >= this.#parsedLength + (this.#parsedLength >> 1);
    if (should) {
      this.#parsedLength = this.#length;
      this.#newLine = false;
    }
    return should;
  }

  clear(): void {
    this.#bytes = null;
    this.#length = 0;
    this.#parsedLength = 0;
    this.#newLine = false;
  }
}
