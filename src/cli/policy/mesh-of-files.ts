import { type BuiltSnapshot, buildSnapshot, WorkloadIds } from '../../config/build-snapshot.ts';
import type { Resource, WorkloadResource } from '../../model/resources.ts';
import type { MeshSnapshot } from '../../model/snapshot.ts';
import type { Question } from './question.ts';

/** What the files of a directory do not say about a mesh: the agent has it from flags. */
export interface MeshNames {
  readonly trustDomain: string;
  readonly rootNamespace: string;
}

/** Where nothing is said: what `weft agent` has. */
export const DEFAULT_MESH_NAMES: MeshNames = { trustDomain: 'cluster.local', rootNamespace: 'istio-system' };

/**
 * The mesh that resources make, with the workload that a question asks about: one that they do not have is made, as a pod with these labels
 * would be. It is in the mesh (permissive, or strict where a Namespace or PeerAuthentication says so) unless its Namespace is off. Labels of
 * a question replace those that a workload of the files has.
 */
export function meshOf(
  resources: readonly Resource[],
  names: MeshNames,
  question: Pick<Question, 'namespace' | 'name' | 'labels'>,
): MeshSnapshot {
  const { namespace, name, labels } = question;
  const known = resources.find((resource) => resource.kind === 'Workload' && isNamed(resource, namespace, name));
  if (known !== undefined && labels === null) return snapshotOf(resources, names).snapshot;
  const workload: WorkloadResource =
    known?.kind === 'Workload'
      ? { ...known, metadata: { ...known.metadata, labels: labels ?? known.metadata.labels } }
      : madeWorkload(resources, namespace, name, labels ?? {});
  return snapshotOf([...resources.filter((resource) => resource !== known), workload], names).snapshot;
}

/** The mesh that resources make, with what they do less than their author may think. */
export function snapshotOf(resources: readonly Resource[], names: MeshNames): BuiltSnapshot {
  return buildSnapshot(resources, {
    ...names,
    nodeName: 'node',
    version: 1,
    enrolled: () => true,
    workloadIds: new WorkloadIds(),
  });
}

function madeWorkload(
  resources: readonly Resource[],
  namespace: string,
  name: string,
  labels: Readonly<Record<string, string>>,
): WorkloadResource {
  const home = resources.find((resource) => resource.kind === 'Namespace' && resource.metadata.name === namespace);
  const namespaceMode = home?.kind === 'Namespace' ? home.mode : null;
  return {
    kind: 'Workload',
    metadata: { name, namespace, labels, annotations: {}, creationTimestamp: '' },
    location: { file: '(asked)', line: 0 },
    spec: {
      node: 'node',
      serviceAccount: 'default',
      addresses: [],
      networkNamespace: null,
      cgroup: null,
      systemdUnit: null,
      mode: namespaceMode === null ? 'permissive' : null,
    },
  };
}

function isNamed({ metadata }: Resource, namespace: string, name: string): boolean {
  return metadata.namespace === namespace && metadata.name === name;
}
