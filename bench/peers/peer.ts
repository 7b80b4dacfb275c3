import type { Lab, LabNode, LabPod } from '../../test/kit/lab/index.ts';

/** What is measured: one client pod and one server pod, on one node or two, in a lab made for this run. */
export interface Site {
  readonly lab: Lab;
  readonly client: LabPod;
  readonly clientNode: LabNode;
  readonly server: LabPod;
  readonly serverNode: LabNode;
  /** Where the server listens in its pod, on all addresses. */
  readonly serverPort: number;
  /** Where its gRPC service listens. */
  readonly grpcPort: number;
}

/** A mesh (or none) that is up between client and server. */
export interface RunningPeer {
  /** What the client dials. */
  readonly url: string;
  /** CPU time of the peer's own processes so far, in microseconds. */
  cpuMicroseconds(): number;
  /** Resident memory of the peer's own processes, in bytes. */
  residentBytes(): number;
}

/** Something to measure: added to bench/peers/index.ts, it is in every table. What it starts lives in the lab and ends with it. */
export interface Peer {
  readonly name: string;
  /**
   * Starts the peer, and proves that it is in the path and enforces its policy.
   * @throws Error when it does not
   */
  start(site: Site): Promise<RunningPeer>;
}
