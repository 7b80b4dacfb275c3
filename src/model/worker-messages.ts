import type { SvidMaterial, TrustBundle } from './data-plane.ts';
import type { MeshSnapshot } from './snapshot.ts';

/** Everything that crosses the boundary between the agent's main thread and its proxy workers. */

/** What a worker is started with (workerData). */
export interface WorkerStart {
  readonly index: number;
  readonly counters: SharedArrayBuffer;
  readonly snapshot: MeshSnapshot;
  /** Descriptors of the kernel maps, owned by the main thread, open for the agent's life. */
  readonly maps: { readonly originalDestinations: number; readonly ownSockets: number };
  /** Where access log lines go; null turns them off. */
  readonly accessLogFd: number | null;
  /** Random bytes of this run of the agent: with them a worker resumes the TLS sessions that another one began. */
  readonly ticketSecret: Uint8Array;
  /** Put `x-weft-denied-by` into refusals. */
  readonly deniedByHeader: boolean;
}

/** Ports of one workload's in-pod listeners. tunnel is 0 when an application holds 15008. */
export interface ListenerPorts {
  readonly outbound: number;
  readonly inbound: number;
  readonly tunnel: number;
}

/** SVIDs and bundles, whole: what is not in it is gone, and a lost message is healed by the next. */
export interface IdentityUpdate {
  readonly svids: readonly SvidMaterial[];
  readonly bundles: readonly TrustBundle[];
}

/** The JWK Set of one URI, as it was fetched. */
export interface JwksDocument {
  readonly uri: string;
  readonly text: string;
  /** Milliseconds since the epoch: from then on its keys verify nothing, unless it was fetched again. */
  readonly validUntil: number;
}

/** JWK Sets, whole: what is not in it is gone. */
export interface JwksUpdate {
  readonly documents: readonly JwksDocument[];
  /** URIs for which somebody asked for newer keys: these are the newest there are for now. */
  readonly settled: readonly string[];
}

export type ToWorker =
  | { readonly type: 'snapshot'; readonly request: number; readonly snapshot: MeshSnapshot }
  /** The answer says that this worker presents and verifies with nothing else from now on. */
  | { readonly type: 'identities'; readonly request: number; readonly update: IdentityUpdate }
  | { readonly type: 'jwks'; readonly update: JwksUpdate }
  | {
      /** The worker takes over the listening descriptors; it makes its own duplicate of networkNamespace. */
      readonly type: 'listen';
      readonly request: number;
      readonly workloadId: number;
      readonly identity: string;
      readonly ports: ListenerPorts;
      readonly outbound: readonly number[];
      readonly inbound: readonly number[];
      readonly tunnel: readonly number[];
      /** Open descriptor of the namespace, and its cookie. Null: the agent's own namespace. */
      readonly networkNamespace: number | null;
      readonly networkNamespaceCookie: bigint;
    }
  | {
      /** Closes a workload's listeners. `gone`: its namespace is gone, so its connections end at once; else they go on until they end. */
      readonly type: 'unlisten';
      readonly request: number;
      readonly workloadId: number;
      readonly gone: boolean;
    }
  | { readonly type: 'connections'; readonly request: number }
  | { readonly type: 'traffic'; readonly request: number }
  | { readonly type: 'drain'; readonly request: number; readonly deadlineMs: number };

/** One open connection, for the admin endpoint. */
export interface ConnectionInfo {
  readonly worker: number;
  readonly direction: 'inbound' | 'outbound';
  readonly state: string;
  readonly protocol: string;
  readonly security: string;
  readonly source: string;
  readonly sourceIdentity: string | null;
  readonly destination: string;
  readonly destinationIdentity: string | null;
  readonly openedAt: string;
  readonly bytesReceived: number;
  readonly bytesSent: number;
}

export type FromWorker =
  | { readonly type: 'ready' }
  | { readonly type: 'done'; readonly request: number; readonly value: unknown }
  | { readonly type: 'failed'; readonly request: number; readonly message: string }
  | { readonly type: 'need-identity'; readonly identity: string }
  /** A token names a key that this worker does not know, or there are no keys at all: fetch, and answer with a JwksUpdate that settles the URI. */
  | { readonly type: 'need-jwks'; readonly uri: string }
  | {
      readonly type: 'log';
      readonly level: 'info' | 'warn' | 'error';
      readonly message: string;
      readonly fields: Readonly<Record<string, unknown>>;
    };
