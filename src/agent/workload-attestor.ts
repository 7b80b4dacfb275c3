import type { Socket } from 'node:net';
import { type PeerProcess, peerProcess, peerProcessId } from '../../bpf/peer-credentials.ts';
import type { Caller } from '../../certs/workload-api/caller.ts';
import type { LocalPlace, LocalPlaces } from './local-places.ts';
import { type HeldPlace, holdPlaceOfProcess, workloadAt, workloadOfProcess } from './process-place.ts';

export interface WorkloadAttestorOptions {
  /** Enrolled workloads now. */
  readonly places: () => LocalPlaces;
  /** Where cgroup v2 is mounted: all of it. Paths in /proc/PID/cgroup begin there. */
  readonly cgroupMount: string;
}

/**
 * Says which workload a process on the other end of a unix socket is part of, by what the kernel says of it and nothing that it says
 * itself: SO_PEERCRED and a pidfd, then its network namespace and cgroup (see workloadAt).
 */
export class WorkloadAttestor {
  readonly #options: WorkloadAttestorOptions;

  constructor(options: WorkloadAttestorOptions) {
    this.#options = options;
  }

  /**
   * Whom a connection counts against, before it is attested and for a small part of what that costs. A process has no choice in it: however it
   * forks, or whatever namespaces and cgroups it makes, it is its workload's, or one of those that are part of none and get nothing. It is no
   * more than an account: the process may have exited, and its id be another's.
   * @throws KernelError WEFT_BPF_PEER
   * @throws Error of the file system when it has exited
   */
  accountOf(socket: Socket): string {
    return accountOf(workloadOfProcess(peerProcessId(socket), this.#options.cgroupMount, this.#options.places()));
  }

  /**
   * Attests who connected. Its place is what it was then; whether that is an enrolled workload is looked up with each call.
   * @throws KernelError WEFT_BPF_PEER when the kernel does not name a process that lives
   */
  attest(socket: Socket): AttestedCaller {
    const process = peerProcess(socket);
    let place: HeldPlace | null = null;
    try {
      const read = holdPlaceOfProcess(process.pid, this.#options.cgroupMount);
      // Only now it is known that what was read is of this process, and not of one that got its pid.
      if (process.isAlive()) place = read;
      else read[Symbol.dispose]();
    } catch {
      // It exits: there is no place.
    }
    return new AttestedCaller(process, place, this.#options.places);
  }
}

/** A process that is connected to the Workload API. Owns what it is known by: dispose of it when it has left. */
export class AttestedCaller implements Caller {
  readonly process: PeerProcess;
  readonly #place: HeldPlace | null;
  readonly #places: () => LocalPlaces;

  constructor(process: PeerProcess, place: HeldPlace | null, places: () => LocalPlaces) {
    this.process = process;
    this.#place = place;
    this.#places = places;
  }

  get exited(): AbortSignal {
    return this.process.exited;
  }

  /** The workload that it is part of now; null when that is none, or it has exited. */
  workload(): LocalPlace | null {
    if (this.#place === null || !this.process.isAlive()) return null;
    return workloadAt(this.#place, this.#places());
  }

  identity(): string | null {
    return this.workload()?.identity ?? null;
  }

  get account(): string {
    return accountOf(this.workload());
  }

  [Symbol.dispose](): void {
    this.process.close();
    this.#place?.[Symbol.dispose]();
  }
}

/** Not by user: a container's root is as many users as it likes to be. */
function accountOf(workload: LocalPlace | null): string {
  return workload === null ? 'no workload' : `workload ${workload.workload}`;
}
