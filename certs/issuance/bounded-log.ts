import type { Log } from '../../src/model/log.ts';
import type { Clock } from '../clock.ts';

const LINES = 20;
const WINDOW_MS = 10_000;

/** Warnings about what others do: at most 20 lines in 10 seconds, then how many more there were. A flood must not fill the log. */
export class BoundedLog {
  readonly #log: Log;
  readonly #clock: Pick<Clock, 'now'>;
  #windowStart = 0;
  #lines = 0;
  #left = 0;

  constructor(log: Log, clock: Pick<Clock, 'now'>) {
    this.#log = log;
    this.#clock = clock;
  }

  warn(fields: object, message: string): void {
    const now = this.#clock.now();
    if (Math.abs(now - this.#windowStart) >= WINDOW_MS) {
      if (this.#left > 0) this.#log.warn({ lines: this.#left }, 'more such warnings were left out');
      this.#windowStart = now;
      this.#lines = 0;
      this.#left = 0;
    }
    if (this.#lines >= LINES) {
      this.#left++;
      return;
    }
    this.#lines++;
    this.#log.warn(fields, message);
  }
}
