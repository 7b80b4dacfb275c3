import { DescriptorPoll } from './descriptor-poll.ts';
import { LibbpfError } from './errors.ts';
import { lastErrno, libc, viewMemory } from './ffi.ts';
import { MapType } from './kernel-types.ts';
import { requireMainThread } from './main-thread.ts';
import { mapInfo } from './object-info.ts';
import { duplicateFd } from './owned-fd.ts';

/** How to read a ring buffer. */
export interface RingBufferOptions {
  /** Most records handled in one turn of the event loop, 256 unless given; the rest waits for the next turn. */
  readonly maximumRecordsPerWake?: number;
}

const DEFAULT_RECORDS_PER_WAKE = 256;
const SC_PAGESIZE = 30;
const PROT_READ = 1;
const PROT_READ_WRITE = 3;
const MAP_SHARED = 1;
// Head of each record (include/linux/bpf.h, kernel/bpf/ringbuf.c): a u32 length with two flag bits, and a u32 that is the kernel's.
const HEADER_SIZE = 8;
const BUSY_BIT = 0x80000000;
const DISCARD_BIT = 0x40000000;
const LENGTH_MASK = 0x3fffffff;

/**
 * Reads a `BPF_MAP_TYPE_RINGBUF` map, driven by the event loop: records reach the consumer some 0.1 ms after they are written, in
 * order, without copies, polling timers or threads.
 *
 * The consumer gets a view of the record in the ring itself. It is valid during the call only: afterwards the kernel writes there
 * again, so copy (`.slice()`) what you keep. If the consumer throws, the record counts as read, the error becomes an uncaught
 * exception, and reading goes on. When the ring is full the kernel drops new records, which only the BPF program can count.
 *
 * Main thread only (LIBBPF_MAIN_THREAD_ONLY).
 */
export class RingBuffer implements AsyncDisposable {
  readonly #consumer: (record: Uint8Array) => void;
  readonly #recordsPerWake: number;
  readonly #poll: DescriptorPoll;
  readonly #mappings: readonly { readonly pointer: bigint; readonly size: bigint }[];
  readonly #memories: ArrayBuffer[];
  /** How far the consumer has read, ever, in bytes: at the start of the consumer's page. */
  readonly #consumerPosition: BigUint64Array;
  /** How far the kernel has written, ever, in bytes. */
  readonly #producerPosition: BigUint64Array;
  // The kernel maps the data twice in a row, so that a record that wraps is in one piece.
  readonly #data: Uint8Array;
  readonly #words: Int32Array;
  readonly #size: number;
  #position: number;
  #closing = false;

  /**
   * Starts reading `map`, of which it keeps a descriptor of its own. Throws LIBBPF_RING_BUFFER (not a ring buffer, or it cannot be
   * mapped), LIBBPF_MAIN_THREAD_ONLY.
   */
  constructor(map: { readonly fd: number }, consumer: (record: Uint8Array) => void, options: RingBufferOptions = {}) {
    requireMainThread('RingBuffer', 'it lives on the event loop of Node itself, and a worker that exits meanwhile would abort the process');
    this.#consumer = consumer;
    this.#recordsPerWake = options.maximumRecordsPerWake ?? DEFAULT_RECORDS_PER_WAKE;
    if (!Number.isInteger(this.#recordsPerWake) || this.#recordsPerWake < 1) {
      throw new LibbpfError('LIBBPF_RING_BUFFER', `maximumRecordsPerWake must be a positive integer, not ${this.#recordsPerWake}`);
    }
    const info = mapInfo(map.fd);
    if (info.type !== MapType.RINGBUF)
      throw new LibbpfError('LIBBPF_RING_BUFFER', `${info.name} is a ${info.typeName} map, not a ring buffer`);
    this.#size = info.maxEntries;
    const page = Number(libc.sysconf(SC_PAGESIZE));
    const consumerPage = mapMemory(map.fd, page, PROT_READ_WRITE, 0);
    let producerPages: { readonly pointer: bigint; readonly size: bigint };
    try {
      producerPages = mapMemory(map.fd, page + 2 * this.#size, PROT_READ, page);
    } catch (error) {
      libc.munmap(consumerPage.pointer, consumerPage.size);
      throw error;
    }
    this.#mappings = [consumerPage, producerPages];
    const consumerMemory = viewMemory(consumerPage.pointer, Number(consumerPage.size));
    const producerMemory = viewMemory(producerPages.pointer, Number(producerPages.size));
    this.#memories = [consumerMemory, producerMemory];
    this.#consumerPosition = new BigUint64Array(consumerMemory, 0, 1);
    this.#producerPosition = new BigUint64Array(producerMemory, 0, 1);
    this.#data = new Uint8Array(producerMemory, page, 2 * this.#size);
    this.#words = new Int32Array(producerMemory, page, (2 * this.#size) / 4);
    this.#position = Number(Atomics.load(this.#consumerPosition, 0));
    try {
      this.#poll = new DescriptorPoll(duplicateFd(map.fd, `ring buffer ${info.name}`), () => {
        this.consume();
      });
    } catch (error) {
      this.#unmap();
      throw error;
    }
  }

  /**
   * Reads what is there now, up to `maximumRecordsPerWake` records; the event loop does this by itself. Returns how many the
   * consumer got.
   */
  consume(): number {
    let handled = 0;
    let budget = this.#recordsPerWake;
    while (!this.#closing && budget > 0 && this.#position < Number(Atomics.load(this.#producerPosition, 0))) {
      budget--;
      const offset = this.#position % this.#size;
      const head = Atomics.load(this.#words, offset / 4);
      if ((head & BUSY_BIT) !== 0) break; // reserved, not yet submitted
      const length = head & LENGTH_MASK;
      // Before the call, so that a consumer that throws or closes has nonetheless read it; published after it.
      this.#position += Math.ceil((length + HEADER_SIZE) / 8) * 8;
      if ((head & DISCARD_BIT) === 0) {
        handled++;
        const start = offset + HEADER_SIZE;
        this.#deliver(this.#data.subarray(start, start + length));
      }
      if (!this.#closing) Atomics.store(this.#consumerPosition, 0, BigInt(this.#position));
    }
    return handled;
  }

  #deliver(record: Uint8Array): void {
    try {
      this.#consumer(record);
    } catch (error) {
      process.nextTick(() => {
        throw error;
      });
    }
  }

  /** Lets the process end although the ring buffer is open. */
  unref(): this {
    this.#poll.unref();
    return this;
  }

  /** Undoes {@link unref}. */
  ref(): this {
    this.#poll.ref();
    return this;
  }

  /** Stops reading at once: the consumer is not called again. Resolves when everything is released. A second call waits for the same. */
  async close(): Promise<void> {
    const first = !this.#closing;
    this.#closing = true;
    await this.#poll.close();
    if (first) this.#unmap();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #unmap(): void {
    // Detaching empties every view of the memory, also those that a consumer has kept: reading one then finds no bytes, and
    // does not crash.
    for (const memory of this.#memories) memory.transfer();
    for (const { pointer, size } of this.#mappings) libc.munmap(pointer, size);
  }
}

function mapMemory(fd: number, size: number, protection: number, offset: number): { readonly pointer: bigint; readonly size: bigint } {
  const pointer = libc.mmap(null, BigInt(size), protection, MAP_SHARED, fd, BigInt(offset));
  if (BigInt.asIntN(64, pointer) === -1n) {
    throw new LibbpfError('LIBBPF_RING_BUFFER', 'cannot map the ring buffer', { errno: lastErrno() });
  }
  return { pointer, size: BigInt(size) };
}
