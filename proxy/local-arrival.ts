import type { ByteStream } from '../src/model/byte-stream.ts';
import type { WorkloadEntry } from '../src/model/snapshot.ts';

/** A connection between two workloads of this node: what the outbound half hands to the inbound half. Neither imports the other. */
export interface LocalArrival {
  /** The client's leg. */
  readonly stream: ByteStream;
  /** Attested by the kernel. */
  readonly client: WorkloadEntry;
  readonly server: WorkloadEntry;
  readonly source: { readonly address: string; readonly port: number };
  /** The endpoint's address and port, after service resolution. */
  readonly destination: { readonly address: string; readonly port: number };
}
