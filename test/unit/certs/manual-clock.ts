import type { Clock } from '../../../certs/clock.ts';

/** A clock that stands until it is moved. */
export class ManualClock implements Clock {
  #now: number;
  readonly #timers = new Set<{ readonly due: number; readonly callback: () => void }>();

  constructor(now: number = Date.now()) {
    this.#now = now;
  }

  /** Timers that are set. */
  get timers(): number {
    return this.#timers.size;
  }

  now(): number {
    return this.#now;
  }

  after(ms: number, callback: () => void): () => void {
    const timer = { due: this.#now + ms, callback };
    this.#timers.add(timer);
    return () => {
      this.#timers.delete(timer);
    };
  }

  /** Goes on by `ms`, and lets what became due happen in its order, with the promises in between. */
  async advance(ms: number): Promise<void> {
    const end = this.#now + ms;
    for (;;) {
      const [next] = [...this.#timers].filter((timer) => timer.due <= end).toSorted((a, b) => a.due - b.due);
      if (next === undefined) break;
      this.#timers.delete(next);
      this.#now = Math.max(this.#now, next.due);
      next.callback();
      await turn();
    }
    this.#now = end;
    await turn();
  }
}

/** One turn of the event loop: promises that were ready have run. */
export function turn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}
