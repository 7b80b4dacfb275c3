import { workloadIdentity } from '../model/identity.ts';
import { DEFAULT_MESH_SETTINGS } from '../model/resources.ts';
import type {
  AuthorizationPolicyResource,
  FederatedTrustDomain,
  FederatedTrustDomainResource,
  MeshConfigResource,
  MeshSettings,
  NamespaceResource,
  PeerAuthenticationResource,
  RequestAuthenticationResource,
  Resource,
  ServiceResource,
  SourceLocation,
  WorkloadResource,
} from '../model/resources.ts';
import type { MeshSnapshot, PolicyEntry, RequestAuthenticationEntry, ServiceEntry, WorkloadEntry } from '../model/snapshot.ts';
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
  /** Trust domains to federate with, each once. Not part of the snapshot: workers verify with bundles, wherever those come from. */
  readonly federatedTrustDomains: readonly FederatedTrustDomain[];
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
  return { snapshot: build.snapshot(), federatedTrustDomains: build.federatedTrustDomains(), warnings: build.warnings };
}

class Build {
  readonly warnings: SnapshotWarning[] = [];
  readonly #options: SnapshotOptions;
  readonly #rootNamespace: string;
  readonly #namespaces: NamespaceResource[] = [];
  readonly #workloads: WorkloadResource[] = [];
  readonly #services: ServiceResource[] = [];
  readonly #peerAuthentications: PeerAuthenticationResource[] = [];
  readonly #requestAuthentications: RequestAuthenticationResource[] = [];
  readonly #meshConfigs: MeshConfigResource[] = [];
  readonly #policies: AuthorizationPolicyResource[] = [];
  readonly #federatedTrustDomains: FederatedTrustDomainResource[] = [];
  readonly #addressOwners = new Map<string, string>();

  constructor(resources: readonly Resource[], options: SnapshotOptions) {
    this.#options = options;
    this.#rootNamespace = options.rootNamespace ?? DEFAULT_ROOT_NAMESPACE;
    for (const resource of resources) this.#sort(resource);
  }

  snapshot(): MeshSnapshot {
    const { version, trustDomain, nodeName } = this.#options;
    const settings = this.#settings();
    const workloads = this.#buildWorkloads();
    return {
      version,
      trustDomain,
      nodeName,
      workloads,
      services: this.#buildServices(workloads),
      policies: this.#buildPolicies(settings),
      authentications: this.#requestAuthentications.map(
        ({ metadata, spec }): RequestAuthenticationEntry => ({ name: `${metadata.namespace}/${metadata.name}`, rules: spec.jwtRules }),
      ),
      settings,
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
        this.#peerAuthentications.push(resource);
        break;
      case 'AuthorizationPolicy':
        this.#policies.push(resource);
        break;
      case 'RequestAuthentication':
        this.#requestAuthentications.push(resource);
        break;
      case 'MeshConfig':
        this.#meshConfigs.push(resource);
        break;
      case 'FederatedTrustDomain':
        this.#federatedTrustDomains.push(resource);
        break;
    }
  }

  /** Each trust domain once: who comes later in the resources goes without. The mesh's own has its authority, and nobody else says who is in it. */
  federatedTrustDomains(): FederatedTrustDomain[] {
    const found = new Map<string, FederatedTrustDomainResource>();
    for (const resource of this.#federatedTrustDomains) {
      const { trustDomain } = resource.spec;
      const other = found.get(trustDomain);
      if (trustDomain === this.#options.trustDomain)
        this.#warn(resource, `counts for nothing: ${trustDomain} is the trust domain of this mesh itself`);
      else if (other !== undefined)
        this.#warn(resource, `counts for nothing: ${nameOf(other)} is for the trust domain ${trustDomain} already`);
      else found.set(trustDomain, resource);
    }
    return [...found.values()].map(({ spec }) => spec);
  }

  /** The first MeshConfig of the root namespace; the defaults, which trust nobody, where there is none. */
  #settings(): MeshSettings {
    let found: MeshConfigResource | null = null;
    for (const config of this.#meshConfigs) {
      if (config.metadata.namespace !== this.#rootNamespace) {
        this.#warn(config, `counts for nothing outside of the root namespace ${this.#rootNamespace}`);
      } else if (found !== null) this.#warn(config, `counts for nothing beside ${nameOf(found)}`);
      else found = config;
    }
    return found?.spec ?? DEFAULT_MESH_SETTINGS;
  }

  #buildPolicies({ extensionProviders }: MeshSettings): PolicyEntry[] {
    const providers = new Set(extensionProviders.map(({ name }) => name));
    return this.#policies.map((policy): PolicyEntry => {
      const { action, rules, provider, dryRun } = policy.spec;
      if (provider !== null && !providers.has(provider)) {
        this.#warn(policy, `asks the extension provider "${provider}", which the MeshConfig does not have: what it matches is denied`);
      }
      return { name: `${policy.metadata.namespace}/${policy.metadata.name}`, action, rules, provider, dryRun };
    });
  }

  #buildWorkloads(): WorkloadEntry[] {
    const { nodeName, trustDomain, enrolled, workloadIds } = this.#options;
    this.#warnAboutPeerAuthentications();
    const modes = new ModeResolver(this.#namespaces, this.#peerAuthentications, this.#rootNamespace);
    const policies = new ScopedSelectors(this.#policies, this.#rootNamespace);
    const authentications = new ScopedSelectors(this.#requestAuthentications, this.#rootNamespace);
    const unprotected = new Map<Resource, number>();
    const identities = new Map<string, string>();
    const entries = this.#workloads.map((workload): WorkloadEntry => {
      const { namespace, name, labels } = workload.metadata;
      const { serviceAccount, node } = workload.spec;
      const { mode, portModes, source } = modes.resolve(workload);
      const applied = policies.find(namespace, labels);
      const accepted = authentications.find(namespace, labels);
      if (mode === 'off') {
        for (const index of applied) count(unprotected, this.#policies[index]);
        for (const index of accepted) count(unprotected, this.#requestAuthentications[index]);
      }
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
        authentications: accepted,
      };
    });
    for (const [resource, number] of unprotected) this.#warn(resource, `not enforced for ${number} of its workloads, whose mode is off`);
    return entries;
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

  #warnAboutPeerAuthentications(): void {
    for (const authentication of this.#peerAuthentications) {
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

/** Which of a list of policies apply to a workload: those of its namespace and of the root namespace that select it. */
class ScopedSelectors {
  readonly #byNamespace = new Map<string, SelectorIndex<number>>();
  readonly #rootNamespace: string;

  constructor(policies: readonly (AuthorizationPolicyResource | RequestAuthenticationResource)[], rootNamespace: string) {
    this.#rootNamespace = rootNamespace;
    for (const [index, { metadata, spec }] of policies.entries()) {
      const selectors = this.#byNamespace.get(metadata.namespace) ?? new SelectorIndex<number>();
      selectors.add(spec.selector, index);
      this.#byNamespace.set(metadata.namespace, selectors);
    }
  }

  /** Indexes into the list, ascending. */
  find(namespace: string, labels: Readonly<Record<string, string>>): number[] {
    const found = [...(this.#byNamespace.get(namespace)?.find(labels) ?? [])];
    if (namespace !== this.#rootNamespace) found.push(...(this.#byNamespace.get(this.#rootNamespace)?.find(labels) ?? []));
    return found.toSorted((left, right) => left - right);
  }
}

function count(counts: Map<Resource, number>, resource: Resource | undefined): void {
  if (resource !== undefined) counts.set(resource, (counts.get(resource) ?? 0) + 1);
}

function hasAgent({ spec }: WorkloadResource): boolean {
  return spec.networkNamespace !== null || spec.cgroup !== null || spec.systemdUnit !== null;
}

function nameOf({ kind, metadata }: Resource): string {
  return `${kind} ${metadata.namespace === '' ? '' : `${metadata.namespace}/`}${metadata.name}`;
}
