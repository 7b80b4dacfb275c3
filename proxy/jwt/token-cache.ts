import type { KeySet } from '../../src/jose/key-set.ts';
import type { VerifiedToken } from './token-verifier.ts';

/** A verified token and what makes it stop being one. */
export interface CachedToken {
  readonly verified: VerifiedToken;
  /** The keys that verified it: with other keys in force it has to be verified again. */
  readonly keys: KeySet;
  /** Milliseconds since the epoch. */
  readonly until: number;
  /** Characters of the token: what the entry counts for. */
  readonly size: number;
}

/** Tokens verified lately, the least recently used dropped first: bounded by number and by the tokens' total length. */
export class TokenCache {
  readonly #entries = new Map<string, CachedToken>();
  readonly #maxEntries: number;
  readonly #maxSize: number;
  #size = 0;

  constructor(maxEntries = 4096, maxSize: number = 4 * 1024 * 1024) {
    this.#maxEntries = maxEntries;
    this.#maxSize = maxSize;
  }

  get count(): number {
    return this.#entries.size;
  }

  get(key: string): CachedToken | undefined {
    const entry = this.#entries.get(key);
    if (entry !== undefined && this.#entries.size > 1) {
      // A Map keeps the order of insertion.
      this.#entries.delete(key);
      this.#entries.set(key, entry);
    }
    return entry;
  }

  put(key: string, entry: CachedToken): void {
    this.drop(key);
    if (entry.size > this.#maxSize) return;
    this.#entries.set(key, entry);
    this.#size += entry.size;
    while (this.#entries.size > this.#maxEntries || this.#size > this.#maxSize) {
      this.drop(this.#entries.keys().next().value as string);
    }
  }

  drop(key: string): void {
    const entry = this.#entries.get(key);
    if (entry === undefined) return;
    this.#entries.delete(key);
    this.#size -= entry.size;
  }
}
