import type { DeclaredProtocol, JwtRule, MeshSettings, Mode, PolicyAction, PolicyRule } from './resources.ts';

/**
 * The mesh as a node's data plane needs it: plain data, immutable, sent whole to every worker thread (structured clone) and swapped at once.
 */
export interface MeshSnapshot {
  /** Grows by one with each change. */
  readonly version: number;
  readonly trustDomain: string;
  /** The node this agent runs on. */
  readonly nodeName: string;
  readonly workloads: readonly WorkloadEntry[];
  readonly services: readonly ServiceEntry[];
  readonly policies: readonly PolicyEntry[];
  /** RequestAuthentications; workloads name theirs by index. */
  readonly authentications: readonly RequestAuthenticationEntry[];
  readonly settings: MeshSettings;
}

/** One workload, local or remote. */
export interface WorkloadEntry {
  /** Unique in this snapshot and stable for the agent's life. Never 0. It is what the kernel attests (bpf/weft.h, workload_id). */
  readonly id: number;
  readonly name: string;
  readonly namespace: string;
  readonly serviceAccount: string;
  /** SPIFFE ID text. */
  readonly identity: string;
  readonly node: string;
  /** Runs on this node. */
  readonly local: boolean;
  readonly labels: Readonly<Record<string, string>>;
  readonly addresses: readonly string[];
  /** Effective mode for the workload. `off`: neither captured nor dialled through a tunnel. */
  readonly mode: Mode;
  /** Ports (workload ports) whose mode differs from `mode`, from PeerAuthentication portLevelMtls. */
  readonly portModes: readonly (readonly [port: number, mode: Mode])[];
  /** What made the mode: `PeerAuthentication ns/name`, `Namespace name`, `Workload ns/name` or `default`. Named in refusals. */
  readonly modeSource: string;
  /** True if its sockets are captured right now (local) or are believed to be (remote): it accepts HBONE on 15008. */
  readonly enrolled: boolean;
  /** Indexes into MeshSnapshot.policies that apply to it, in evaluation-independent order. */
  readonly policies: readonly number[];
  /** Indexes into MeshSnapshot.authentications that apply to it. */
  readonly authentications: readonly number[];
}

/** A virtual address and port and the workload endpoints behind it. */
export interface ServiceEntry {
  readonly name: string;
  readonly namespace: string;
  readonly addresses: readonly string[];
  readonly ports: readonly {
    readonly port: number;
    readonly targetPort: number;
    readonly protocol: DeclaredProtocol;
  }[];
  /** Workload ids. */
  readonly endpoints: readonly number[];
}

/** An AuthorizationPolicy as the data plane evaluates it. */
export interface PolicyEntry {
  /** `namespace/name`: the name in every refusal and log line. */
  readonly name: string;
  readonly action: PolicyAction;
  readonly rules: readonly PolicyRule[];
  readonly provider: string | null;
  readonly dryRun: boolean;
}

/** A RequestAuthentication as the data plane applies it. */
export interface RequestAuthenticationEntry {
  /** `namespace/name`. */
  readonly name: string;
  readonly rules: readonly JwtRule[];
}
