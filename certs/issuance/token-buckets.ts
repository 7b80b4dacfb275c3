import type { Clock } from '../clock.ts';

export interface BucketLimits {
  /** What comes back each second. */
  readonly perSecond: number;
  /** What one caller can use at once after a pause. */
  readonly burst: number;
}

interface Bucket {
  tokens: number;
  /** Milliseconds since the epoch. */
  filledAt: number;
}

/** Callers remembered. Above this the one that was idle longest is forgotten: its bucket is full again, or nearly. */
const MAX_BUCKETS = 16_384;

/** One token bucket for each caller, in bounded memory. */
export class TokenBuckets {
  readonly #limits: BucketLimits;
  readonly #clock: Pick<Clock, 'now'>;
  /** In the order of their last use. */
  readonly #buckets = new Map<string, Bucket>();

  constructor(limits: BucketLimits, clock: Pick<Clock, 'now'>) {
    this.#limits = limits;
    this.#clock = clock;
  }

  /** Callers remembered now. */
  get size(): number {
    return this.#buckets.size;
  }

  /** Takes one token of a caller. False: there is none, and the caller must wait. */
  take(caller: string): boolean {
    const { perSecond, burst } = this.#limits;
    const now = this.#clock.now();
    const bucket = this.#buckets.get(caller) ?? { tokens: burst, filledAt: now };
    // A clock that was set back fills nothing, and empties nothing.
    bucket.tokens = Math.min(burst, bucket.tokens + (Math.max(0, now - bucket.filledAt) / 1000) * perSecond);
    bucket.filledAt = now;
    this.#buckets.delete(caller);
    this.#buckets.set(caller, bucket);
    if (this.#buckets.size > MAX_BUCKETS) {
      const oldest = this.#buckets.keys().next();
      if (oldest.done !== true) this.#buckets.delete(oldest.value);
    }
    if (bucket.tokens < 1) return false;
    bucket.tokens -= 1;
    return true;
  }
}
