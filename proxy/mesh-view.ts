import type { WorkloadPolicy } from '../src/model/policy.ts';
import type { DeclaredProtocol, Mode } from '../src/model/resources.ts';
import type { MeshSnapshot, PolicyEntry, RequestAuthenticationEntry, ServiceEntry, WorkloadEntry } from '../src/model/snapshot.ts';
import { compileWorkloadPolicy } from './policy/workload-policy.ts';

/** A service port that a client dialled. */
export interface ServiceTarget {
  readonly service: ServiceEntry;
  readonly targetPort: number;
  readonly protocol: DeclaredProtocol;
  /** Those that have an address. */
  readonly endpoints: readonly WorkloadEntry[];
}

/** The mode of one port of a workload, and what made it so. */
export interface EffectiveMode {
  readonly mode: Mode;
  readonly source: string;
}

/** Stands for a policy that a workload names and nobody knows: closed. */
const UNKNOWN_POLICY: PolicyEntry = {
  name: 'unknown policy',
  action: 'DENY',
  rules: [{ from: [], to: [], when: [] }],
  provider: null,
  dryRun: false,
};

/** A MeshSnapshot with the indexes that the data path asks. Immutable: a new snapshot makes a new view, swapped at once. */
export class MeshView {
  readonly snapshot: MeshSnapshot;
  readonly #byId = new Map<number, WorkloadEntry>();
  readonly #byAddress = new Map<string, WorkloadEntry>();
  readonly #services = new Map<string, Map<number, ServiceTarget>>();
  readonly #declared = new Map<WorkloadEntry, Map<number, DeclaredProtocol>>();
  readonly #serviceNames = new Map<WorkloadEntry, string>();
  readonly #policies = new Map<WorkloadEntry, WorkloadPolicy>();
  readonly #authentications = new Map<WorkloadEntry, readonly RequestAuthenticationEntry[]>();

  constructor(snapshot: MeshSnapshot) {
    this.snapshot = snapshot;
    for (const workload of snapshot.workloads) {
      this.#byId.set(workload.id, workload);
      for (const address of workload.addresses) this.#byAddress.set(address, workload);
    }
    for (const service of snapshot.services) this.#indexService(service);
  }

  #indexService(service: ServiceEntry): void {
    const endpoints = service.endpoints.map((id) => this.#byId.get(id)).filter((workload) => workload !== undefined);
    const reachable = endpoints.filter(({ addresses }) => addresses.length > 0);
    const ports = new Map<number, ServiceTarget>();
    for (const { port, targetPort, protocol } of service.ports) {
      ports.set(port, { service, targetPort, protocol, endpoints: reachable });
      for (const endpoint of endpoints) {
        let declared = this.#declared.get(endpoint);
        if (declared === undefined) this.#declared.set(endpoint, (declared = new Map()));
        // Services that disagree about one port: look for yourself.
        const before = declared.get(targetPort);
        declared.set(targetPort, before === undefined || before === protocol ? protocol : 'auto');
      }
    }
    for (const address of service.addresses) this.#services.set(address, ports);
    for (const endpoint of endpoints) {
      if (!this.#serviceNames.has(endpoint)) this.#serviceNames.set(endpoint, `${service.namespace}/${service.name}`);
    }
  }

  workload(id: number): WorkloadEntry | undefined {
    return this.#byId.get(id);
  }

  workloadAt(address: string): WorkloadEntry | undefined {
    return this.#byAddress.get(address);
  }

  serviceAt(address: string, port: number): ServiceTarget | undefined {
    return this.#services.get(address)?.get(port);
  }

  /** `namespace/name` of a Service in front of the workload, for logs; null when there is none. */
  serviceOf(workload: WorkloadEntry): string | null {
    return this.#serviceNames.get(workload) ?? null;
  }

  /** What the workload's port speaks, as its Services declare it. */
  protocolOf(workload: WorkloadEntry, port: number): DeclaredProtocol {
    return this.#declared.get(workload)?.get(port) ?? 'auto';
  }

  modeOf(workload: WorkloadEntry, port: number): Mode {
    for (const [number, mode] of workload.portModes) if (number === port) return mode;
    return workload.mode;
  }

  /** The workload's RequestAuthentications: one list for each workload and view, so that it is compiled once. */
  authenticationsOf(workload: WorkloadEntry): readonly RequestAuthenticationEntry[] {
    let list = this.#authentications.get(workload);
    if (list === undefined) {
      const { authentications } = this.snapshot;
      list = workload.authentications
        .map((index) => authentications[index])
        .filter((entry): entry is RequestAuthenticationEntry => entry !== undefined);
      this.#authentications.set(workload, list);
    }
    return list;
  }

  /** The compiled policies of a workload of this view (of another view its policies would be others); compiled when first asked for. */
  policyOf(workload: WorkloadEntry): WorkloadPolicy {
    let policy = this.#policies.get(workload);
    if (policy === undefined) {
      const entries = workload.policies.map((index) => this.snapshot.policies[index] ?? UNKNOWN_POLICY);
      policy = compileWorkloadPolicy(entries, {
        trustDomain: this.snapshot.trustDomain,
        trustDomainAliases: this.snapshot.settings.trustDomainAliases,
        providers: this.snapshot.settings.extensionProviders.map(({ name }) => name),
        generation: this.snapshot.version,
      });
      this.#policies.set(workload, policy);
    }
    return policy;
  }
}
