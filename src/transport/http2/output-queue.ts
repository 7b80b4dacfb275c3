import type { ByteStream } from '../../model/byte-stream.ts';
import { FRAME_HEADER_BYTES, writeFrameHeader } from './frame.ts';

/** A transport that can write several chunks with one system call. */
interface GatheringStream extends ByteStream {
  writeMany(chunks: readonly Uint8Array[]): boolean;
}

/** Frames are built in slabs of this size: big enough for a turn's small frames, small enough to throw away when idle. */
const SLAB_BYTES = 16_384;
/** What is left of a slab under this is not worth starting a frame in. */
const SLAB_REST = 64;
/** Payloads up to this are copied behind their header; larger ones go out as they came. */
const COPY_LIMIT = 16_384;
/** One turn stages no more DATA than this before the transport is asked. */
const TURN_LIMIT = 262_144;

/** What ran in one event-loop turn leaves together: one immediate for all connections of the thread. */
const waiting: OutputQueue[] = [];

function flushAll(): void {
  // Flushing may stage frames for the next turn (a drained stream writes again), so take what is there now.
  const queues = waiting.splice(0);
  let done = 0;
  try {
    while (done < queues.length) (queues[done++] as OutputQueue).turnEnded();
  } finally {
    // One connection's owner threw: the others still get their turn.
    if (done < queues.length) {
      if (waiting.length === 0) setImmediate(flushAll);
      waiting.push(...queues.slice(done));
    }
  }
}

/**
 * The frames of one connection on their way out: staged in one turn, written once at its end.
 * Invariant: bytes handed to the transport are never written to again.
 */
export class OutputQueue {
  readonly #transport: ByteStream;
  readonly #gather: GatheringStream | null;
  readonly #afterFlush: () => void;
  #slab: Buffer | null = null;
  /** [#start, #end) of the slab is staged; before it is the transport's, behind it is free. */
  #start = 0;
  #end = 0;
  /** Staged pieces before the slab's, in order. */
  #pieces: Uint8Array[] = [];
  #staged = 0;
  #scheduled = false;
  #blocked = false;
  #controlBytes = 0;
  #closed = false;

  /** @param afterFlush called when a turn's frames have been written: there may be room for more DATA */
  constructor(transport: ByteStream, afterFlush: () => void) {
    this.#transport = transport;
    this.#afterFlush = afterFlush;
    this.#gather = 'writeMany' in transport ? (transport as GatheringStream) : null;
  }

  /** True while no more DATA should be staged: the transport is full, or this turn's share is. */
  get congested(): boolean {
    return this.#blocked || this.#staged > TURN_LIMIT;
  }

  /** Bytes of control frames handed over while the transport was full. A peer that does not read makes it grow. */
  get unreadControlBytes(): number {
    return this.#controlBytes;
  }

  /** The transport drained. */
  unblock(): void {
    this.#blocked = false;
    this.#controlBytes = 0;
  }

  /** Stages a control frame whose payload is written by the caller: returns where the payload goes in `slab`. */
  control(length: number, type: number, flags: number, streamId: number): number {
    const at = this.#reserve(FRAME_HEADER_BYTES + length);
    writeFrameHeader(this.#slab as Buffer, at, length, type, flags, streamId);
    if (this.#blocked) this.#controlBytes += FRAME_HEADER_BYTES + length;
    return at + FRAME_HEADER_BYTES;
  }

  /** The slab that the last call of `control` pointed into. */
  get slab(): Buffer {
    return this.#slab as Buffer;
  }

  /** Stages a frame with this payload. A large payload is not copied. */
  frame(payload: Uint8Array, type: number, flags: number, streamId: number): void {
    const length = payload.length;
    if (length <= COPY_LIMIT) {
      const at = this.#reserve(FRAME_HEADER_BYTES + length);
      const slab = this.#slab as Buffer;
      writeFrameHeader(slab, at, length, type, flags, streamId);
      slab.set(payload, at + FRAME_HEADER_BYTES);
      return;
    }
    const at = this.#reserve(FRAME_HEADER_BYTES);
    writeFrameHeader(this.#slab as Buffer, at, length, type, flags, streamId);
    this.#cut();
    this.#pieces.push(payload);
    this.#staged += length;
  }

  /** Stages bytes that are no frame: the client's preface. */
  raw(bytes: Uint8Array): void {
    const at = this.#reserve(bytes.length);
    (this.#slab as Buffer).set(bytes, at);
  }

  #reserve(length: number): number {
    if (this.#slab === null || this.#slab.length - this.#end < length) {
      this.#cut();
      this.#slab = Buffer.allocUnsafeSlow(Math.max(SLAB_BYTES, length));
      this.#start = 0;
      this.#end = 0;
    }
    const at = this.#end;
    this.#end += length;
    this.#staged += length;
    if (!this.#scheduled) {
      this.#scheduled = true;
      if (waiting.push(this) === 1) setImmediate(flushAll);
    }
    return at;
  }

  /** Moves what is staged in the slab to the pieces. */
  #cut(): void {
    if (this.#slab === null || this.#end === this.#start) return;
    this.#pieces.push(this.#slab.subarray(this.#start, this.#end));
    this.#start = this.#end;
  }

  /** @internal */
  turnEnded(): void {
    this.#scheduled = false;
    this.flush();
    if (!this.#blocked && !this.#closed) this.#afterFlush();
  }

  /** Writes everything staged, now. */
  flush(): void {
    if (this.#staged === 0 || this.#closed) return;
    this.#cut();
    const pieces = this.#pieces;
    this.#staged = 0;
    let room = true;
    if (pieces.length === 1) {
      room = this.#transport.write(pieces[0] as Uint8Array);
      pieces.length = 0;
    } else {
      this.#pieces = [];
      if (this.#gather !== null) room = this.#gather.writeMany(pieces);
      else for (let i = 0; i < pieces.length; i++) room = this.#transport.write(pieces[i] as Uint8Array);
    }
    if (!room) this.#blocked = true;
    if (this.#slab !== null && this.#slab.length - this.#end < SLAB_REST) this.#slab = null;
  }

  /** Gives memory back: an idle connection keeps no slab. */
  trim(): void {
    if (this.#staged === 0) this.#slab = null;
  }

  /** Nothing is written any more. */
  close(): void {
    this.#closed = true;
    this.#pieces = [];
    this.#slab = null;
    this.#staged = 0;
    this.#start = 0;
    this.#end = 0;
  }
}
