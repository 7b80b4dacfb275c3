import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import type { HostWorkloadRequest } from '../model/admin-api.ts';
import type { WorkloadResource } from '../model/resources.ts';

/** A workload that `weft run` asked for. */
export type HostWorkload = Omit<HostWorkloadRequest, 'name'> & { readonly name: string };

/**
 * The workloads that `weft run` started on this host. They are kept in a file, so that an agent that starts finds them before it
 * releases what nobody answers to. One whose cgroup is gone is forgotten.
 */
export class HostWorkloads {
  readonly #path: string;
  readonly #workloads = new Map<string, HostWorkload>();

  /** @param path the file; a missing or broken one counts as empty, since `weft run` asks again when its workload is not there */
  constructor(path: string) {
    this.#path = path;
    for (const workload of read(path)) this.#workloads.set(keyOf(workload), workload);
    this.#forgetGone();
  }

  get(namespace: string, name: string): HostWorkload | undefined {
    return this.#workloads.get(`${namespace}/${name}`);
  }

  add(workload: HostWorkload): void {
    this.#workloads.set(keyOf(workload), workload);
    this.#save();
  }

  /** False when there was none. */
  remove(namespace: string, name: string): boolean {
    const removed = this.#workloads.delete(`${namespace}/${name}`);
    if (removed) this.#save();
    return removed;
  }

  /** Drops those whose cgroup is gone; true if there were any. */
  #forgetGone(): boolean {
    const gone = [...this.#workloads].filter(([, { cgroup }]) => !existsSync(cgroup));
    for (const [key] of gone) this.#workloads.delete(key);
    if (gone.length > 0) this.#save();
    return gone.length > 0;
  }

  /** What is there now, as resources. */
  resources(node: string, isStrict: (namespace: string) => boolean): WorkloadResource[] {
    this.#forgetGone();
    return [...this.#workloads.values()].map(({ name, namespace, serviceAccount, cgroup }) => ({
      kind: 'Workload',
      metadata: { name, namespace, labels: {}, annotations: {}, creationTimestamp: '' },
      location: { file: 'weft run', line: 1 },
      spec: {
        node,
        serviceAccount,
        addresses: [],
        networkNamespace: null,
        cgroup,
        systemdUnit: null,
        // Whoever says `weft run` wants the mesh, also where the namespace has not joined it yet.
        mode: isStrict(namespace) ? null : 'permissive',
      },
    }));
  }

  #save(): void {
    mkdirSync(dirname(this.#path), { recursive: true, mode: 0o700 });
    const temporary = `${this.#path}.new`;
    writeFileSync(temporary, JSON.stringify([...this.#workloads.values()]), { mode: 0o600 });
    renameSync(temporary, this.#path);
  }
}

function keyOf({ namespace, name }: HostWorkload): string {
  return `${namespace}/${name}`;
}

function read(path: string): HostWorkload[] {
  try {
    const found: unknown = JSON.parse(readFileSync(path, 'utf8'));
    return Array.isArray(found) ? found.filter(isHostWorkload) : [];
  } catch {
    return [];
  }
}

function isHostWorkload(value: unknown): value is HostWorkload {
  const { namespace, name, serviceAccount, cgroup } = (value ?? {}) as Record<string, unknown>;
  return [namespace, name, serviceAccount, cgroup].every((field) => typeof field === 'string');
}
