/** A deadline that one owner moves as often as it likes: setting it stores a number. */
export class CoarseTimer {
  readonly #timers: CoarseTimers;
  readonly #expired: () => void;
  /** In ticks of the owner's clock; 0: not armed. */
  #deadline = 0;

  constructor(timers: CoarseTimers, expired: () => void) {
    this.#timers = timers;
    this.#expired = expired;
  }

  /** Calls `expired` once, not before `millis` have passed and at most two ticks later. Replaces an earlier deadline. */
  arm(millis: number): void {
    this.#deadline = this.#timers.deadline(millis);
    this.#timers.add(this);
  }

  disarm(): void {
    this.#deadline = 0;
  }

  get armed(): boolean {
    return this.#deadline !== 0;
  }

  /**
   * The set's call, once a tick.
   * @returns false when the timer is no longer armed and may be forgotten
   */
  tick(now: number): boolean {
    if (this.#deadline === 0) return false;
    if (now < this.#deadline) return true;
    this.#deadline = 0;
    this.#expired();
    return this.armed;
  }
}

/**
 * Deadlines for many connections on one interval: nothing is allocated or queued per request, and connections with nothing to wait for
 * cost nothing. The interval runs only while a timer is armed, and never keeps the process alive.
 */
export class CoarseTimers {
  readonly #tickMillis: number;
  readonly #armed = new Set<CoarseTimer>();
  #now = 0;
  #interval: NodeJS.Timeout | null = null;

  constructor(tickMillis = 1000) {
    this.#tickMillis = tickMillis;
  }

  /** A timer, not armed. */
  timer(expired: () => void): CoarseTimer {
    return new CoarseTimer(this, expired);
  }

  /** The tick at which `millis` from now have passed for certain. */
  deadline(millis: number): number {
    return this.#now + Math.ceil(millis / this.#tickMillis) + 1;
  }

  /** Called by a timer that was armed. */
  add(timer: CoarseTimer): void {
    this.#armed.add(timer);
    if (this.#interval !== null) return;
    this.#interval = setInterval(() => this.#tick(), this.#tickMillis);
    this.#interval.unref();
  }

  #tick(): void {
    this.#now++;
    for (const timer of this.#armed) if (!timer.tick(this.#now)) this.#armed.delete(timer);
    if (this.#armed.size > 0 || this.#interval === null) return;
    clearInterval(this.#interval);
    this.#interval = null;
  }
}

/** The thread's deadlines of network timeouts, to the second. */
export const sharedCoarseTimers: CoarseTimers = new CoarseTimers();
