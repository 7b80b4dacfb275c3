import { type BigIntStats, fstatSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { cgroupId, OwnedFd } from '../../bpf/place-descriptors.ts';
import type { LocalPlace, LocalPlaces } from './local-places.ts';

/** Where a process is, in the words that the kernel's hooks know workloads by. */
export interface ProcessPlace {
  /** Device and inode of its network namespace. */
  readonly networkNamespace: string;
  /** Ids of its cgroup and those above it, deepest first. */
  readonly cgroups: readonly bigint[];
}

/** A place that stays what it is until it is disposed of. */
export interface HeldPlace extends ProcessPlace, Disposable {}

/**
 * Where a process is now, with its network namespace held open. Else the kernel gives the inode of one that is gone to the next, and a place that
 * is remembered for longer than a moment would be somebody else's. Cgroup ids are not used again. It may have been another process with the
 * same id: who must know looks whether it still lives afterwards.
 * @param cgroupMount where cgroup v2 is mounted: all of it, since paths in /proc/PID/cgroup begin there
 * @throws Error of the file system when it exits
 */
export function holdPlaceOfProcess(pid: number, cgroupMount: string): HeldPlace {
  const namespace = OwnedFd.open(`/proc/${pid}/ns/net`);
  try {
    const networkNamespace = namespaceText(fstatSync(namespace.fd, { bigint: true }));
    return { networkNamespace, cgroups: cgroupsOfProcess(pid, cgroupMount), [Symbol.dispose]: () => namespace.close() };
  } catch (error) {
    namespace.close();
    throw error;
  }
}

/**
 * The workload that is enrolled in a place, looked up in the order of the hooks (workload_of() in capture.bpf.c): network namespace first,
 * else the deepest enrolled cgroup. The host's own network namespace is no workload.
 */
export function workloadAt(place: ProcessPlace, { networkNamespaces, cgroups }: LocalPlaces): LocalPlace | null {
  return networkNamespaces.get(place.networkNamespace) ?? deepestEnrolled(place.cgroups, cgroups);
}

/**
 * The enrolled workload that a process is part of at this moment, with nothing held: as workloadAt. A pod costs one stat, as its cgroups are
 * looked at only where its network namespace says nothing. It may have been another process with the same id.
 * @param cgroupMount as of holdPlaceOfProcess
 * @throws Error of the file system when it exits
 */
export function workloadOfProcess(pid: number, cgroupMount: string, { networkNamespaces, cgroups }: LocalPlaces): LocalPlace | null {
  const byNamespace = networkNamespaces.get(namespaceText(statSync(`/proc/${pid}/ns/net`, { bigint: true })));
  return byNamespace ?? deepestEnrolled(cgroupsOfProcess(pid, cgroupMount), cgroups);
}

function deepestEnrolled(ids: readonly bigint[], enrolled: LocalPlaces['cgroups']): LocalPlace | null {
  for (const id of ids) {
    const workload = enrolled.get(id);
    if (workload !== undefined) return workload;
  }
  return null;
}

function namespaceText({ dev, ino }: BigIntStats): string {
  return `${dev}:${ino}`;
}

function cgroupsOfProcess(pid: number, cgroupMount: string): bigint[] {
  const path = /^0::(\/.*)$/m.exec(readFileSync(`/proc/${pid}/cgroup`, 'utf8'))?.[1];
  // A cgroup outside of the agent's cgroup namespace is shown with `..`, one that was removed with a mark.
  if (path === undefined || path.split('/').includes('..') || path.endsWith(' (deleted)')) return [];
  const ids: bigint[] = [];
  const names = path.split('/').filter((name) => name !== '');
  try {
    for (let depth = names.length; depth > 0; depth--) ids.push(cgroupId(join(cgroupMount, ...names.slice(0, depth))));
  } catch {
    // A mount that does not show them all: what it does not show is not enrolled here.
    return [];
  }
  return ids;
}
