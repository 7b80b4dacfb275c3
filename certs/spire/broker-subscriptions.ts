import type { SvidMaterial } from '../../src/model/data-plane.ts';
import type { X509SvidResponse } from '../workload-api/messages.ts';
import type { Clock } from '../clock.ts';
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
/** A workload without a process is looked for this long after it was last asked for: longer than the SvidManager ever waits between two tries. */
const MISSED_MS = 5 * 60_000;

interface Entry {
  readonly pid: number;
  readonly life: string;
  readonly svids: SvidSubscription;
}

/**
 * One subscription for each local workload that was asked for, through one of its processes.
 * Invariant: a subscription, and all that it brought, ends when its process does; when the workload has another, or gets one, a new one
 * starts with that.
 */
export class BrokerSubscriptions implements Disposable {
  readonly #options: BrokerSubscriptionsOptions;
  readonly #lifeOf: (pid: number) => string | null;
  readonly #entries = new Map<string, Entry>();
  /** Identities without a process, and when they were last asked for. No identity is here and in #entries. */
  readonly #missed = new Map<string, number>();
  /** Set exactly while there is something to look for. */
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

  /** The subscription of an identity, started when there is none; null while no process of the workload runs: then one is waited for. */
  of(identity: string): Entry | null {
    const entry = this.#entries.get(identity);
    if (entry !== undefined) {
      if (this.#runs(entry)) return entry;
      this.#end(identity, entry);
    }
    return this.#start(identity) ?? this.#miss(identity);
  }

  /** The SVID that an identity has now; null: none. */
  current(identity: string): SvidMaterial | null {
    const entry = this.#entries.get(identity);
    return entry !== undefined && this.#runs(entry) ? entry.svids.current(identity) : null;
  }

  [Symbol.dispose](): void {
    for (const [identity, entry] of this.#entries) this.#end(identity, entry);
    this.#missed.clear();
    this.#cancelLook?.();
    this.#cancelLook = null;
  }

  #runs({ pid, life }: Entry): boolean {
    return this.#lifeOf(pid) === life;
  }

  #start(identity: string): Entry | null {
    const { processes, open, trustDomain, onChange, clock, random } = this.#options;
    const pid = processes.pidOf(identity);
    const life = pid === null ? null : this.#lifeOf(pid);
    if (pid === null || life === null) return null;
    const svids = new SvidSubscription({ open: (signal) => open(pid, signal), trustDomain, onChange, clock, random });
    const entry = { pid, life, svids };
    this.#entries.set(identity, entry);
    this.#missed.delete(identity);
    this.#lookLater();
    return entry;
  }

  #miss(identity: string): null {
    this.#missed.set(identity, this.#options.clock.now());
    this.#lookLater();
    return null;
  }

  #end(identity: string, { svids }: Entry): void {
    this.#entries.delete(identity);
    svids[Symbol.dispose]();
  }

  #lookLater(): void {
    this.#cancelLook ??= this.#options.clock.after(LOOK_INTERVAL_MS, () => this.#look());
  }

  #look(): void {
    this.#cancelLook = null;
    for (const [identity, askedAt] of this.#missed) {
      if (this.#options.clock.now() - askedAt >= MISSED_MS) this.#missed.delete(identity);
      else this.#start(identity);
    }
    for (const [identity, entry] of this.#entries) {
      if (this.#runs(entry)) continue;
      this.#end(identity, entry);
      if (this.#start(identity) === null) this.#miss(identity);
      this.#options.onChange();
    }
    if (this.#entries.size + this.#missed.size > 0) this.#lookLater();
  }
}
