import { errnoName } from './errno.ts';

/** Every code that this package raises. The README has one line for each. */
export type LibbpfErrorCode =
  | 'LIBBPF_LIBRARY_MISSING'
  | 'LIBBPF_SYSCALL'
  | 'LIBBPF_CLOSED'
  | 'LIBBPF_MAIN_THREAD_ONLY'
  | 'LIBBPF_ASYNC_IN_NETNS'
  | 'LIBBPF_SOCKET_ADDRESS'
  | 'LIBBPF_NO_DESCRIPTOR'
  | 'LIBBPF_NOT_A_CGROUP'
  | 'LIBBPF_NOT_FOUND'
  | 'LIBBPF_OBJECT_FORMAT'
  | 'LIBBPF_OPEN'
  | 'LIBBPF_GLOBAL'
  | 'LIBBPF_LOAD'
  | 'LIBBPF_VERIFIER'
  | 'LIBBPF_ATTACH'
  | 'LIBBPF_PIN'
  | 'LIBBPF_MAP_INCOMPATIBLE'
  | 'LIBBPF_MAP_OPERATION'
  | 'LIBBPF_CODEC'
  | 'LIBBPF_RING_BUFFER';

/** What an error may carry besides its message. */
export interface LibbpfErrorDetail {
  /** Positive errno of the failed call. */
  readonly errno?: number;
  /** The kernel's verifier log, whole. */
  readonly verifierLog?: string;
  /** What libbpf itself printed during the call. */
  readonly libbpfLog?: string;
  /** The lines of a log that say what is wrong; they end the message. */
  readonly excerpt?: string;
  readonly cause?: unknown;
}

/**
 * The one error of this package. `code` is stable. `errno` and `errnoName` are set when a system call or libbpf failed;
 * `verifierLog` when the kernel refused a program.
 */
export class LibbpfError extends Error {
  override readonly name: string = 'LibbpfError';
  readonly code: LibbpfErrorCode;
  /** Positive errno, or null. */
  readonly errno: number | null;
  /** Such as `EPERM`, or null. */
  readonly errnoName: string | null;
  /** The kernel's whole verifier log, or null. */
  readonly verifierLog: string | null;
  /** libbpf's own warnings during the call, or null. */
  readonly libbpfLog: string | null;

  constructor(code: LibbpfErrorCode, message: string, detail: LibbpfErrorDetail = {}) {
    const name = detail.errno === undefined ? null : errnoName(detail.errno);
    const excerpt = detail.excerpt === undefined || detail.excerpt === '' ? '' : `\n${detail.excerpt}`;
    super(`${message}${name === null ? '' : `: ${name}`}${excerpt}`, detail.cause === undefined ? undefined : { cause: detail.cause });
    this.code = code;
    this.errno = detail.errno ?? null;
    this.errnoName = name;
    this.verifierLog = detail.verifierLog ?? null;
    this.libbpfLog = detail.libbpfLog ?? null;
  }
}
