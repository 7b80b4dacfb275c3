import type { RequestAuthenticationEntry } from '../../src/model/snapshot.ts';
import type { JwksUpdate } from '../../src/model/worker-messages.ts';
import { JwtError } from '../../src/jose/jwt-error.ts';
import { KeySet } from '../../src/jose/key-set.ts';

/** How old fetched keys get before they are fetched again, with a tenth of jitter. */
const REFRESH_MS = 5 * 60_000;
/** After a failure, doubled each time up to the longest. */
const FIRST_RETRY_MS = 1_000;
const LONGEST_RETRY_MS = 60_000;
/** Unknown key ids cause one fetch in this time, at most. */
const ON_DEMAND_MS = 30_000;
/** Keys outlive the endpoint that they came from for this long, and not longer. */
const MAX_AGE_MS = 24 * 3_600_000;
const MAX_URIS = 1_000;
const MAX_CONCURRENT = 8;

export interface JwksStoreOptions {
  /** Fetches a document; throws when there is none that could be believed. Bounds time and size itself. */
  readonly fetchJwks: (uri: string) => Promise<string>;
  /** Told of each failed fetch, and how it is dealt with. */
  readonly onFailure: (uri: string, error: unknown) => void;
  /** Milliseconds since the epoch. */
  readonly now?: () => number;
  /** From 0 to 1. */
  readonly random?: () => number;
}

/** How one URI stands, for the admin endpoint. */
export interface JwksStatus {
  readonly uri: string;
  /** Keys that can verify, or null before the first successful fetch and after they grew too old. */
  readonly keys: number | null;
  readonly fetchedAt: number | null;
  readonly failures: number;
}

/**
 * waiting: a timer runs to the next fetch. fetching: a fetch is under way, or waits for its turn. gone: nobody wants the URI any more.
 * Invariant: `timer` is set exactly in waiting.
 */
type SourceState = 'waiting' | 'fetching' | 'gone';

interface Source {
  readonly uri: string;
  state: SourceState;
  timer: NodeJS.Timeout | null;
  fetching: Promise<void> | null;
  text: string | null;
  keys: number;
  fetchedAt: number;
  attemptedAt: number;
  failures: number;
}

/**
 * The JWK Sets of all issuers that are fetched, in the agent's main thread: fetched again every five minutes, and when a worker meets an unknown
 * key. While that fails the old ones stay, for a day at most; then, as before the first fetch, there are none, and tokens are refused. There is
 * nothing else that keys could come from (CVE-2026-31837 was a mesh that had).
 */
export class JwksStore implements Disposable {
  readonly #options: JwksStoreOptions;
  readonly #now: () => number;
  readonly #random: () => number;
  readonly #sources = new Map<string, Source>();
  readonly #listeners = new Set<(update: JwksUpdate) => void>();
  readonly #queue: (() => void)[] = [];
  #running = 0;

  constructor(options: JwksStoreOptions) {
    this.#options = options;
    this.#now = options.now ?? Date.now;
    this.#random = options.random ?? Math.random;
  }

  /** The URIs that are wanted from now on: new ones are fetched at once, others forgotten with their keys. Call it before workers get the rules. */
  setUris(wanted: ReadonlySet<string>): void {
    let forgotten = false;
    for (const source of this.#sources.values()) {
      if (wanted.has(source.uri)) continue;
      this.#forget(source);
      forgotten = true;
    }
    for (const uri of wanted) {
      if (this.#sources.has(uri)) continue;
      if (this.#sources.size >= MAX_URIS) {
        const error = new JwtError('WEFT_JWT_TOO_MANY_URIS', `more than ${MAX_URIS} different jwksUri`, {
          nextStep: 'use fewer issuers, or write their keys into the rule (jwks)',
        });
        this.#options.onFailure(uri, error);
        continue;
      }
      const source: Source = {
        uri,
        state: 'fetching',
        timer: null,
        fetching: null,
        text: null,
        keys: 0,
        fetchedAt: 0,
        attemptedAt: Number.NEGATIVE_INFINITY,
        failures: 0,
      };
      this.#sources.set(uri, source);
      this.#start(source);
    }
    if (forgotten) this.#publish([]);
  }

  /** Everything there is, for a worker that starts. */
  snapshot(settled: readonly string[] = []): JwksUpdate {
    const now = this.#now();
    const documents = [...this.#sources.values()].flatMap(({ uri, text, fetchedAt }) => {
      const validUntil = fetchedAt + MAX_AGE_MS;
      return text === null || now >= validUntil ? [] : [{ uri, text, validUntil }];
    });
    return { documents, settled };
  }

  /** Called with the whole state after each change, and to settle what was asked for. Returns the unsubscribe function. */
  onChange(listener: (update: JwksUpdate) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** A worker met a key it does not know: fetches, unless that was done just now. Listeners are told in any case. Never rejects. */
  async refresh(uri: string): Promise<void> {
    const source = this.#sources.get(uri);
    if (source?.state === 'waiting' && this.#now() >= source.attemptedAt + ON_DEMAND_MS) this.#start(source);
    await source?.fetching;
    this.#publish([uri]);
  }

  status(): JwksStatus[] {
    const current = new Set(this.snapshot().documents.map(({ uri }) => uri));
    return [...this.#sources.values()].map(({ uri, keys, fetchedAt, failures }) => ({
      uri,
      keys: current.has(uri) ? keys : null,
      fetchedAt: fetchedAt === 0 ? null : fetchedAt,
      failures,
    }));
  }

  [Symbol.dispose](): void {
    for (const source of this.#sources.values()) this.#forget(source);
    this.#listeners.clear();
  }

  #publish(settled: readonly string[]): void {
    const update = this.snapshot(settled);
    for (const listener of this.#listeners) listener(update);
  }

  #move(source: Source, to: SourceState, inMillis = 0): void {
    if (source.timer !== null) clearTimeout(source.timer);
    source.timer = null;
    source.state = to;
    if (to !== 'waiting') return;
    source.timer = setTimeout(() => this.#start(source), inMillis * (0.9 + 0.2 * this.#random()));
    source.timer.unref();
  }

  #forget(source: Source): void {
    this.#move(source, 'gone');
    this.#sources.delete(source.uri);
  }

  #start(source: Source): void {
    this.#move(source, 'fetching');
    source.fetching = this.#fetch(source).finally(() => {
      source.fetching = null;
    });
  }

  async #fetch(source: Source): Promise<void> {
    const isGone = (): boolean => source.state === 'gone';
    await this.#turn();
    let failure: unknown = null;
    try {
      if (isGone()) return;
      source.attemptedAt = this.#now();
      const text = await this.#options.fetchJwks(source.uri);
      source.keys = KeySet.parse(text).size;
      source.text = text;
      source.fetchedAt = this.#now();
      source.failures = 0;
    } catch (error) {
      failure = error;
      source.failures++;
    } finally {
      this.#leave();
    }
    if (isGone()) return;
    this.#move(source, 'waiting', failure === null ? REFRESH_MS : retryMillis(source.failures));
    if (failure === null) this.#publish([]);
    else this.#options.onFailure(source.uri, failure);
  }

  async #turn(): Promise<void> {
    if (this.#running >= MAX_CONCURRENT) {
      await new Promise<void>((resolve) => this.#queue.push(resolve));
      return;
    }
    this.#running++;
  }

  /** Hands the turn on, or gives it back. */
  #leave(): void {
    const next = this.#queue.shift();
    if (next === undefined) this.#running--;
    else next();
  }
}

function retryMillis(failures: number): number {
  return Math.min(LONGEST_RETRY_MS, FIRST_RETRY_MS * 2 ** Math.min(failures - 1, 16));
}

/** Every jwksUri that rules without inline keys name. */
export function jwksUris(authentications: readonly RequestAuthenticationEntry[]): Set<string> {
  const uris = new Set<string>();
  for (const { rules } of authentications) {
    for (const { jwks, jwksUri } of rules) if (jwks === null && jwksUri !== null) uris.add(jwksUri);
  }
  return uris;
}
