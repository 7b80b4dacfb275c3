import { Socket } from 'node:net';
import type { Dialer, DialRequest } from '../src/model/data-plane.ts';
import { KernelError } from './errors.ts';
import type { OwnSockets } from './own-sockets.ts';

/** Dials from inside the network namespaces of local workloads. One per thread. */
export class WorkloadDialer implements Dialer {
  readonly #own: OwnSockets;
  readonly #namespaceOf: (workloadId: number) => number | null | undefined;

  /** @param namespaceOf the open descriptor of a workload's namespace; null for the agent's own; undefined when it is not enrolled */
  constructor(own: OwnSockets, namespaceOf: (workloadId: number) => number | null | undefined) {
    this.#own = own;
    this.#namespaceOf = namespaceOf;
  }

  /**
   * @throws KernelError WEFT_BPF_WORKLOAD_GONE
   * @throws LibbpfError when no socket can be made
   */
  dial(request: DialRequest): Socket {
    const namespace = this.#namespaceOf(request.workloadId);
    if (namespace === undefined) {
      throw new KernelError('WEFT_BPF_WORKLOAD_GONE', `workload ${request.workloadId} is not enrolled on this node`);
    }
    const fd = this.#own.open(namespace, request.address, request.presentedPeer);
    const socket = new Socket({ fd: fd.disown(), allowHalfOpen: true });
    socket.setNoDelay(true);
    socket.connect({ host: request.address, port: request.port });
    return socket;
  }
}
