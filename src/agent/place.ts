import { statSync } from 'node:fs';
import { join } from 'node:path';
import { cgroupId, cookieOfNetworkNamespace, OwnedFd } from '../../bpf/place-descriptors.ts';
import type { WorkloadResource } from '../model/resources.ts';

/** Where a local workload's processes are: what the hooks recognise it by. */
export type Place = { readonly kind: 'network-namespace'; readonly path: string } | { readonly kind: 'cgroup'; readonly path: string };

const SYSTEM_SLICE = 'system.slice';

/** The place that a Workload names, or null when it names none: a peer without an agent. */
export function placeOf(workload: WorkloadResource, cgroupRoot: string): Place | null {
  const { networkNamespace, cgroup, systemdUnit } = workload.spec;
  if (networkNamespace !== null) return { kind: 'network-namespace', path: networkNamespace };
  if (cgroup !== null) return { kind: 'cgroup', path: cgroup };
  if (systemdUnit !== null) return { kind: 'cgroup', path: join(cgroupRoot, SYSTEM_SLICE, systemdUnit) };
  return null;
}

/** What the kernel's maps call a place: its kind with the network namespace cookie or cgroup id. */
export function placeKey(kind: Place['kind'], key: bigint): string {
  return `${kind} ${key}`;
}

/** placeKey() of a place as it is now, or null while it is not there. */
export function keyOfPlace(place: Place): string | null {
  try {
    if (place.kind === 'cgroup') return placeKey(place.kind, cgroupId(place.path));
    using namespace = OwnedFd.open(place.path);
    return placeKey(place.kind, cookieOfNetworkNamespace(namespace.fd));
  } catch {
    return null;
  }
}

/** Tells one life of a place from the next: device and inode, or null while it is not there. */
export function placeInstance(place: Place): string | null {
  try {
    const { dev, ino } = statSync(place.path, { bigint: true });
    return `${dev}:${ino}`;
  } catch {
    return null;
  }
}
