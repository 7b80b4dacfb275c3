import { readFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import { DescriptorPoll } from 'libbpf-ts';
import {
  isProcessAlive,
  openSocketDescriptor,
  type OwnedFd,
  type PeerCredentials,
  peerCredentials,
  peerPidfd,
  pidfdOpen,
} from 'libbpf-ts/sys';
import { KernelError } from './errors.ts';

/**
 * The process that connected a unix socket, held by a pidfd: whatever becomes of its pid, this is about that process and no other.
 * It is whoever called connect(2): a process that got the descriptor from it counts as it, as long as it lives.
 */
export interface PeerProcess {
  /** In the pid namespace of the agent. */
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
  /** False once it has exited. What was read below /proc/PID before a true answer was of this process. */
  isAlive(): boolean;
  /** Aborts when it exits. */
  readonly exited: AbortSignal;
  /** Stops watching. */
  close(): void;
}

/** Who connected, from the kernel (unix(7)): SO_PEERCRED and, since Linux 6.5, SO_PEERPIDFD. Main thread only. */
export interface PeerCredentialsOptions {
  /** False: as on a kernel without SO_PEERPIDFD. */
  readonly usePeerPidfd?: boolean;
}

/**
 * The id of the process that connected, by SO_PEERCRED alone: one system call. It may be that of another process by now, so it is good for
 * a count and not for an identity.
 * @throws KernelError WEFT_BPF_PEER when the agent cannot see the process
 */
export function peerProcessId(socket: Socket): number {
  return credentialsOf(openSocketDescriptor(socket)).pid;
}

/**
 * Without SO_PEERPIDFD the pid may have passed to another process between connect(2) and here. A process that started after `acceptedAt`
 * is then refused; one that took the pid over in the moment between connect(2) and accept(2) is not noticed.
 *
 * @throws KernelError WEFT_BPF_PEER when there is no such process that the agent can see: it has exited, or is in a pid namespace that is
 *   not below the agent's own
 */
export function peerProcess(socket: Socket, options: PeerCredentialsOptions = {}): PeerProcess {
  const acceptedAt = secondsSinceBoot();
  const descriptor = openSocketDescriptor(socket);
  const { pid, uid, gid } = credentialsOf(descriptor);
  let pidfd: OwnedFd;
  try {
    pidfd = (options.usePeerPidfd === false ? null : peerPidfd(descriptor)) ?? pidfdOfOlderThan(pid, acceptedAt);
  } catch (error) {
    if (error instanceof KernelError) throw error;
    throw unknown(`process ${pid} has exited`, error);
  }
  // Newer kernels give a pidfd of a process that is gone.
  if (isProcessAlive(pidfd.fd)) return new WatchedProcess(pid, uid, gid, pidfd);
  pidfd.close();
  throw unknown(`process ${pid} has exited`);
}

function credentialsOf(descriptor: number): PeerCredentials {
  const credentials = peerCredentials(descriptor);
  if (credentials.pid <= 0) throw unknown('its process is in a pid namespace that the agent cannot see');
  return credentials;
}

class WatchedProcess implements PeerProcess {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
  readonly #pidfd: OwnedFd;
  readonly #poll: DescriptorPoll;
  readonly #exit = new AbortController();

  constructor(pid: number, uid: number, gid: number, pidfd: OwnedFd) {
    this.pid = pid;
    this.uid = uid;
    this.gid = gid;
    this.#pidfd = pidfd;
    this.#poll = new DescriptorPoll(pidfd, () => this.#exited());
    this.#poll.unref();
  }

  get exited(): AbortSignal {
    return this.#exit.signal;
  }

  isAlive(): boolean {
    if (this.#exit.signal.aborted || this.#pidfd.closed) return false;
    if (isProcessAlive(this.#pidfd.fd)) return true;
    this.#exited();
    return false;
  }

  #exited(): void {
    this.close();
    this.#exit.abort();
  }

  close(): void {
    void this.#poll.close();
  }
}

function pidfdOfOlderThan(pid: number, seconds: number): OwnedFd {
  const pidfd = pidfdOpen(pid);
  try {
    if (startOf(pid) <= seconds) return pidfd;
  } catch (error) {
    pidfd.close();
    throw error;
  }
  pidfd.close();
  throw unknown(`the pid ${pid} is that of another process by now`);
}

/** In what part of a second the kernel counts in /proc/PID/stat: USER_HZ, which is 100 on every architecture that Node runs on. */
const TICKS_PER_SECOND = 100;

/** When a process started, in seconds since boot (proc_pid_stat(5), field 22). */
function startOf(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  // The command's name is in parentheses, and may itself have some.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return Number(fields[19]) / TICKS_PER_SECOND;
}

function secondsSinceBoot(): number {
  // Rounded up to the next tick, as the start of a process is rounded down.
  return Number.parseFloat(readFileSync('/proc/uptime', 'utf8')) + 1 / TICKS_PER_SECOND;
}

function unknown(why: string, cause?: unknown): KernelError {
  return new KernelError('WEFT_BPF_PEER', `the kernel does not name who connected: ${why}`, {
    nextStep: 'connect from a process that lives as long as its connection, in a pid namespace below that of the agent',
    cause,
  });
}
