import { setMaxListeners } from 'node:events';

/** A place that a call has taken. Disposing of it gives it back. */
export interface Place extends Disposable {
  /** Aborts when the place is needed for an account that holds fewer. */
  readonly withdrawn: AbortSignal;
}

export interface FairPlacesOptions {
  /** Places in all. */
  readonly total: number;
  /** Places of one account at most. */
  readonly perAccount: number;
}

interface Held {
  readonly account: string;
  readonly withdrawal: AbortController;
}

/**
 * A fixed number of places that accounts share: no account takes more than its limit, and when all are taken, one that holds fewer than the
 * largest gets a place of the largest. So a flood of one account, or of several, never shuts the others out.
 */
export class FairPlaces {
  readonly #options: FairPlacesOptions;
  readonly #accounts = new Map<string, Set<Held>>();
  #taken = 0;

  constructor(options: FairPlacesOptions) {
    this.#options = options;
  }

  /** Places that are taken. */
  get taken(): number {
    return this.#taken;
  }

  /** A place, or null when the account has its share. */
  take(account: string): Place | null {
    const own = this.#accounts.get(account)?.size ?? 0;
    if (own >= this.#options.perAccount) return null;
    if (this.#taken >= this.#options.total && !this.#withdrawFromLargest(own)) return null;
    const withdrawal = new AbortController();
    // A stream waits on it anew for every message.
    setMaxListeners(0, withdrawal.signal);
    const held: Held = { account, withdrawal };
    const places = this.#accounts.get(account);
    if (places === undefined) this.#accounts.set(account, new Set([held]));
    else places.add(held);
    this.#taken++;
    return { withdrawn: withdrawal.signal, [Symbol.dispose]: () => this.#release(held) };
  }

  #withdrawFromLargest(own: number): boolean {
    let largest: Set<Held> | null = null;
    for (const places of this.#accounts.values()) if (largest === null || places.size > largest.size) largest = places;
    if (largest === null || largest.size <= own + 1) return false;
    const [oldest] = largest;
    if (oldest === undefined) return false;
    this.#release(oldest);
    oldest.withdrawal.abort();
    return true;
  }

  #release(held: Held): void {
    const places = this.#accounts.get(held.account);
    if (places?.delete(held) !== true) return;
    this.#taken--;
    if (places.size === 0) this.#accounts.delete(held.account);
  }
}
