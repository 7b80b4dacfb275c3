import { mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { stringify } from 'yaml';
import type { Mode } from '../../../src/model/resources.ts';
import { checkName } from './node.ts';
import type { LabPod } from './pod.ts';

/** A Kubernetes-shaped resource, as its author would write it. */
export interface ResourceDocument {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly labels?: Readonly<Record<string, string>>;
    readonly annotations?: Readonly<Record<string, string>>;
  };
  readonly spec?: unknown;
}

/**
 * A directory of YAML for `weft agent --config`. Every file is replaced at once: a watcher sees the old text or the new one.
 * `workloads.yaml` holds the lab's pods, `namespace-<name>.yaml` one namespace; the rest is the caller's.
 */
export class LabConfig {
  readonly directory: string;
  readonly #scratch: string;
  #writes = 0;

  constructor(directory: string, scratch: string) {
    this.directory = directory;
    this.#scratch = scratch;
    mkdirSync(directory, { recursive: true, mode: 0o700 });
  }

  /** Writes the file `<name>.yaml`: YAML text as it is (also broken text), or resources. */
  apply(name: string, content: string | readonly ResourceDocument[]): void {
    checkName(name);
    const text = typeof content === 'string' ? content : content.map((document) => stringify(document)).join('---\n');
    // Made elsewhere and renamed in: the watched directory never shows half a file.
    const temporary = join(this.#scratch, `.config-${process.pid}-${this.#writes++}`);
    writeFileSync(temporary, text, { mode: 0o600 });
    renameSync(temporary, this.path(name));
  }

  /** Removes the file `<name>.yaml`. */
  remove(name: string): void {
    rmSync(this.path(name), { force: true });
  }

  path(name: string): string {
    return join(this.directory, `${name}.yaml`);
  }

  /** Sets how far a namespace is in the mesh. */
  namespaceMode(namespace: string, mode: Mode): void {
    this.apply(`namespace-${namespace}`, [
      { apiVersion: 'v1', kind: 'Namespace', metadata: { name: namespace, labels: { 'weft.dev/mode': mode } } },
    ]);
  }

  /** Writes the Workloads of these pods. */
  workloads(pods: readonly LabPod[]): void {
    this.apply('workloads', pods.map(workloadDocument));
  }
}

/** The Workload resource of a pod. */
export function workloadDocument(pod: LabPod): ResourceDocument {
  return {
    apiVersion: 'weft.dev/v1',
    kind: 'Workload',
    metadata: { name: pod.name, namespace: pod.namespace, labels: pod.labels },
    spec: {
      node: pod.nodeName,
      serviceAccount: pod.serviceAccount,
      addresses: [pod.addresses.v4, pod.addresses.v6],
      networkNamespace: pod.netnsPath,
      cgroup: pod.cgroupPath,
    },
  };
}
