import type { X509SvidResponse } from '../workload-api/messages.ts';
import type { Clock } from '../clock.ts';
import { noSvid, withdrawn } from './spire-error.ts';
import { SvidSubscription } from './svid-subscription.ts';
import { processLife, type WorkloadProcesses } from './workload-processes.ts';

export interface BrokerSubscriptionsOptions {
  readonly open: (pid: number, signal: AbortSignal) => AsyncIterable<X509SvidResponse>;
  readonly processes: WorkloadProcesses;
  readonly trustDomain: string;
  readonly onChange: () => void;
  readonly clock: Clock;
  readonly random: () => number;
  /** Default: processLife. */
  readonly lifeOf?: (pid: number) => string | null;
}

/** How often it is looked whether the processes still run: SVIDs outlive their workload by no more than that. */
const LOOK_INTERVAL_MS = 1_000;

interface Entry {
  readonly pid: number;
  readonly life: string;
  readonly svids: SvidSubscription;
}

/**
 * One subscription for each local workload that was asked for, through one of its processes.
 * Invariant: a subscription, and all that it brought, ends when its process does; when the workload has another, a new one starts with that.
 */
export class BrokerSubscriptions implements Disposable {
  readonly #options: BrokerSubscriptionsOptions;
  readonly #lifeOf: (pid: number) => string | null;
  readonly #entries = new Map<string, Entry>();
  /** Set exactly while there are entries. */
  #cancelLook: (() => void) | null = null;

  constructor(options: BrokerSubscriptionsOptions) {
    this.#options = options;
    this.#lifeOf = options.lifeOf ?? processLife;
  }

  /** Of the first workload that has one. */
  get problem(): string | null {
    for (const [identity, { svids }] of this.#entries) if (svids.problem !== null) return `${identity}: ${svids.problem}`;
    return null;
  }

  /**
   * The subscription of an identity; started when there is none.
   * @throws CertsError WEFT_CERTS_SPIRE_NO_SVID, or _WITHDRAWN if it had one, when no process of the workload runs
   */
  of(identity: string): { readonly pid: number; readonly svids: SvidSubscription } {
    const entry = this.#entries.get(identity);
    if (entry !== undefined) {
      if (this.#lifeOf(entry.pid) === entry.life) return entry;
      this.#end(identity, entry);
    }
    const started = this.#start(identity);
    if (started !== null) return started;
    throw entry === undefined ? noSvid(identity, 'no process of the workload runs') : withdrawn(identity);
  }

  [Symbol.dispose](): void {
    for (const [identity, entry] of this.#entries) this.#end(identity, entry);
  }

  #start(identity: string): Entry | null {
    const { processes, open, trustDomain, onChange, clock, random } = this.#options;
    const pid = processes.pidOf(identity);
    const life = pid === null ? null : this.#lifeOf(pid);
    if (pid === null || life === null) return null;
    const svids = new SvidSubscription({ open: (signal) => open(pid, signal), trustDomain, onChange, clock, random });
    const entry = { pid, life, svids };
    this.#entries.set(identity, entry);
    this.#cancelLook ??= clock.after(LOOK_INTERVAL_MS, () => this.#look());
    return entry;
  }

  #end(identity: string, { svids }: Entry): void {
    this.#entries.delete(identity);
    svids[Symbol.dispose]();
    if (this.#entries.size > 0) return;
    this.#cancelLook?.();
    this.#cancelLook = null;
  }

  #look(): void {
    this.#cancelLook = null;
    for (const [identity, entry] of this.#entries) {
      if (this.#lifeOf(entry.pid) === entry.life) continue;
      this.#end(identity, entry);
      this.#start(identity);
      this.#options.onChange();
    }
    if (this.#entries.size > 0) this.#cancelLook ??= this.#options.clock.after(LOOK_INTERVAL_MS, () => this.#look());
  }
}
