import type { JwtSvid } from '../identity-provider.ts';

/** Identities that tokens are kept of, and tokens of one identity. Beyond that the one used longest ago goes. */
const MAX_IDENTITIES = 1_024;
const MAX_TOKENS_PER_IDENTITY = 64;

export interface JwtSvidCacheOptions {
  /** Makes a new JWT-SVID. */
  readonly issue: (identity: string, audience: readonly string[]) => Promise<JwtSvid>;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
}

/** JWT-SVIDs until half of their life has passed, one for each identity and audience; who asks at the same time gets the same one. */
export class JwtSvidCache {
  readonly #options: JwtSvidCacheOptions;
  /** Both levels in the order of their last use. */
  readonly #identities = new Map<string, Map<string, Promise<JwtSvid>>>();

  constructor(options: JwtSvidCacheOptions) {
    this.#options = options;
  }

  /** @throws what `issue` throws; it is asked again the next time */
  async get(identity: string, audience: readonly string[]): Promise<JwtSvid> {
    const tokens = this.#identities.get(identity) ?? new Map<string, Promise<JwtSvid>>();
    touch(this.#identities, identity, tokens, MAX_IDENTITIES);
    const key = JSON.stringify(audience);
    const cached = tokens.get(key);
    if (cached !== undefined) {
      const svid = await cached;
      if (this.#options.now() < (svid.issuedAt + svid.expiresAt) / 2) {
        if (tokens.has(key)) touch(tokens, key, cached, MAX_TOKENS_PER_IDENTITY);
        return svid;
      }
      // Unless somebody else who waited has asked for a new one already.
      if (tokens.get(key) === cached) tokens.delete(key);
      else return this.get(identity, audience);
    }
    const issued = this.#options.issue(identity, audience);
    touch(tokens, key, issued, MAX_TOKENS_PER_IDENTITY);
    try {
      return await issued;
    } catch (error) {
      if (tokens.get(key) === issued) tokens.delete(key);
      throw error;
    }
  }

  /** Forgets all: the keys that signed them have changed. */
  clear(): void {
    this.#identities.clear();
  }
}

/** Puts an entry last, and drops the first while there are too many. */
function touch<Value>(entries: Map<string, Value>, key: string, value: Value, most: number): void {
  entries.delete(key);
  entries.set(key, value);
  for (const first of entries.keys()) {
    if (entries.size <= most) return;
    entries.delete(first);
  }
}
