import { closeSync, openSync } from 'node:fs';
import { LibbpfError } from './errors.ts';
import { lastErrno, libc } from './ffi.ts';

const F_DUPFD_CLOEXEC = 1030;

let tracing = false;
const traced = new Map<OwnedFd, string>();

/**
 * One file descriptor with one owner. It is closed by `using`, `close()` or `Symbol.dispose`, once; afterwards `.fd` throws
 * LIBBPF_CLOSED, so that a number which the kernel has given to somebody else is never used.
 */
export class OwnedFd implements Disposable {
  #fd: number;
  /** What it is, for messages and the leak trace. */
  readonly label: string;

  /** Takes ownership of `fd`. */
  constructor(fd: number, label = 'file descriptor') {
    this.#fd = fd;
    this.label = label;
    if (tracing) traced.set(this, new Error(`${label} ${fd}`).stack ?? label);
  }

  /** Opens `path` (close-on-exec, read-only unless `flags` say otherwise). Throws LIBBPF_SYSCALL. */
  static open(path: string, flags: string | number = 'r'): OwnedFd {
    try {
      return new OwnedFd(openSync(path, flags), path);
    } catch (error) {
      const errno = -((error as NodeJS.ErrnoException).errno ?? 0);
      throw new LibbpfError('LIBBPF_SYSCALL', `cannot open ${path}`, errno > 0 ? { errno, cause: error } : { cause: error });
    }
  }

  /** The descriptor, still owned by this object. Throws LIBBPF_CLOSED after `close()` or `disown()`. */
  get fd(): number {
    if (this.#fd < 0) throw new LibbpfError('LIBBPF_CLOSED', `${this.label} is closed`);
    return this.#fd;
  }

  /** True once closed or disowned. */
  get closed(): boolean {
    return this.#fd < 0;
  }

  /** Gives the descriptor up: the caller closes it from now on. */
  disown(): number {
    const fd = this.fd;
    this.#forget();
    return fd;
  }

  /** A second descriptor of the same open file (close-on-exec), with its own owner. */
  dup(): OwnedFd {
    return duplicateFd(this.fd, this.label);
  }

  /** Closes it. A second call does nothing. */
  close(): void {
    if (this.#fd < 0) return;
    const fd = this.#fd;
    this.#forget();
    closeSync(fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #forget(): void {
    this.#fd = -1;
    traced.delete(this);
  }
}

/** Duplicates any descriptor (close-on-exec); the original stays whose it was. Throws LIBBPF_SYSCALL. */
export function duplicateFd(fd: number, label = 'file descriptor'): OwnedFd {
  const copy = libc.fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (copy < 0) throw new LibbpfError('LIBBPF_SYSCALL', `cannot duplicate ${label} ${fd}`, { errno: lastErrno() });
  return new OwnedFd(copy, label);
}

/** Switches leak tracing of this thread on or off (for tests: it takes a stack trace per descriptor). Clears the trace. */
export function traceOwnedFds(on: boolean): void {
  tracing = on;
  traced.clear();
}

/** The descriptors made since tracing began that are still open: the stack trace of each one's creation. */
export function openOwnedFds(): readonly string[] {
  return [...traced.values()];
}
