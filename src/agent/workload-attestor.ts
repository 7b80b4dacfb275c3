import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { Socket } from 'node:net';
import { cgroupId } from '../../bpf/place-descriptors.ts';
import { type PeerProcess, peerProcess } from '../../bpf/peer-credentials.ts';
import type { Caller } from '../../certs/workload-api/caller.ts';
import type { LocalPlace, LocalPlaces } from './local-places.ts';

/** Where a process is, in the words that the kernel's hooks know workloads by. */
interface ProcessPlace {
  /** Device and inode of its network namespace. */
  readonly networkNamespace: string;
  /** Ids of its cgroup and those above it, deepest first. */
  readonly cgroups: readonly bigint[];
}

export interface WorkloadAttestorOptions {
  /** Enrolled workloads now. */
  readonly places: () => LocalPlaces;
  /** Where cgroup v2 is mounted: all of it. Paths in /proc/PID/cgroup begin there. */
  readonly cgroupMount: string;
}

/**
 * Says which workload a process on the other end of a unix socket is part of, by what the kernel says of it and nothing that it says
 * itself: SO_PEERCRED and a pidfd, then its network namespace and cgroup, looked up in the order of the hooks (workload_of() in
 * capture.bpf.c): network namespace first, else the deepest enrolled cgroup. The host's own network namespace is no workload.
 */
export class WorkloadAttestor {
  readonly #options: WorkloadAttestorOptions;

  constructor(options: WorkloadAttestorOptions) {
    this.#options = options;
  }

  /**
   * Attests who connected. Its place is what it was then; whether that is an enrolled workload is looked up with each call.
   * @throws KernelError WEFT_BPF_PEER when the kernel does not name a process that lives
   */
  attest(socket: Socket): AttestedCaller {
    const process = peerProcess(socket);
    let place: ProcessPlace | null = null;
    try {
      const read = this.#placeOf(process.pid);
      // Only now it is known that what was read is of this process, and not of one that got its pid.
      if (process.isAlive()) place = read;
    } catch {
      // It exits: there is no place.
    }
    return new AttestedCaller(process, place, this.#options.places);
  }

  #placeOf(pid: number): ProcessPlace {
    const { dev, ino } = statSync(`/proc/${pid}/ns/net`, { bigint: true });
    return { networkNamespace: `${dev}:${ino}`, cgroups: this.#cgroupsOf(readFileSync(`/proc/${pid}/cgroup`, 'utf8')) };
  }

  #cgroupsOf(text: string): bigint[] {
    const path = /^0::(\/.*)$/m.exec(text)?.[1];
    // A cgroup outside of the agent's cgroup namespace is shown with `..`, one that was removed with a mark.
    if (path === undefined || path.split('/').includes('..') || path.endsWith(' (deleted)')) return [];
    const ids: bigint[] = [];
    const names = path.split('/').filter((name) => name !== '');
    try {
      for (let depth = names.length; depth > 0; depth--) ids.push(cgroupId(join(this.#options.cgroupMount, ...names.slice(0, depth))));
    } catch {
      // A mount that does not show them all: what it does not show is not enrolled here.
      return [];
    }
    return ids;
  }
}

/** A process that is connected to the Workload API. */
export class AttestedCaller implements Caller {
  readonly process: PeerProcess;
  readonly #place: ProcessPlace | null;
  readonly #places: () => LocalPlaces;

  constructor(process: PeerProcess, place: ProcessPlace | null, places: () => LocalPlaces) {
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
    const { networkNamespaces, cgroups } = this.#places();
    const byNamespace = networkNamespaces.get(this.#place.networkNamespace);
    if (byNamespace !== undefined) return byNamespace;
    for (const id of this.#place.cgroups) {
      const byCgroup = cgroups.get(id);
      if (byCgroup !== undefined) return byCgroup;
    }
    return null;
  }

  identity(): string | null {
    return this.workload()?.identity ?? null;
  }

  get account(): string {
    const workload = this.workload();
    return workload === null ? `user ${this.process.uid}` : `workload ${workload.workload}`;
  }

  [Symbol.dispose](): void {
    this.process.close();
  }
}
