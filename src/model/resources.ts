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
  /** `<issuer>/<subject>` of a verified JWT; HTTP only. */
  readonly requestPrincipals?: MatchValues;
  readonly notRequestPrincipals?: MatchValues;
  /** CIDRs of the address that a trusted X-Forwarded-For names; the direct peer where there is none. */
  readonly remoteIpBlocks?: MatchValues;
  readonly notRemoteIpBlocks?: MatchValues;
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

/** One entry of `when`. Istio's keys: request.headers[x], source.ip, remote.ip, source.namespace, request.auth.claims[a][b], … */
export interface PolicyCondition {
  readonly key: string;
  readonly values?: MatchValues;
  readonly notValues?: MatchValues;
}

/** One rule: (any `from`) and (any `to`) and (every `when`). An empty list means: not constrained. */
export interface PolicyRule {
  readonly from: readonly PolicySource[];
  readonly to: readonly PolicyOperation[];
  readonly when: readonly PolicyCondition[];
}

/** security.istio.io/v1 or weft.dev/v1 AuthorizationPolicy. */
export interface AuthorizationPolicyResource extends ResourceBase<'AuthorizationPolicy'> {
  readonly spec: {
    readonly action: PolicyAction;
    readonly selector: Readonly<Record<string, string>> | null;
    /** Empty: the policy never matches (an ALLOW of nothing). */
    readonly rules: readonly PolicyRule[];
    /** The extension provider that a CUSTOM policy asks (MeshConfig); null for the other actions. */
    readonly provider: string | null;
    /** `istio.io/dry-run: "true"`, or `mode: audit` under weft.dev: decided and recorded, but nothing is refused for it. */
    readonly dryRun: boolean;
  };
}

/** AUDIT never changes an outcome. CUSTOM asks an external provider before the others are looked at. */
export type PolicyAction = 'ALLOW' | 'DENY' | 'AUDIT' | 'CUSTOM';

/** A place in a request where a token may be. */
export interface TokenLocation {
  readonly name: string;
  /** For headers: what comes before the token, such as `Bearer `. */
  readonly prefix: string;
}

/** One issuer that a RequestAuthentication accepts tokens of. */
export interface JwtRule {
  readonly issuer: string;
  /** Any of these in `aud`; empty: not checked. */
  readonly audiences: readonly string[];
  /** JWK Set, as text; null when it is fetched. */
  readonly jwks: string | null;
  readonly jwksUri: string | null;
  /** Empty with fromParams and fromCookies empty too: `Authorization: Bearer`, then the parameter `access_token`. */
  readonly fromHeaders: readonly TokenLocation[];
  readonly fromParams: readonly string[];
  readonly fromCookies: readonly string[];
  readonly forwardOriginalToken: boolean;
  /** The header in which the payload goes to the application, base64url; null: none. */
  readonly outputPayloadToHeader: string | null;
  readonly outputClaimToHeaders: readonly { readonly header: string; readonly claim: string }[];
}

/** security.istio.io/v1 or weft.dev/v1 RequestAuthentication. A token that is there must be valid; one that is absent passes. */
export interface RequestAuthenticationResource extends ResourceBase<'RequestAuthentication'> {
  readonly spec: {
    readonly selector: Readonly<Record<string, string>> | null;
    readonly jwtRules: readonly JwtRule[];
  };
}

/** How far paths are normalised before a decision; the application receives the normalised path. Istio's levels. */
export type PathNormalisation = 'BASE' | 'MERGE_SLASHES' | 'DECODE_AND_MERGE_SLASHES';

/** An external authoriser (Envoy ext_authz v3) that CUSTOM policies name. */
export interface ExtensionProvider {
  readonly name: string;
  readonly protocol: 'http' | 'grpc';
  /** Host name or address, and port. */
  readonly service: string;
  readonly port: number;
  readonly timeoutMs: number;
  /** Let requests pass when the provider cannot be asked. Default false. */
  readonly failOpen: boolean;
  /** HTTP only: put before the path of the request. */
  readonly pathPrefix: string;
  /** HTTP only: headers of the request that the provider is given besides Host, method, path and Authorization. */
  readonly includeRequestHeaders: readonly string[];
  /** Headers of the provider's answer that go to the application when it allows; exact names. */
  readonly headersToUpstream: readonly string[];
  /** Headers of the provider's answer that go to the client when it denies. Empty: all of them. */
  readonly headersToDownstream: readonly string[];
}

/** weft.dev/v1 MeshConfig: settings of the whole mesh. At most one, in the root namespace. */
export interface MeshConfigResource extends ResourceBase<'MeshConfig'> {
  readonly spec: MeshSettings;
}

export interface MeshSettings {
  /** Trust domains whose identities mean the same as this one's. Not federation. */
  readonly trustDomainAliases: readonly string[];
  readonly pathNormalisation: PathNormalisation;
  /** How many of the rightmost X-Forwarded-For entries were written by proxies that are trusted. 0: the header is not believed. */
  readonly trustedForwardedHops: number;
  readonly extensionProviders: readonly ExtensionProvider[];
}

export const DEFAULT_MESH_SETTINGS: MeshSettings = {
  trustDomainAliases: [],
  pathNormalisation: 'BASE',
  trustedForwardedHops: 0,
  extensionProviders: [],
};

/** weft.dev/v1 FederatedTrustDomain: another trust domain whose identities are to be verified here. Not an alias: they stay foreign in policies. */
export interface FederatedTrustDomainResource extends ResourceBase<'FederatedTrustDomain'> {
  readonly spec: FederatedTrustDomain;
}

/** The parameters of one federation relationship (SPIFFE_Federation.md section 5.1). None of them is ever made from another one. */
export interface FederatedTrustDomain {
  readonly trustDomain: string;
  /** https, without user name. */
  readonly bundleEndpointUrl: string;
  readonly profile: BundleEndpointProfile;
  /** Its bundle to start with, in the SPIFFE bundle format; null where the first fetch needs none. */
  readonly initialBundle: string | null;
}

export type BundleEndpointProfile =
  /** `webRoots`: PEM of the authorities that the endpoint's certificate must come from; null: those that web browsers trust. */
  | { readonly type: 'https_web'; readonly webRoots: string | null }
  /** `endpointId`: the SPIFFE ID that the endpoint's X.509-SVID must have. */
  | { readonly type: 'https_spiffe'; readonly endpointId: string };

export type Resource =
  | NamespaceResource
  | WorkloadResource
  | ServiceResource
  | PeerAuthenticationResource
  | AuthorizationPolicyResource
  | RequestAuthenticationResource
  | MeshConfigResource
  | FederatedTrustDomainResource;
