/** How long to wait before trying again. */
export interface Backoff {
  /** After one failure, in milliseconds; twice as long with each further one. */
  readonly startMs: number;
  /** Never longer than this. */
  readonly capMs: number;
  /** The share of it, 0 to 1, that chance may take away. */
  readonly jitter: number;
}

/**
 * How long to wait after so many failures in a row (1 and more), in milliseconds. Chance only ever shortens it: those that failed together
 * must not come back together.
 * @param random 0 to 1
 */
export function backoffMs(failures: number, { startMs, capMs, jitter }: Backoff, random: () => number): number {
  return Math.min(startMs * 2 ** (failures - 1), capMs) * (1 - jitter * random());
}
