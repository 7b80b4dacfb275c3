import { rmSync } from 'node:fs';
import { removeCgroupTree } from './cgroup.ts';
import { deleteNamespaces, namespacesWithPrefix } from './ip.ts';
import type { LabRecord } from './registry.ts';

/** Where the agents of a lab pin their objects. */
export function bpfDirectory(id: string): string {
  return `/sys/fs/bpf/weft-lab-${id}`;
}

/**
 * Removes everything that carries a lab's id: its processes, cgroups, network namespaces, pinned BPF objects and scratch directory.
 * Synchronous, because it also runs on process exit; may be repeated.
 */
export function tearDown(record: LabRecord): void {
  removeCgroupTree(record.cgroupPath);
  rmSync(bpfDirectory(record.id), { recursive: true, force: true });
  deleteNamespaces(namespacesWithPrefix(`${record.id}.`));
  rmSync(record.directory, { recursive: true, force: true });
}
