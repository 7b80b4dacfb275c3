import { workloadIdentity } from '../model/identity.ts';
import type { Placements } from '../model/placements.ts';
import type { NamespaceResource, Resource, WorkloadResource } from '../model/resources.ts';
import { ModeResolver } from './effective-mode.ts';

/**
 * Placements as the configuration has them: a Workload places its identity on its `spec.node`, unless its mode is `off`. They follow the
 * configuration with `update`, and nobody is placed anywhere before the first.
 */
export class ConfiguredPlacements implements Placements {
  readonly #trustDomain: string;
  #identitiesByNode: ReadonlyMap<string, ReadonlySet<string>> = new Map();

  constructor(trustDomain: string) {
    this.#trustDomain = trustDomain;
  }

  /** Takes over the full configuration: what is not in it is placed no more. */
  update(resources: readonly Resource[]): void {
    const namespaces = resources.filter((resource): resource is NamespaceResource => resource.kind === 'Namespace');
    // PeerAuthentication says how strict a workload of the mesh is, never whether it is in the mesh.
    const modes = new ModeResolver(namespaces, [], '');
    const identitiesByNode = new Map<string, Set<string>>();
    for (const resource of resources) {
      if (resource.kind !== 'Workload' || modes.resolve(resource).mode === 'off') continue;
      const identities = identitiesByNode.get(resource.spec.node) ?? new Set();
      identities.add(this.#identityOf(resource));
      identitiesByNode.set(resource.spec.node, identities);
    }
    this.#identitiesByNode = identitiesByNode;
  }

  runsOn(node: string, identity: string): boolean {
    return this.#identitiesByNode.get(node)?.has(identity) ?? false;
  }

  #identityOf({ metadata, spec }: WorkloadResource): string {
    return workloadIdentity(this.#trustDomain, metadata.namespace, spec.serviceAccount).text;
  }
}
