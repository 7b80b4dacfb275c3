import { Socket } from 'node:net';
import {
  AF_INET,
  AF_INET6,
  bind,
  listen,
  OwnedFd,
  SOCK_STREAM,
  SocketOption,
  setsockopt,
  socket,
  withNetworkNamespace,
} from 'libbpf-ts/sys';
import type { LabPod } from './lab/index.ts';

/**
 * Sockets of the test's own process inside a pod's (or node's) network namespace: on the wire they are the pod's, and the test holds both ends of every
 * conversation. No hook captures them on their way out, since the test is in no cgroup of the lab.
 */
export class PodNetwork implements Disposable {
  readonly #namespace: OwnedFd;

  constructor(pod: Pick<LabPod, 'netnsPath'>) {
    this.#namespace = OwnedFd.open(pod.netnsPath);
  }

  /** A connecting socket that stays open for reading and writing until the test ends it. */
  dial(address: string, port: number): Socket {
    const fd = this.#socket(address);
    const made = new Socket({ fd: fd.disown(), allowHalfOpen: true });
    made.on('error', () => {});
    return made.connect({ host: address, port });
  }

  /** Descriptor of a socket that listens on the port for both families: hand it to `server.listen({ fd })`. */
  listener(port: number): number {
    const fd = this.#socket('::');
    setsockopt(fd.fd, SocketOption.SOL_SOCKET, SocketOption.SO_REUSEADDR, 1);
    bind(fd.fd, { address: '::', port });
    listen(fd.fd, 4096);
    return fd.disown();
  }

  #socket(address: string): OwnedFd {
    return withNetworkNamespace(this.#namespace.fd, () => socket(address.includes(':') ? AF_INET6 : AF_INET, SOCK_STREAM));
  }

  [Symbol.dispose](): void {
    this.#namespace.close();
  }
}
