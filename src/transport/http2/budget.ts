/**
 * A token bucket: how often a peer may do what costs us more than it costs the peer. Time is read only when a token is taken.
 */
export class Budget {
  readonly #burst: number;
  readonly #perMillisecond: number;
  #tokens: number;
  #at: number;

  /**
   * @param burst how many at once
   * @param perSecond how many a second in the long run
   */
  constructor(burst: number, perSecond: number) {
    this.#burst = burst;
    this.#perMillisecond = perSecond / 1000;
    this.#tokens = burst;
    this.#at = performance.now();
  }

  /** Gives one back: the peer did something useful. */
  give(): void {
    if (this.#tokens < this.#burst) this.#tokens++;
  }

  /** Takes one. False: the peer is over its budget. */
  take(): boolean {
    if (this.#tokens < 1) {
      const now = performance.now();
      this.#tokens = Math.min(this.#burst, this.#tokens + (now - this.#at) * this.#perMillisecond);
      this.#at = now;
      if (this.#tokens < 1) return false;
    }
    this.#tokens--;
    return true;
  }
}
