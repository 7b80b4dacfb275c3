import { readdirSync, readFileSync } from 'node:fs';
import type { WorkloadProcesses } from '../../certs/spire/workload-processes.ts';
import type { LocalPlaces } from './local-places.ts';
import { workloadOfProcess } from './process-place.ts';

export interface HostProcessesOptions {
  /** Enrolled workloads now. */
  readonly places: () => LocalPlaces;
  /** Where cgroup v2 is mounted: all of it. */
  readonly cgroupMount: string;
  /** Milliseconds, of a clock that only goes forward. Default: performance.now. */
  readonly now?: () => number;
}

/** A look at all processes is remembered for so long. */
const REMEMBERED_MS = 1_000;
/** Processes looked at: bounds what a host full of them costs. */
const MAX_PROCESSES = 32_768;
/** Kubernetes' sandbox process: a workload is referred to by one of its own (brokerapi.proto, WorkloadPIDReference). */
const SANDBOX = 'pause';

/** The processes of this host by the identity of the enrolled workload that they are part of: the one with the lowest id of each. */
export class HostProcesses implements WorkloadProcesses {
  readonly #options: HostProcessesOptions;
  readonly #now: () => number;
  #pids: ReadonlyMap<string, number> = new Map();
  #lookedAt = -Infinity;

  constructor(options: HostProcessesOptions) {
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
  }

  pidOf(identity: string): number | null {
    const now = this.#now();
    if (now - this.#lookedAt >= REMEMBERED_MS) {
      this.#pids = this.#look();
      this.#lookedAt = now;
    }
    return this.#pids.get(identity) ?? null;
  }

  #look(): Map<string, number> {
    const found = new Map<string, number>();
    const places = this.#options.places();
    const pids = readdirSync('/proc').map(Number).filter(Number.isInteger);
    for (const pid of pids.toSorted((a, b) => a - b).slice(0, MAX_PROCESSES)) {
      const identity = this.#identityOf(pid, places);
      if (identity !== null && !found.has(identity)) found.set(identity, pid);
    }
    return found;
  }

  #identityOf(pid: number, places: LocalPlaces): string | null {
    try {
      const workload = workloadOfProcess(pid, this.#options.cgroupMount, places);
      if (workload === null || readFileSync(`/proc/${pid}/comm`, 'utf8').trim() === SANDBOX) return null;
      return workload.identity;
    } catch {
      // It exits.
      return null;
    }
  }
}
