import { fstatSync, write as fsWrite } from 'node:fs';

/** fs.write as the writer uses it: appends, and calls back with how much of the buffer went out. */
export type WriteBytes = (
  fd: number,
  buffer: Buffer,
  offset: number,
  length: number,
  position: null,
  callback: (error: NodeJS.ErrnoException | null, written: number) => void,
) => void;

export interface LineWriterOptions {
  /** Lines that are waiting or being written, in bytes. Past it new lines are dropped. */
  readonly maxQueuedBytes?: number;
  /** Called with the number of lines that will never be written. */
  readonly onDropped?: (lines: number) => void;
  /** For tests: a file system that is slow or broken. */
  readonly write?: WriteBytes;
}

/**
 * idle: nothing to write. scheduled: lines came in this turn of the event loop, and leave together after it. writing: one write is out.
 * waiting: the reader takes nothing, and is tried again by a timer. closed: lines are dropped.
 * Invariant: at most one write is out and at most one immediate or timer is set, as the state says.
 */
export type LineWriterState = 'idle' | 'scheduled' | 'writing' | 'waiting' | 'closed';

export const DEFAULT_QUEUED_BYTES: number = 4 * 1024 * 1024;
const BUFFER_BYTES = 128 * 1024;
/** PIPE_BUF of Linux: a write to a pipe of this much is never mixed with another thread's (pipe(7)). */
const ATOMIC_PIPE_BYTES = 4096;
const RETRY_MS = 20;
const LINE_FEED = 0x0a;

/**
 * Writes ASCII lines to a file descriptor that it does not own, without ever making its caller wait: the lines of one turn of the event
 * loop leave in one write on another thread. A reader that does not keep up costs bounded memory, and then lines, which are counted.
 * Several threads may share the descriptor if it is a pipe, or a file opened for appending.
 */
export class LineWriter {
  readonly #fd: number;
  readonly #maxQueuedBytes: number;
  readonly #onDropped: (lines: number) => void;
  readonly #write: WriteBytes;
  readonly #buffer: Buffer;
  #state: LineWriterState = 'idle';
  /** Lines of the coming batch. */
  #gathered = '';
  /** The batch that is being written, and how much of it is out. */
  #batch = '';
  #offset = 0;
  /** A failed write left half a line behind. */
  #isBroken = false;
  #timer: NodeJS.Timeout | null = null;
  #closing: (() => void) | null = null;

  constructor(fd: number, options: LineWriterOptions = {}) {
    this.#fd = fd;
    this.#maxQueuedBytes = options.maxQueuedBytes ?? DEFAULT_QUEUED_BYTES;
    this.#onDropped = options.onDropped ?? (() => {});
    this.#write = options.write ?? fsWrite;
    this.#buffer = Buffer.allocUnsafeSlow(isPipe(fd) ? ATOMIC_PIPE_BYTES : BUFFER_BYTES);
  }

  get state(): LineWriterState {
    return this.#state;
  }

  /** Bytes that wait or are being written. */
  get queuedBytes(): number {
    return this.#gathered.length + this.#batch.length - this.#offset;
  }

  /**
   * Takes a line, which ends in a line feed and is ASCII. False if it was dropped because the queue is full or the writer closed; that
   * line is counted by the caller, onDropped is for lines that were taken before.
   */
  push(line: string): boolean {
    if (this.#state === 'closed' || this.#closing !== null || this.queuedBytes + line.length > this.#maxQueuedBytes) return false;
    this.#gathered += line;
    if (this.#state === 'idle') this.#move('scheduled');
    return true;
  }

  /** Writes what is waiting, for at most `timeoutMs`; what is left then is dropped. The descriptor stays open. */
  async close(timeoutMs = 1000): Promise<void> {
    if (this.#state === 'closed') return;
    if (this.#state !== 'idle') {
      await new Promise<void>((resolve) => {
        const before = this.#closing;
        const timer = setTimeout(() => this.#closing?.(), timeoutMs);
        this.#closing = () => {
          clearTimeout(timer);
          before?.();
          resolve();
        };
      });
    }
    if ((this.#state as LineWriterState) !== 'closed') this.#move('closed');
  }

  #move(to: LineWriterState): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    this.#state = to;
    switch (to) {
      case 'scheduled':
        setImmediate(() => {
          if (this.#state === 'scheduled') this.#writeNext();
        });
        break;
      case 'waiting':
        this.#timer = setTimeout(() => this.#writeNext(), RETRY_MS);
        break;
      case 'idle':
        this.#closing?.();
        break;
      case 'closed':
        this.#dropQueue();
        break;
      case 'writing':
        break;
    }
  }

  #dropQueue(): void {
    this.#isBroken = this.#isMidLine();
    const lines = countLines(this.#batch, this.#offset) + countLines(this.#gathered, 0);
    this.#batch = '';
    this.#offset = 0;
    this.#gathered = '';
    if (lines > 0) this.#onDropped(lines);
  }

  #isMidLine(): boolean {
    return this.#offset > 0 && this.#batch.charCodeAt(this.#offset - 1) !== LINE_FEED;
  }

  #writeNext(): void {
    if (this.#offset === this.#batch.length) {
      this.#batch = this.#isBroken ? `\n${this.#gathered}` : this.#gathered;
      this.#isBroken = false;
      this.#offset = 0;
      this.#gathered = '';
    }
    if (this.#batch === '') {
      this.#move('idle');
      return;
    }
    const length = this.#fill();
    this.#move('writing');
    this.#write(this.#fd, this.#buffer, 0, length, null, (error, written) => this.#written(error, written));
  }

  /** Puts whole lines into the buffer if one fits, else a part of one. */
  #fill(): number {
    let end = Math.min(this.#batch.length, this.#offset + this.#buffer.length);
    if (end < this.#batch.length) {
      const lineEnd = this.#batch.lastIndexOf('\n', end - 1);
      if (lineEnd >= this.#offset) end = lineEnd + 1;
    }
    return this.#buffer.write(this.#batch.slice(this.#offset, end), 'latin1');
  }

  #written(error: NodeJS.ErrnoException | null, written: number): void {
    if (this.#state !== 'writing') return;
    if (error === null) {
      this.#offset += written;
      // A descriptor that takes nothing and says nothing must not be spun on.
      if (written === 0) this.#move('waiting');
      else this.#writeNext();
      return;
    }
    if (error.code === 'EAGAIN' || error.code === 'EINTR') {
      this.#move('waiting');
      return;
    }
    // Nobody reads any more, or the disk is full: these lines are lost, and the coming ones get their own chance.
    this.#dropQueue();
    this.#move('idle');
  }
}

function isPipe(fd: number): boolean {
  try {
    return fstatSync(fd).isFIFO();
  } catch {
    // The first write will say what is wrong with it.
    return false;
  }
}

function countLines(text: string, from: number): number {
  let lines = 0;
  for (let at = text.indexOf('\n', from); at !== -1; at = text.indexOf('\n', at + 1)) lines++;
  return lines;
}
