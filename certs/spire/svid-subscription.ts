import type { SvidMaterial } from '../../src/model/data-plane.ts';
import type { X509SvidResponse } from '../workload-api/messages.ts';
import type { Clock } from '../clock.ts';
import { readSvids } from './read-svids.ts';
import { Subscription } from './subscription.ts';

export interface SvidSubscriptionOptions {
  readonly open: (signal: AbortSignal) => AsyncIterable<X509SvidResponse>;
  readonly trustDomain: string;
  /** After an SVID came, was replaced or taken back, or the problem changed. */
  readonly onChange: () => void;
  readonly clock: Clock;
  readonly random: () => number;
}

/** SPIRE replaces an SVID at half of its life. Past this share of what was left, a silent call is taken for dead. */
const SILENT_SHARE = 0.75;
const LEAST_SILENCE_MS = 1_000;

/**
 * The X.509-SVIDs that one caller, or one referenced workload, has now.
 * Invariant: what it hands out was in the last usable message, and has not expired.
 */
export class SvidSubscription implements Disposable {
  readonly #subscription: Subscription<X509SvidResponse>;
  readonly #options: SvidSubscriptionOptions;
  /** In the order of the message: the first is the default identity. */
  #svids = new Map<string, SvidMaterial>();
  readonly #withdrawn = new Set<string>();

  constructor(options: SvidSubscriptionOptions) {
    this.#options = options;
    this.#subscription = new Subscription({
      open: options.open,
      onMessage: (message) => this.#replace(readSvids(message, options.trustDomain, options.clock.now())),
      onDenied: () => this.#replace([]),
      onProblem: options.onChange,
      longestSilenceMs: () => this.#longestSilence(),
      clock: options.clock,
      random: options.random,
    });
  }

  get problem(): string | null {
    const { problem, state } = this.#subscription;
    return problem ?? (state === 'open' && this.#svids.size === 0 ? 'no registration entry fits' : null);
  }

  /** The SVID of an identity; null: none, or it has expired. */
  current(identity: string): SvidMaterial | null {
    const svid = this.#svids.get(identity);
    return svid !== undefined && this.#options.clock.now() < svid.notAfter ? svid : null;
  }

  /** The SVID of the default identity (SPIFFE_Workload_API.md section 5.3). */
  first(): SvidMaterial | null {
    for (const identity of this.#svids.keys()) return this.current(identity);
    return null;
  }

  /** True when an identity had an SVID, and a later message was without it. */
  isWithdrawn(identity: string): boolean {
    return this.#withdrawn.has(identity);
  }

  /** Ends the call, and overwrites the keys with zeros. */
  [Symbol.dispose](): void {
    this.#subscription[Symbol.dispose]();
    for (const { privateKey } of this.#svids.values()) privateKey.fill(0);
    this.#svids.clear();
  }

  #replace(received: readonly SvidMaterial[]): void {
    const former = this.#svids;
    this.#svids = new Map(received.map((svid) => [svid.identity, svid]));
    for (const [identity, { privateKey }] of former) {
      privateKey.fill(0);
      if (!this.#svids.has(identity)) this.#withdrawn.add(identity);
    }
    for (const identity of this.#svids.keys()) this.#withdrawn.delete(identity);
    this.#options.onChange();
  }

  #longestSilence(): number | null {
    if (this.#svids.size === 0) return null;
    const now = this.#options.clock.now();
    const left = Math.min(...[...this.#svids.values()].map(({ notAfter }) => notAfter - now));
    return Math.max(LEAST_SILENCE_MS, left * SILENT_SHARE);
  }
}
