/**
 * Configuration as its author wrote it, after validation: Kubernetes-shaped resources. The room `config` makes these from YAML and
 * later the control plane from the API server. Fields are those of the named kinds; nothing here was defaulted away.
 */

/** The part of Kubernetes ObjectMeta that Weft reads. */
export interface Metadata {
  readonly name: string;
  /** 'default' where a namespaced resource names none; '' for a Namespace itself. */
  readonly namespace: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  /** ISO 8601, or '' when not given; decides between PeerAuthentications of one level (the oldest wins). */
  readonly creationTimestamp: string;
}

/** Where a resource was written: for messages. Lines count from 1. */
export interface SourceLocation {
  readonly file: string;
  readonly line: number;
}

interface ResourceBase<Kind extends string> {
  readonly kind: Kind;
  readonly metadata: Metadata;
  readonly location: SourceLocation;
}

/** How far a namespace, workload or port is in the mesh. DESIGN words: off, permissive (captured; plaintext still accepted), strict. */
export type Mode = 'off' | 'permissive' | 'strict';

/** v1 Namespace. Label `weft.dev/mode` is its mode; `istio.io/dataplane-mode: ambient` is read as permissive, `none` as off. */
export interface NamespaceResource extends ResourceBase<'Namespace'> {
  /** null when no label says. */
  readonly mode: Mode | null;
}

/** weft.dev/v1 Workload: one pod, or one process group on a host. */
export interface WorkloadResource extends ResourceBase<'Workload'> {
  readonly spec: {
    /** The node it runs on; the agent of that node enrols it. */
    readonly node: string;
    readonly serviceAccount: string;
    /** Its IPv4 and IPv6 addresses, canonical text. */
    readonly addresses: readonly string[];
    /** How the node's agent finds it; absent for workloads of nodes without an agent (an unenrolled peer). */
    readonly networkNamespace: string | null;
    readonly cgroup: string | null;
    readonly systemdUnit: string | null;
    /** Label weft.dev/mode on the workload; null when it follows its namespace. */
    readonly mode: Mode | null;
  };
}

/** A protocol that a Service port declares (appProtocol, or the port name's prefix, as Istio reads them). */
export type DeclaredProtocol = 'http' | 'http2' | 'grpc' | 'tls' | 'tcp' | 'auto';

export interface ServicePort {
  readonly name: string;
  readonly port: number;
  /** Number only, in this kind; equals `port` when not given. */
  readonly targetPort: number;
  readonly protocol: DeclaredProtocol;
}

/** v1 Service: virtual addresses in front of the workloads that its selector picks. */
export interface ServiceResource extends ResourceBase<'Service'> {
  readonly spec: {
    /** clusterIPs; empty for a headless Service. */
    readonly addresses: readonly string[];
    readonly selector: Readonly<Record<string, string>>;
    readonly ports: readonly ServicePort[];
  };
}

export type MutualTlsMode = 'UNSET' | 'DISABLE' | 'PERMISSIVE' | 'STRICT';

/** security.istio.io/v1 or weft.dev/v1 PeerAuthentication. */
export interface PeerAuthenticationResource extends ResourceBase<'PeerAuthentication'> {
  readonly spec: {
    /** null selects the whole namespace (or, in the root namespace, the mesh). */
    readonly selector: Readonly<Record<string, string>> | null;
    readonly mode: MutualTlsMode;
    readonly portLevel: ReadonlyMap<number, MutualTlsMode>;
  };
}

/** Values of one field of a source or operation, as written: exact, `prefix*`, `*suffix` or `*`. Never an empty list. */
export type MatchValues = readonly string[];

/** AuthorizationPolicy source. Absent field: not constrained. */
export interface PolicySource {
  readonly principals?: MatchValues;
  readonly notPrincipals?: MatchValues;
  readonly namespaces?: MatchValues;
  readonly notNamespaces?: MatchValues;
  /** `<namespace>/<service account>`, completed with the policy's namespace where the author left it out. */
  readonly serviceAccounts?: MatchValues;
  readonly notServiceAccounts?: MatchValues;
  /** Canonical CIDR text. */
  readonly ipBlocks?: MatchValues;
  readonly notIpBlocks?: MatchValues;
}

/** AuthorizationPolicy operation. */
export interface PolicyOperation {
  readonly hosts?: MatchValues;
  readonly notHosts?: MatchValues;
  readonly ports?: readonly number[];
  readonly notPorts?: readonly number[];
  readonly methods?: MatchValues;
  readonly notMethods?: MatchValues;
  readonly paths?: MatchValues;
  readonly notPaths?: MatchValues;
}

/** One rule: (any `from`) and (any `to`). An empty list means: not constrained. */
export interface PolicyRule {
  readonly from: readonly PolicySource[];
  readonly to: readonly PolicyOperation[];
}

/** security.istio.io/v1 or weft.dev/v1 AuthorizationPolicy. */
export interface AuthorizationPolicyResource extends ResourceBase<'AuthorizationPolicy'> {
  readonly spec: {
    readonly action: 'ALLOW' | 'DENY';
    readonly selector: Readonly<Record<string, string>> | null;
    /** Empty: the policy never matches (an ALLOW of nothing). */
    readonly rules: readonly PolicyRule[];
  };
}

export type Resource = NamespaceResource | WorkloadResource | ServiceResource | PeerAuthenticationResource | AuthorizationPolicyResource;
