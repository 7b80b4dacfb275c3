import type { KernelReason } from './kernel-reasons.ts';
import type { Mode } from './resources.ts';
import type { ConnectionInfo, ListenerPorts } from './worker-messages.ts';

/**
 * What the agent's admin endpoint answers, as JSON over HTTP on a unix socket that only root may open:
 *   GET /ready           200 or 503, ReadyAnswer
 *   GET /v1/state        StateAnswer
 *   GET /v1/snapshot     MeshSnapshot: the mesh with its policies as the data plane has them; keys of tokens in it are public ones
 *   GET /v1/connections  ConnectionsAnswer
 *   GET /v1/svids        SvidsAnswer
 *   GET /v1/bundles      BundlesAnswer
 *   GET /v1/counters     CountersAnswer
 *   GET /metrics         Prometheus text
 *   POST /v1/workloads   HostWorkloadRequest -> 201 HostWorkloadAnswer: enrols a cgroup (`weft run`)
 *   DELETE /v1/workloads/NAMESPACE/NAME -> 204
 * Errors are ErrorAnswer with status 400, 404, 409 or 500.
 */
export const ADMIN_SOCKET_NAME = 'admin.sock';

/** Below the run directory: the SPIFFE Workload API, in a directory of its own that may be mounted into pods. */
export const WORKLOAD_API_SOCKET_NAME = 'public/workload-api.sock';

/** Where the agent keeps its admin socket unless told otherwise. */
export const DEFAULT_RUN_DIRECTORY = '/run/weft';
/** Where the agent pins its kernel objects unless told otherwise. */
export const DEFAULT_BPF_DIRECTORY = '/sys/fs/bpf/weft';
/** Where the agent keeps the trust domain's CA unless told otherwise. */
export const DEFAULT_STATE_DIRECTORY = '/var/lib/weft';

export interface ErrorAnswer {
  readonly code: string;
  readonly message: string;
  readonly nextStep: string | null;
}

export interface ReadyAnswer {
  readonly ready: boolean;
  /** What is still missing: 'configuration', 'kernel hooks', 'workers', 'enrolments', 'draining'. */
  readonly waitingFor: readonly string[];
}

/** `waiting`: its network namespace or cgroup is not there (yet). `failed`: see error; tried again with each change and every few seconds. */
export type EnrolmentState = 'waiting' | 'enrolling' | 'enrolled' | 'releasing' | 'failed';

export interface EnrolmentInfo {
  readonly workload: string;
  readonly identity: string;
  readonly id: number;
  readonly state: EnrolmentState;
  readonly mode: Mode;
  readonly modeSource: string;
  /** `network-namespace /run/netns/x` or `cgroup /sys/fs/cgroup/…`. */
  readonly place: string;
  readonly ports: ListenerPorts | null;
  /** Ports that an application of the workload already held when it was enrolled. */
  readonly conflicts: readonly number[];
  readonly error: string | null;
}

export interface StateAnswer {
  readonly version: string;
  readonly node: string;
  readonly trustDomain: string;
  readonly pid: number;
  readonly startedAt: string;
  readonly workers: number;
  readonly snapshotVersion: number;
  readonly namespaces: readonly { readonly name: string; readonly mode: Mode; readonly workloads: number }[];
  readonly workloads: { readonly local: number; readonly remote: number };
  readonly services: number;
  readonly policies: readonly string[];
  readonly enrolments: readonly EnrolmentInfo[];
  /** Configuration that was refused; the last good state of each file is in force. `file:line:column: field: message`. */
  readonly problems: readonly string[];
}

export interface ConnectionsAnswer {
  readonly connections: readonly ConnectionInfo[];
}

export interface SvidInfo {
  readonly identity: string;
  readonly state: string;
  readonly notAfter: string | null;
  readonly renewsAt: string | null;
  readonly error: string | null;
}

export interface SvidsAnswer {
  readonly svids: readonly SvidInfo[];
  readonly bundles: readonly { readonly trustDomain: string; readonly sequence: number; readonly roots: number }[];
}

/** What this node verifies one trust domain with. */
export interface BundleInfo {
  readonly trustDomain: string;
  /** The trust domain of this node itself. */
  readonly own: boolean;
  /** In the SPIFFE bundle format; null: there is none, and nobody of the trust domain is believed. */
  readonly document: string | null;
  /** `spiffe_sequence` in decimal: it may have more digits than a number of JSON is read with. */
  readonly sequence: string | null;
  readonly x509Authorities: number;
  readonly jwtAuthorities: number;
  /** How it is fetched; null for the own one, and for those that the identity provider brings. */
  readonly federation: BundleFederation | null;
}

/** A federation relationship. Times are ISO 8601. */
export interface BundleFederation {
  readonly url: string;
  readonly profile: 'https_web' | 'https_spiffe';
  /** Where the bundle in force comes from. */
  readonly source: 'configuration' | 'stored' | 'endpoint' | null;
  readonly refreshedAt: string | null;
  readonly nextFetch: string | null;
  /** Failures in a row. */
  readonly failures: number;
  readonly error: string | null;
}

export interface BundlesAnswer {
  readonly bundles: readonly BundleInfo[];
}

export interface CountersAnswer {
  readonly kernel: Readonly<Record<KernelReason, number>>;
  /** Entries in the per-connection kernel maps. */
  readonly kernelEntries: { readonly originalDestinations: number; readonly presentedPeers: number };
  /** `name{label="value"}` to value, summed over workers; zeros are left out. */
  readonly proxy: Readonly<Record<string, number>>;
  /** Problems found in the configuration since the agent's start, by code. */
  readonly configurationProblems: Readonly<Record<string, number>>;
  readonly openFileDescriptors: number;
  readonly rssBytes: number;
}

export interface HostWorkloadRequest {
  readonly namespace: string;
  readonly serviceAccount: string;
  /** Unique name of the workload; null lets the agent choose. */
  readonly name: string | null;
  /** Absolute path of the cgroup directory; its processes, and those of cgroups below it, become the workload. */
  readonly cgroup: string;
}

export interface HostWorkloadAnswer {
  readonly name: string;
  readonly namespace: string;
  readonly identity: string;
  readonly mode: Mode;
  /** Path of the SPIFFE Workload API's socket; null when the agent does not serve it. */
  readonly workloadApiSocket: string | null;
}
