/** Time as this room uses it, so that tests can move it. */
export interface Clock {
  /** Milliseconds since the epoch. */
  now(): number;
  /** Calls back once after `ms`. Returns the cancel function. Does not keep the process alive. */
  after(ms: number, callback: () => void): () => void;
}

/** setTimeout fires at once when asked for more than this. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** The clock of the machine. */
export const systemClock: Clock = {
  now: () => Date.now(),
  after(ms, callback) {
    const timer = setTimeout(callback, Math.min(Math.max(0, ms), LONGEST_TIMER_MS));
    timer.unref();
    return () => clearTimeout(timer);
  },
};

/** Timers run on the monotonic clock, and certificates on the wall clock: that one is looked at again this often. */
const LONGEST_SLEEP_MS = 10 * 60_000;

/**
 * Calls back once `clock` shows this time or a later one, though it be set meanwhile. Returns the cancel function.
 * @param due milliseconds since the epoch
 */
export function callAt(clock: Clock, due: number, callback: () => void): () => void {
  let cancel = (): void => {};
  const look = (): void => {
    cancel = clock.after(Math.min(Math.max(0, due - clock.now()), LONGEST_SLEEP_MS), () => {
      if (clock.now() < due) look();
      else callback();
    });
  };
  look();
  return () => cancel();
}

/** Resolves after `ms`, or as soon as the signal aborts. Never rejects. */
export function sleep(clock: Clock, ms: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    const wake = (): void => {
      cancel();
      signal.removeEventListener('abort', wake);
      resolve();
    };
    const cancel = clock.after(ms, wake);
    signal.addEventListener('abort', wake);
  });
}
