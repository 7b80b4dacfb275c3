import type { IdentityUpdate } from '../model/worker-messages.ts';
import type { RequestBody } from './worker-pool.ts';

/** How long a worker has for one update; one that is busier than this gets the next. */
const ANSWER_TIMEOUT_MS = 5_000;
/** Every update has all SVIDs in it: when a thousand come one by one, workers get them in as many updates as there are of these, in ms. */
const PAUSE_MS = 100;
/** After a worker has not answered. */
const RETRY_PAUSE_MS = 1_000;

export interface IdentityDistributionOptions {
  /** SVIDs and bundles as they are, and their version, which grows with each change. */
  readonly source: { readonly version: number; snapshot(): IdentityUpdate; onChange(listener: () => void): () => void };
  readonly workers: { readonly size: number; request(index: number, body: RequestBody, timeoutMs?: number): Promise<unknown> };
  /** All workers, none left out, go by this version from now on. Grows from call to call. */
  readonly onAcknowledged: (version: number) => void;
}

/**
 * Brings every change of SVIDs and bundles to every proxy worker, and knows which version all of them go by: only then may keys be wiped,
 * and the authority be told that this node verifies with its bundle.
 *
 * A worker that hangs or dies holds back what is acknowledged, never what the others are sent: its replacement starts at nothing, and is
 * sent everything.
 */
export class IdentityDistribution implements Disposable {
  readonly #options: IdentityDistributionOptions;
  /** By worker: the version it was sent last, and the one it has said it goes by; 0 for none. */
  readonly #sent: number[];
  readonly #answered: number[];
  readonly #retries = new Set<NodeJS.Timeout>();
  readonly #unsubscribe: () => void;
  /** Set for PAUSE_MS after an update that a change caused; `#waiting`: something changed meanwhile. */
  #pause: NodeJS.Timeout | null = null;
  #waiting = false;
  #acknowledged = 0;
  #disposed = false;

  constructor(options: IdentityDistributionOptions) {
    this.#options = options;
    this.#sent = Array.from({ length: options.workers.size }, () => 0);
    this.#answered = this.#sent.map(() => 0);
    this.#unsubscribe = options.source.onChange(() => this.#changed());
  }

  /** The version that every worker goes by. */
  get acknowledged(): number {
    return this.#acknowledged;
  }

  /** A worker has started, for the first time or anew: it knows nothing. */
  started(index: number): void {
    this.#sent[index] = 0;
    this.#answered[index] = 0;
    void this.#send(index);
  }

  #changed(): void {
    if (this.#pause !== null) {
      this.#waiting = true;
      return;
    }
    this.sendAll();
    this.#pause = setTimeout(() => {
      this.#pause = null;
      if (!this.#waiting) return;
      this.#waiting = false;
      this.#changed();
    }, PAUSE_MS).unref();
  }

  /** Sends what has changed now, without any pause: somebody waits for it, or what the workers are sent next needs it. */
  sendAll(): void {
    for (const index of this.#sent.keys()) void this.#send(index);
  }

  async #send(index: number): Promise<void> {
    const { source, workers } = this.#options;
    const { version } = source;
    if (this.#disposed || this.#sent[index] === version) return;
    this.#sent[index] = version;
    try {
      await workers.request(index, { type: 'identities', update: source.snapshot() }, ANSWER_TIMEOUT_MS);
      this.#answered[index] = version;
      this.#checkAcknowledged();
    } catch {
      // The pool tells of a worker that died, and starts another. One that hangs gets everything again.
      this.#retryLater(index);
    }
  }

  #retryLater(index: number): void {
    if (this.#disposed) return;
    const timer = setTimeout(() => {
      this.#retries.delete(timer);
      this.#sent[index] = 0;
      void this.#send(index);
    }, RETRY_PAUSE_MS).unref();
    this.#retries.add(timer);
  }

  #checkAcknowledged(): void {
    const least = Math.min(...this.#answered);
    if (least <= this.#acknowledged) return;
    this.#acknowledged = least;
    this.#options.onAcknowledged(least);
  }

  [Symbol.dispose](): void {
    this.#disposed = true;
    this.#unsubscribe();
    if (this.#pause !== null) clearTimeout(this.#pause);
    for (const timer of this.#retries) clearTimeout(timer);
    this.#retries.clear();
  }
}
