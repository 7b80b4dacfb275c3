import type { BundleEndpointSettings } from '../model/bundle-endpoint.ts';

/** What one node agent is started with. `weft agent` makes it from flags; tests and the lab make their own. All paths are absolute. */
export interface AgentOptions {
  /** The watched directory of YAML. */
  readonly configDirectory: string;
  /** Which workloads are local: those whose `spec.node` says this name. */
  readonly nodeName: string;
  readonly trustDomain: string;
  /** Survives restarts and upgrades. */
  readonly stateDirectory: string;
  /** Holds the admin socket. */
  readonly runDirectory: string;
  /** Where the SPIFFE Workload API is served; null: nowhere. */
  readonly workloadApiSocket: string | null;
  /** Where kernel objects are pinned. */
  readonly bpfDirectory: string;
  /** The cgroup v2 directory that the hooks are attached to: the root of the hierarchy, or the part of it that is this node. */
  readonly cgroupRoot: string;
  /**
   * `directory`: loaded from there, or created at the first start. `given`: PEM files of the operator's own. `remote`: on another host; the
   * token is for joining, and not needed again. A passphrase is the first line of its file. `spire`: an upstream SPIRE agent, through its
   * Workload API, and for workloads its Broker API where that is given (`servers`: SPIFFE IDs that may serve it; none: any agent).
   */
  readonly certificateAuthority:
    | { readonly kind: 'directory'; readonly directory: string; readonly passphraseFile: string | null }
    | { readonly kind: 'given'; readonly certificateFile: string; readonly keyFile: string; readonly passphraseFile: string | null }
    | { readonly kind: 'remote'; readonly server: { readonly host: string; readonly port: number }; readonly tokenFile: string | null }
    | {
        readonly kind: 'spire';
        readonly socketPath: string;
        readonly broker: { readonly socketPath: string; readonly servers: readonly string[] } | null;
      };
  /** Where other nodes get their identities from this agent's authority, and the DNS names they may dial it by; null: nowhere. */
  readonly issuance: { readonly listen: { readonly host: string; readonly port: number }; readonly names: readonly string[] } | null;
  /** Where the trust domain's bundle is published for others to federate with; null: nowhere. */
  readonly bundleEndpoint: BundleEndpointSettings | null;
  readonly svidTtlSeconds: number;
  /** Proxy threads, at least 1. */
  readonly workers: number;
  /** Where Prometheus may scrape over TCP; null: only through the admin socket. */
  readonly metrics: { readonly host: string; readonly port: number } | null;
  readonly accessLog: { readonly kind: 'stdout' } | { readonly kind: 'file'; readonly path: string } | { readonly kind: 'off' };
  /** One of LOG_LEVELS in src/log/log.ts. */
  readonly logLevel: string;
  /** How long drain() lets connections finish. */
  readonly drainTimeoutMs: number;
  /** Whether refusals carry `x-weft-denied-by`. */
  readonly deniedByHeader: boolean;
  /** The namespace whose policies hold for the whole mesh (Istio's root namespace). */
  readonly rootNamespace: string;
  /** Entries of the per-connection kernel maps; null: as the objects have it. */
  readonly maxConnections: number | null;
}
