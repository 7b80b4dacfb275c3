import { workloadIdentity } from '../model/identity.ts';
import type {
  AuthorizationPolicyResource,
  NamespaceResource,
  PeerAuthenticationResource,
  Resource,
  ServiceResource,
  SourceLocation,
  WorkloadResource,
} from '../model/resources.ts';
import type { MeshSnapshot, PolicyEntry, ServiceEntry, WorkloadEntry } from '../model/snapshot.ts';
import { ModeResolver } from './effective-mode.ts';
import { SelectorIndex } from './selector-index.ts';
import type { WorkloadIds } from './workload-ids.ts';

export { WorkloadIds } from './workload-ids.ts';

/** Where PeerAuthentication and AuthorizationPolicy resources of the whole mesh live, as in Istio. */
export const DEFAULT_ROOT_NAMESPACE = 'istio-system';

export interface SnapshotOptions {
  /** The node this agent runs on: workloads with this `spec.node` are local. */
  readonly nodeName: string;
  readonly trustDomain: string;
  /** The version the snapshot gets. */
  readonly version: number;
  /** Default: istio-system. */
  readonly rootNamespace?: string;
  /** Whether the sockets of a local workload (`namespace/name`) are captured right now. */
  readonly enrolled: (workload: string) => boolean;
  readonly workloadIds: WorkloadIds;
}

/** Configuration that is valid but does less than its author may think. Nothing is refused for it. */
export interface SnapshotWarning {
  /** `Kind namespace/name` of the resource to look at. */
  readonly resource: string;
  readonly location: SourceLocation;
  readonly message: string;
}

export interface BuiltSnapshot {
  readonly snapshot: MeshSnapshot;
  readonly warnings: SnapshotWarning[];
}

/**
 * Makes the mesh of the data plane from resources: modes (see ModeResolver for their precedence), which policies apply to which workload, and the
 * workloads behind each Service. The same resources give the same snapshot.
 *
 * A remote workload counts as enrolled when its mode is not `off` and its resource says how an agent finds it (networkNamespace, cgroup or
 * systemdUnit); a local one when the agent says so.
 *
 * An address belongs to one workload or Service. Who comes later in `resources` goes without it, with a warning: workloads come
 * before Services.
 *
 * @throws IdentityError WEFT_IDENTITY_INVALID when the trust domain is not one
 * @throws ConfigError WEFT_CONFIG_WORKLOAD_IDS
 */
export function buildSnapshot(resources: readonly Resource[], options: SnapshotOptions): BuiltSnapshot {
  const build = new Build(resources, options);
  return { snapshot: build.snapshot(), warnings: build.warnings };
}

class Build {
  readonly warnings: SnapshotWarning[] = [];
  readonly #options: SnapshotOptions;
  readonly #rootNamespace: string;
  readonly #namespaces: NamespaceResource[] = [];
  readonly #workloads: WorkloadResource[] = [];
  readonly #services: ServiceResource[] = [];
  readonly #authentications: PeerAuthenticationResource[] = [];
  readonly #policies: AuthorizationPolicyResource[] = [];
  readonly #addressOwners = new Map<string, string>();

  constructor(resources: readonly Resource[], options: SnapshotOptions) {
    this.#options = options;
    this.#rootNamespace = options.rootNamespace ?? DEFAULT_ROOT_NAMESPACE;
    for (const resource of resources) this.#sort(resource);
  }

  snapshot(): MeshSnapshot {
    const { version, trustDomain, nodeName } = this.#options;
    const workloads = this.#buildWorkloads();
    return {
      version,
      trustDomain,
      nodeName,
      workloads,
      services: this.#buildServices(workloads),
      policies: this.#policies.map(
        ({ metadata, spec }): PolicyEntry => ({ name: `${metadata.namespace}/${metadata.name}`, action: spec.action, rules: spec.rules }),
      ),
    };
  }

  #sort(resource: Resource): void {
    switch (resource.kind) {
      case 'Namespace':
        this.#namespaces.push(resource);
        break;
      case 'Workload':
        this.#workloads.push(resource);
        break;
      case 'Service':
        this.#services.push(resource);
        break;
      case 'PeerAuthentication':
        this.#authentications.push(resource);
        break;
      case 'AuthorizationPolicy':
        this.#policies.push(resource);
        break;
    }
  }

  #buildWorkloads(): WorkloadEntry[] {
    const { nodeName, trustDomain, enrolled, workloadIds } = this.#options;
    this.#warnAboutAuthentications();
    const modes = new ModeResolver(this.#namespaces, this.#authentications, this.#rootNamespace);
    const policies = this.#indexPolicies();
    const unprotected = new Map<number, number>();
    const identities = new Map<string, string>();
    const entries = this.#workloads.map((workload): WorkloadEntry => {
      const { namespace, name, labels } = workload.metadata;
      const { serviceAccount, node } = workload.spec;
      const { mode, portModes, source } = modes.resolve(workload);
      const applied = [...(policies.get(namespace)?.find(labels) ?? [])];
      if (namespace !== this.#rootNamespace) applied.push(...(policies.get(this.#rootNamespace)?.find(labels) ?? []));
      applied.sort((left, right) => left - right);
      if (mode === 'off') for (const policy of applied) unprotected.set(policy, (unprotected.get(policy) ?? 0) + 1);
      const account = `${namespace}/${serviceAccount}`;
      const identity = identities.get(account) ?? workloadIdentity(trustDomain, namespace, serviceAccount).text;
      identities.set(account, identity);
      const local = node === nodeName;
      return {
        id: workloadIds.idOf(namespace, name),
        name,
        namespace,
        serviceAccount,
        identity,
        node,
        local,
        labels,
        addresses: this.#claim(workload, workload.spec.addresses),
        mode,
        portModes,
        modeSource: source,
        enrolled: mode !== 'off' && (local ? enrolled(`${namespace}/${name}`) : hasAgent(workload)),
        policies: applied,
      };
    });
    for (const [index, count] of unprotected) {
      const policy = this.#policies[index];
      if (policy !== undefined) this.#warn(policy, `not enforced for ${count} of its workloads, whose mode is off`);
    }
    return entries;
  }

  /** Indexes into the list of policies, by the namespace of the policy. */
  #indexPolicies(): Map<string, SelectorIndex<number>> {
    const byNamespace = new Map<string, SelectorIndex<number>>();
    for (const [index, { metadata, spec }] of this.#policies.entries()) {
      const selectors = byNamespace.get(metadata.namespace) ?? new SelectorIndex<number>();
      selectors.add(spec.selector, index);
      byNamespace.set(metadata.namespace, selectors);
    }
    return byNamespace;
  }

  #buildServices(workloads: readonly WorkloadEntry[]): ServiceEntry[] {
    const byNamespace = new Map<string, SelectorIndex<number[]>>();
    const entries = this.#services.map((service): ServiceEntry => {
      const { namespace, name } = service.metadata;
      const { ports, selector, addresses } = service.spec;
      const endpoints: number[] = [];
      if (Object.keys(selector).length > 0) {
        const selectors = byNamespace.get(namespace) ?? new SelectorIndex<number[]>();
        selectors.add(selector, endpoints);
        byNamespace.set(namespace, selectors);
      }
      return {
        name,
        namespace,
        addresses: this.#claim(service, addresses),
        ports: ports.map(({ port, targetPort, protocol }) => ({ port, targetPort, protocol })),
        endpoints,
      };
    });
    for (const { namespace, labels, id } of workloads) {
      for (const endpoints of byNamespace.get(namespace)?.find(labels) ?? []) endpoints.push(id);
    }
    return entries;
  }

  #claim(resource: WorkloadResource | ServiceResource, addresses: readonly string[]): readonly string[] {
    return addresses.filter((address) => {
      const owner = this.#addressOwners.get(address);
      if (owner === undefined) this.#addressOwners.set(address, nameOf(resource));
      else this.#warn(resource, `its address ${address} belongs to ${owner} already; it goes without`);
      return owner === undefined;
    });
  }

  #warnAboutAuthentications(): void {
    for (const authentication of this.#authentications) {
      const { mode, portLevel, selector } = authentication.spec;
      if (selector !== null && authentication.metadata.namespace === this.#rootNamespace) {
        this.#warn(authentication, 'has a selector in the root namespace, where it counts for nothing');
      } else if (mode === 'DISABLE' || [...portLevel.values()].includes('DISABLE')) {
        this.#warn(authentication, 'DISABLE is read as PERMISSIVE: workloads in the mesh always accept mTLS');
      }
    }
  }

  #warn(resource: Resource, message: string): void {
    this.warnings.push({ resource: nameOf(resource), location: resource.location, message });
  }
}

function hasAgent({ spec }: WorkloadResource): boolean {
  return spec.networkNamespace !== null || spec.cgroup !== null || spec.systemdUnit !== null;
}

function nameOf({ kind, metadata }: Resource): string {
  return `${kind} ${metadata.namespace === '' ? '' : `${metadata.namespace}/`}${metadata.name}`;
}
