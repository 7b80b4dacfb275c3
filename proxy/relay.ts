import type { ByteStream, ByteStreamHandler } from '../src/model/byte-stream.ts';

/** Called once when both streams of a relay are gone. `error` is the first failure, or null. */
export type RelayDone = (error: Error | null) => void;

/** Looks at a chunk before it is passed on. False: it is not, since whoever looked has ended the streams. */
export type RelayWatch = (chunk: Buffer) => boolean;

/** One direction of a relay: the handler of the stream that is read. */
class Direction implements ByteStreamHandler {
  readonly #from: ByteStream;
  readonly #to: ByteStream;
  readonly #closed: (error: Error | null) => void;
  readonly #watch: RelayWatch | null;
  opposite!: Direction;

  constructor(from: ByteStream, to: ByteStream, closed: (error: Error | null) => void, watch: RelayWatch | null) {
    this.#from = from;
    this.#to = to;
    this.#closed = closed;
    this.#watch = watch;
  }

  onData(chunk: Buffer): void {
    if (this.#watch !== null && !this.#watch(chunk)) return;
    if (!this.#to.write(chunk)) this.#from.pause();
  }

  onEnd(): void {
    this.#to.end();
  }

  /** This stream has room again: whoever feeds it may go on. */
  onDrain(): void {
    this.opposite.#from.resume();
  }

  onClose(error: Error | null): void {
    if (error !== null) this.#to.destroy(error);
    this.#closed(error);
  }
}

/**
 * Joins two streams until both are closed: bytes, half-closes and back-pressure go across, and an abort of one aborts the other.
 * Memory held is what the two streams buffer by their own limits.
 * @param watch sees what `a` says
 */
export function relay(a: ByteStream, b: ByteStream, done: RelayDone, watch: RelayWatch | null = null): void {
  let open = 2;
  let failure: Error | null = null;
  const closed = (error: Error | null): void => {
    failure ??= error;
    open -= 1;
    if (open === 0) done(failure);
  };
  const fromA = new Direction(a, b, closed, watch);
  const fromB = new Direction(b, a, closed, null);
  fromA.opposite = fromB;
  fromB.opposite = fromA;
  a.attach(fromA);
  b.attach(fromB);
  a.resume();
  b.resume();
}
