import {
  AF_INET,
  AF_INET6,
  bind,
  Errno,
  getsockname,
  IPPROTO_IPV6,
  LibbpfError,
  listen,
  type OwnedFd,
  SOCK_STREAM,
  socket,
  SocketOption,
  setsockopt,
  withNetworkNamespace,
} from 'libbpf-ts/sys';
import type { ListenerPorts } from '../src/model/worker-messages.ts';
import type { OWN_KIND } from './contract.ts';
import { KernelError } from './errors.ts';
import type { OwnSockets } from './own-sockets.ts';

/** The usual ports; outbound and inbound move to a free one when an application holds theirs, since only the hooks need to know them. */
export const OUTBOUND_PORT = 15_001;
export const INBOUND_PORT = 15_006;
/** HBONE's port is known to every peer and cannot move. */
export const TUNNEL_PORT = 15_008;

const BACKLOG = 4_096;

/** A peer that vanished is noticed after KEEPALIVE_IDLE_SECONDS + KEEPALIVE_PROBES * KEEPALIVE_INTERVAL_SECONDS. */
const KEEPALIVE_IDLE_SECONDS = 180;
const KEEPALIVE_INTERVAL_SECONDS = 60;
const KEEPALIVE_PROBES = 5;
const IPPROTO_TCP = 6;
const TCP_KEEPIDLE = 4;
const TCP_KEEPINTVL = 5;
const TCP_KEEPCNT = 6;

/** One worker's listening descriptors of one workload. */
export interface WorkerListeners {
  readonly outbound: readonly OwnedFd[];
  readonly inbound: readonly OwnedFd[];
  readonly tunnel: readonly OwnedFd[];
}

export interface OpenedListeners {
  readonly ports: ListenerPorts;
  readonly workers: readonly WorkerListeners[];
  /** Ports that an application already held. */
  readonly conflicts: readonly number[];
}

/**
 * Opens the in-pod listeners for every worker, inside a network namespace (null: the caller's own, which has the outbound listener
 * only). Each worker has its own sockets on shared ports (SO_REUSEPORT), so that the kernel spreads connections.
 * @throws KernelError WEFT_BPF_LISTEN
 */
export function openListeners(namespaceFd: number | null, workers: number, own: OwnSockets): OpenedListeners {
  const opened: OwnedFd[] = [];
  const open = (): OpenedListeners => {
    const conflicts: number[] = [];
    const outbound = anyPort(OUTBOUND_PORT, own, conflicts);
    const inPod = namespaceFd !== null;
    const inbound = inPod ? anyPort(INBOUND_PORT, own, conflicts) : 0;
    const tunnel = inPod && isFree(TUNNEL_PORT, own) ? TUNNEL_PORT : 0;
    if (inPod && tunnel === 0) conflicts.push(TUNNEL_PORT);
    const ports = { outbound, inbound, tunnel };
    return { ports, workers: Array.from({ length: workers }, () => listenersOn(ports, own, opened)), conflicts };
  };
  return within(namespaceFd, opened, open);
}

/**
 * Opens one more worker's listeners on ports that the other workers already share.
 * @throws KernelError WEFT_BPF_LISTEN
 */
export function openWorkerListeners(namespaceFd: number | null, ports: ListenerPorts, own: OwnSockets): WorkerListeners {
  const opened: OwnedFd[] = [];
  return within(namespaceFd, opened, () => listenersOn(ports, own, opened));
}

function within<Result>(namespaceFd: number | null, opened: readonly OwnedFd[], open: () => Result): Result {
  try {
    return namespaceFd === null ? open() : withNetworkNamespace(namespaceFd, open);
  } catch (error) {
    for (const fd of opened) fd.close();
    throw new KernelError('WEFT_BPF_LISTEN', 'cannot open the listeners inside the workload', {
      cause: error,
      nextStep: 'see the cause; the namespace may be going away, or the agent may be out of file descriptors (ulimit -n)',
    });
  }
}

/** One worker's listeners, in the namespace the thread is in. What was opened is also put into `opened`, to be closed on failure. */
function listenersOn(ports: ListenerPorts, own: OwnSockets, opened: OwnedFd[]): WorkerListeners {
  const open = (address: string, port: number): OwnedFd => {
    const made = listener(address, port, own);
    opened.push(made);
    return made;
  };
  return {
    outbound: loopbackAddresses().map((address) => open(address, ports.outbound)),
    inbound: ports.inbound === 0 ? [] : [open(anyAddress(), ports.inbound)],
    tunnel: ports.tunnel === 0 ? [] : [open(anyAddress(), ports.tunnel)],
  };
}

/**
 * A TCP socket that may be rebound while connections of a former agent linger. The hooks know it as the agent's own before it is bound:
 * a former agent's enrolment keeps its ports from everybody else.
 */
function tcpSocket(address: string, own: OwnSockets, kind: keyof typeof OWN_KIND): OwnedFd {
  const ipv6 = address.includes(':');
  const made = socket(ipv6 ? AF_INET6 : AF_INET, SOCK_STREAM);
  try {
    own.mark(made.fd, kind);
    setsockopt(made.fd, SocketOption.SOL_SOCKET, SocketOption.SO_REUSEADDR, 1);
    // The wildcard serves both families; ::1 never reaches IPv4 anyway.
    if (ipv6) setsockopt(made.fd, IPPROTO_IPV6, SocketOption.IPV6_V6ONLY, address === '::' ? 0 : 1);
    return made;
  } catch (error) {
    made.close();
    throw error;
  }
}

function listener(address: string, port: number, own: OwnSockets): OwnedFd {
  const made = tcpSocket(address, own, 'listener');
  try {
    setsockopt(made.fd, SocketOption.SOL_SOCKET, SocketOption.SO_REUSEPORT, 1);
    if (address === anyAddress()) keepAlive(made.fd);
    bind(made.fd, { address, port });
    listen(made.fd, BACKLOG);
    return made;
  } catch (error) {
    made.close();
    throw error;
  }
}

/** Accepted sockets inherit it. Who dials from another host may lose power, or its network, and a connection of his would stay for ever. */
function keepAlive(fd: number): void {
  setsockopt(fd, SocketOption.SOL_SOCKET, SocketOption.SO_KEEPALIVE, 1);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_SECONDS);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL_SECONDS);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES);
}

function hasErrno(error: unknown, ...errnos: number[]): boolean {
  return error instanceof LibbpfError && error.errno !== null && error.errno !== undefined && errnos.includes(error.errno);
}

/**
 * True if nobody listens on the port, on any address: connections to it would be taken for ones to the agent. SO_REUSEPORT is left out on
 * purpose: it would share the port with an application of the same user.
 */
function isFree(port: number, own: OwnSockets): boolean {
  const address = anyAddress();
  using probe = tcpSocket(address, own, 'upstream');
  try {
    bind(probe.fd, { address, port });
    listen(probe.fd, 1);
    return true;
  } catch (error) {
    if (hasErrno(error, Errno.EADDRINUSE)) return false;
    throw error;
  }
}

/** `::` where the namespace has IPv6, and else `0.0.0.0`. */
function anyAddress(): string {
  return hasIpv6() ? '::' : '0.0.0.0';
}

function loopbackAddresses(): readonly string[] {
  return hasIpv6() ? ['127.0.0.1', '::1'] : ['127.0.0.1'];
}

function hasIpv6(): boolean {
  try {
    using probe = socket(AF_INET6, SOCK_STREAM);
    bind(probe.fd, { address: '::1', port: 0 });
    return true;
  } catch (error) {
    if (hasErrno(error, Errno.EAFNOSUPPORT, Errno.EADDRNOTAVAIL)) return false;
    throw error;
  }
}

/** A port that is free on every address: the usual one if possible. */
function anyPort(usual: number, own: OwnSockets, conflicts: number[]): number {
  if (isFree(usual, own)) return usual;
  conflicts.push(usual);
  return ephemeralPort(own);
}

function ephemeralPort(own: OwnSockets): number {
  const address = anyAddress();
  using probe = tcpSocket(address, own, 'upstream');
  bind(probe.fd, { address, port: 0 });
  return getsockname(probe.fd).port;
}
