/**
 * The system calls that a program around BPF needs and Node does not offer: network namespaces, raw sockets, socket identity,
 * pidfds, and mounting a BPF file system. Works in the main thread and in workers.
 */
import { closeSync, existsSync, mkdirSync, openSync, statfsSync, statSync, writeSync } from 'node:fs';
import type { Server, Socket } from 'node:net';
import { dirname } from 'node:path';
import { LibbpfError } from './errors.ts';
import { Errno, errnoName } from './errno.ts';
import { addressOf, lastErrno, libc } from './ffi.ts';
import { NativeBuffer } from './native-buffer.ts';
import { OwnedFd } from './owned-fd.ts';
import { AF_UNIX, decodeSocketAddress, encodeSocketAddress, type SocketAddress } from './socket-address.ts';

export { AF_INET, AF_INET6, AF_UNIX, decodeSocketAddress, encodeSocketAddress, type SocketAddress } from './socket-address.ts';
export { duplicateFd, OwnedFd, openOwnedFds, traceOwnedFds } from './owned-fd.ts';
export { Errno, errnoName } from './errno.ts';
export { LibbpfError, type LibbpfErrorCode } from './errors.ts';

/** Socket types. */
export const SOCK_STREAM = 1;
export const SOCK_DGRAM = 2;
const SOCK_NONBLOCK = 0x800;
const SOCK_CLOEXEC = 0x80000;

/** Protocols, as levels of socket options and for `socket()`. */
export const IPPROTO_IP = 0;
export const IPPROTO_TCP = 6;
export const IPPROTO_IPV6 = 41;
export const IPPROTO_MPTCP = 262;

/** Socket options (socket(7), ip(7), ipv6(7), tcp(7)), each with the level it belongs to in its name. */
export const SocketOption = {
  SOL_SOCKET: 1,
  SO_REUSEADDR: 2,
  SO_ERROR: 4,
  SO_SNDBUF: 7,
  SO_RCVBUF: 8,
  SO_KEEPALIVE: 9,
  SO_REUSEPORT: 15,
  SO_PEERCRED: 17,
  SO_BINDTODEVICE: 25,
  SO_MARK: 36,
  SO_COOKIE: 57,
  SO_INCOMING_CPU: 49,
  SO_NETNS_COOKIE: 71,
  SO_PEERPIDFD: 77,
  IP_TRANSPARENT: 19,
  IP_FREEBIND: 15,
  IP_BIND_ADDRESS_NO_PORT: 24,
  IPV6_V6ONLY: 26,
  IPV6_FREEBIND: 78,
  IPV6_TRANSPARENT: 75,
  TCP_NODELAY: 1,
  TCP_USER_TIMEOUT: 18,
  TCP_FASTOPEN: 23,
} as const;

const CLONE_NEWNET = 0x40000000;
const POLLIN = 1;
const SYS_PIDFD_OPEN = 434n;
const SYS_BPF: bigint | null = process.arch === 'x64' ? 321n : process.arch === 'arm64' || process.arch === 'riscv64' ? 280n : null;
const BPF_FS_MAGIC = 0xcafe4a11;
/** Where everybody's BPF file system is: sysfs has a directory for it. */
const USUAL_MOUNT_POINT = '/sys/fs/bpf';
const CGROUP2_SUPER_MAGIC = 0x63677270;
const SOCKET_ADDRESS_ROOM = 128;

// One scratch per thread: every function below is synchronous, and copies what it returns.
const scratch: NativeBuffer = new NativeBuffer(SOCKET_ADDRESS_ROOM);
const scratchLength: NativeBuffer = new NativeBuffer(4);

function failed(what: string): LibbpfError {
  return new LibbpfError('LIBBPF_SYSCALL', what, { errno: lastErrno() });
}

// ---- network namespaces -------------------------------------------------------------------------------------------------------

/** The namespace this thread started in. Opened before the first move, and kept for the life of the thread. */
let ownNamespace: OwnedFd | null = null;
/** Where the thread is now: null in its own, or the descriptor it was moved to by the innermost withNetworkNamespace. */
let currentNamespace: number | null = null;

/**
 * Moves the calling thread into the namespace of `fd` (an open `/proc/PID/ns/*` file or a pidfd), setns(2). `kind` is a CLONE_NEW*
 * flag, CLONE_NEWNET unless given. Prefer {@link withNetworkNamespace}, which cannot forget the way back.
 * Throws LIBBPF_SYSCALL.
 */
export function setns(fd: number, kind: number = CLONE_NEWNET): void {
  if (libc.setns(fd, kind) !== 0) throw failed(`setns to descriptor ${fd} failed`);
}

/**
 * Runs `body` with the calling thread inside the network namespace of `namespaceFd`, and brings the thread back. Nests.
 *
 * `body` must be synchronous and use this package's calls only: whatever else Node starts meanwhile, such as a thread of its pool,
 * would be born in the wrong namespace. A promise as the result throws LIBBPF_ASYNC_IN_NETNS.
 *
 * If the thread cannot be brought back, the process aborts: every socket it would open from then on belonged to somebody else's
 * network.
 */
export function withNetworkNamespace<T>(namespaceFd: number, body: () => T): T {
  ownNamespace ??= OwnedFd.open('/proc/thread-self/ns/net');
  const previous = currentNamespace;
  setns(namespaceFd);
  currentNamespace = namespaceFd;
  let result: T;
  try {
    result = body();
  } finally {
    if (libc.setns(previous ?? ownNamespace.fd, CLONE_NEWNET) !== 0) abortOutsideNamespace(lastErrno());
    currentNamespace = previous;
  }
  if (typeof (result as { then?: unknown } | null | undefined)?.then === 'function') {
    throw new LibbpfError('LIBBPF_ASYNC_IN_NETNS', 'the body of withNetworkNamespace returned a promise; it must be synchronous');
  }
  return result;
}

function abortOutsideNamespace(errno: number): never {
  writeSync(2, `libbpf-ts: cannot return to the thread's own network namespace (${errnoName(errno)}); aborting the process\n`);
  // Not process.abort(): it refuses to work in a worker.
  libc.abort();
  throw new Error('unreachable');
}

/** The cookie of the network namespace a socket belongs to (SO_NETNS_COOKIE, Linux 5.14): the value of `bpf_get_netns_cookie`. */
export function networkNamespaceCookie(socketFd: number): bigint {
  return socketOption64(socketFd, SocketOption.SO_NETNS_COOKIE, 'the network namespace cookie');
}

/** The cookie of a network namespace, given any open descriptor of it: a socket is made in there, asked and closed. */
export function cookieOfNetworkNamespace(namespaceFd: number): bigint {
  return withNetworkNamespace(namespaceFd, currentNetworkNamespaceCookie);
}

/** The cookie of the network namespace the calling thread is in now. */
export function currentNetworkNamespaceCookie(): bigint {
  using probe = socket(AF_UNIX, SOCK_DGRAM, 0);
  return networkNamespaceCookie(probe.fd);
}

// ---- sockets ------------------------------------------------------------------------------------------------------------------

/** A socket, always close-on-exec and non-blocking. Throws LIBBPF_SYSCALL. */
export function socket(family: number, type: number, protocol = 0): OwnedFd {
  const fd = libc.socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol);
  if (fd < 0) throw failed(`socket(${family}, ${type}, ${protocol}) failed`);
  return new OwnedFd(fd, 'socket');
}

/** Binds a socket to an address. Throws LIBBPF_SYSCALL (EADDRINUSE, EADDRNOTAVAIL, EACCES). */
export function bind(fd: number, address: Omit<SocketAddress, 'family'>): void {
  const bytes = encodeSocketAddress(address);
  if (libc.bind(fd, addressOf(bytes), bytes.length) !== 0) throw failed(`cannot bind to ${address.address} port ${address.port}`);
}

/** Makes a bound socket listen. Throws LIBBPF_SYSCALL. */
export function listen(fd: number, backlog = 511): void {
  if (libc.listen(fd, backlog) !== 0) throw failed('listen failed');
}

/**
 * Starts to connect. True if it is connected at once; false if the connection is under way (EINPROGRESS): it is done when the
 * socket is writable and SO_ERROR is 0. Throws LIBBPF_SYSCALL.
 */
export function connect(fd: number, address: Omit<SocketAddress, 'family'>): boolean {
  const bytes = encodeSocketAddress(address);
  if (libc.connect(fd, addressOf(bytes), bytes.length) === 0) return true;
  const error = failed(`cannot connect to ${address.address} port ${address.port}`);
  if (error.errno === Errno.EINPROGRESS) return false;
  throw error;
}

/** The local address of an IP socket. Throws LIBBPF_SYSCALL, and LIBBPF_SOCKET_ADDRESS if the socket is of another family. */
export function getsockname(fd: number): SocketAddress {
  scratchLength.view.setUint32(0, SOCKET_ADDRESS_ROOM, true);
  if (libc.getsockname(fd, scratch.pointer, scratchLength.pointer) !== 0) throw failed('getsockname failed');
  return decodeSocketAddress(scratch.bytes.subarray(0, scratchLength.view.getUint32(0, true)));
}

/** The remote address of a connected IP socket. Throws as {@link getsockname} does. */
export function getpeername(fd: number): SocketAddress {
  scratchLength.view.setUint32(0, SOCKET_ADDRESS_ROOM, true);
  if (libc.getpeername(fd, scratch.pointer, scratchLength.pointer) !== 0) throw failed('getpeername failed');
  return decodeSocketAddress(scratch.bytes.subarray(0, scratchLength.view.getUint32(0, true)));
}

/** Sets a socket option to a 32-bit integer or to bytes. Throws LIBBPF_SYSCALL. */
export function setsockopt(fd: number, level: number, option: number, value: number | Uint8Array): void {
  let bytes: Uint8Array;
  if (typeof value === 'number') {
    scratch.view.setInt32(0, value, true);
    bytes = scratch.bytes.subarray(0, 4);
  } else {
    bytes = value;
  }
  if (libc.setsockopt(fd, level, option, addressOf(bytes), bytes.byteLength) !== 0) throw failed(`setsockopt(${level}, ${option}) failed`);
}

/** A socket option that is a 32-bit integer. Throws LIBBPF_SYSCALL. */
export function getsockopt(fd: number, level: number, option: number): number {
  readOption(fd, level, option, 4);
  return scratch.view.getInt32(0, true);
}

/** A socket option as bytes, at most `size` of them (up to 128). Throws LIBBPF_SYSCALL. */
export function getsockoptBytes(fd: number, level: number, option: number, size: number): Uint8Array {
  return scratch.bytes.slice(0, readOption(fd, level, option, Math.min(size, SOCKET_ADDRESS_ROOM)));
}

function readOption(fd: number, level: number, option: number, size: number): number {
  scratchLength.view.setUint32(0, size, true);
  if (libc.getsockopt(fd, level, option, scratch.pointer, scratchLength.pointer) !== 0) {
    throw failed(`getsockopt(${level}, ${option}) failed`);
  }
  return scratchLength.view.getUint32(0, true);
}

function socketOption64(fd: number, option: number, what: string): bigint {
  scratchLength.view.setUint32(0, 8, true);
  if (libc.getsockopt(fd, SocketOption.SOL_SOCKET, option, scratch.pointer, scratchLength.pointer) !== 0) {
    throw failed(`cannot read ${what} of descriptor ${fd}`);
  }
  return scratch.view.getBigUint64(0, true);
}

/** The kernel's own name of a socket (SO_COOKIE), never reused while the machine is up: the value of `bpf_get_socket_cookie`. */
export function socketCookie(fd: number): bigint {
  return socketOption64(fd, SocketOption.SO_COOKIE, 'the socket cookie');
}

/** Who connected a unix socket, as the kernel saw it at connect time (SO_PEERCRED). */
export interface PeerCredentials {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
}

/** The process at the other end of a connected unix socket. The pid may have exited since. Throws LIBBPF_SYSCALL. */
export function peerCredentials(fd: number): PeerCredentials {
  readOption(fd, SocketOption.SOL_SOCKET, SocketOption.SO_PEERCRED, 12);
  const { view } = scratch;
  return { pid: view.getInt32(0, true), uid: view.getUint32(4, true), gid: view.getUint32(8, true) };
}

/**
 * A pidfd of the process that connected a unix socket (SO_PEERPIDFD, Linux 6.5): unlike the pid of {@link peerCredentials} it cannot come to
 * mean another process. Null on a kernel without it. Throws LIBBPF_SYSCALL, also when the process was gone already.
 */
export function peerPidfd(fd: number): OwnedFd | null {
  try {
    return new OwnedFd(getsockopt(fd, SocketOption.SOL_SOCKET, SocketOption.SO_PEERPIDFD), 'pidfd of a peer');
  } catch (error) {
    if (error instanceof LibbpfError && error.errno === Errno.ENOPROTOOPT) return null;
    throw error;
  }
}

/**
 * The descriptor inside a socket or server of Node; Node keeps owning it. This is the only place that relies on the undocumented
 * `_handle.fd`, and a test pins it. Throws LIBBPF_NO_DESCRIPTOR if it has none, which is so once it is closed.
 */
export function openSocketDescriptor(socketOrServer: Socket | Server): number {
  const handle = (socketOrServer as unknown as { readonly _handle?: { readonly fd?: unknown } | null })._handle;
  const fd = handle?.fd;
  if (typeof fd !== 'number' || fd < 0) {
    throw new LibbpfError('LIBBPF_NO_DESCRIPTOR', 'the socket has no open descriptor: it is closed, or not yet open');
  }
  return fd;
}

// ---- processes, cgroups, bpf --------------------------------------------------------------------------------------------------

/** A descriptor that refers to a process and becomes readable when it exits, pidfd_open(2). Also taken by {@link setns}. */
export function pidfdOpen(pid: number): OwnedFd {
  const fd = Number(libc.syscall(SYS_PIDFD_OPEN, BigInt(pid), 0n, 0n, 0n));
  if (fd < 0) throw failed(`pidfd_open(${pid}) failed`);
  return new OwnedFd(fd, `pidfd of ${pid}`);
}

/** False once the process of a pidfd has exited, a zombie's included: poll(2) on it. Throws LIBBPF_SYSCALL. */
export function isProcessAlive(pidfd: number): boolean {
  scratch.view.setInt32(0, pidfd, true);
  scratch.view.setInt16(4, POLLIN, true);
  scratch.view.setInt16(6, 0, true);
  const ready = libc.poll(scratch.pointer, 1n, 0);
  if (ready < 0) throw failed(`cannot poll the pidfd ${pidfd}`);
  return ready === 0;
}

/**
 * The id of a cgroup v2 directory, as `bpf_get_current_cgroup_id` returns it: its inode number. Throws LIBBPF_NOT_A_CGROUP if the
 * path does not exist or is not on a cgroup2 file system.
 */
export function cgroupId(path: string): bigint {
  try {
    if (statfsSync(path).type === CGROUP2_SUPER_MAGIC) return statSync(path, { bigint: true }).ino;
  } catch (error) {
    throw new LibbpfError('LIBBPF_NOT_A_CGROUP', `there is no cgroup ${path}`, { cause: error });
  }
  throw new LibbpfError('LIBBPF_NOT_A_CGROUP', `${path} is not on a cgroup v2 file system`);
}

/** True if `directory` exists and is on a BPF file system. */
export function isBpfFilesystem(directory: string): boolean {
  try {
    return statfsSync(directory).type === BPF_FS_MAGIC;
  } catch {
    return false;
  }
}

const MS_NOSUID = 2n;
const MS_NODEV = 4n;
const MS_NOEXEC = 8n;

/**
 * Makes `directory` if it is missing and mounts a BPF file system on it (mode 0700), unless it is on one already. Below a bare /sys/fs/bpf
 * the mount goes there: sysfs has that directory for it, and nobody can make another.
 * Returns true if it mounted. Throws LIBBPF_SYSCALL.
 */
export function mountBpfFilesystem(directory: string): boolean {
  const isBare = directory.startsWith(`${USUAL_MOUNT_POINT}/`) && existsSync(USUAL_MOUNT_POINT) && !isBpfFilesystem(USUAL_MOUNT_POINT);
  if (isBare) mountBpf(USUAL_MOUNT_POINT);
  makeDirectories(directory);
  if (isBpfFilesystem(directory)) return isBare;
  mountBpf(directory);
  return true;
}

function mountBpf(directory: string): void {
  if (libc.mount('bpf', directory, 'bpf', MS_NOSUID | MS_NODEV | MS_NOEXEC, 'mode=0700') !== 0) {
    throw failed(`cannot mount a BPF file system on ${directory}`);
  }
}

/** mkdirSync's own `recursive` never returns where a file system has no directories to make and says ENOENT, as sysfs does. */
function makeDirectories(path: string): void {
  if (existsSync(path)) return;
  makeDirectories(dirname(path));
  try {
    mkdirSync(path, { mode: 0o700 });
  } catch (error) {
    const { code, errno = 0 } = error as NodeJS.ErrnoException;
    if (code !== 'EEXIST') throw new LibbpfError('LIBBPF_SYSCALL', `cannot make the directory ${path}`, { errno: -errno, cause: error });
  }
}

const MNT_DETACH = 2;

/** Unmounts `directory`, lazily if it is busy. Throws LIBBPF_SYSCALL. */
export function unmount(directory: string): void {
  if (libc.umount2(directory, MNT_DETACH) !== 0) throw failed(`cannot unmount ${directory}`);
}

/**
 * The bpf(2) system call itself, for commands that libbpf 1.1 does not wrap. `attributes` is the command's part of
 * `union bpf_attr`. Returns what the kernel returned. Throws LIBBPF_SYSCALL.
 */
export function bpf(command: number, attributes: Uint8Array): number {
  if (SYS_BPF === null) throw new LibbpfError('LIBBPF_SYSCALL', `the number of the bpf system call on ${process.arch} is not known`);
  const result = Number(libc.syscall(SYS_BPF, BigInt(command), addressOf(attributes), BigInt(attributes.byteLength), 0n));
  if (result < 0) throw failed(`bpf command ${command} failed`);
  return result;
}

/** The inode number of a namespace file such as `/proc/PID/ns/net`: what link info and /proc show for it. */
export function namespaceInode(path: string): bigint {
  const fd = openSync(path, 'r');
  try {
    return statSync(`/proc/self/fd/${fd}`, { bigint: true }).ino;
  } finally {
    closeSync(fd);
  }
}
