import { constants } from 'node:os';

/** Numbers that Linux or libbpf return and that Node's table lacks (include/linux/errno.h, libbpf's enum libbpf_errno). */
const UNLISTED: readonly (readonly [number, string])[] = [
  [524, 'ENOTSUPP'],
  [4000, 'LIBBPF_ERRNO__LIBELF'],
  [4001, 'LIBBPF_ERRNO__FORMAT'],
  [4002, 'LIBBPF_ERRNO__KVERSION'],
  [4003, 'LIBBPF_ERRNO__ENDIAN'],
  [4004, 'LIBBPF_ERRNO__INTERNAL'],
  [4005, 'LIBBPF_ERRNO__RELOC'],
  [4006, 'LIBBPF_ERRNO__LOAD'],
  [4007, 'LIBBPF_ERRNO__VERIFY'],
  [4008, 'LIBBPF_ERRNO__PROG2BIG'],
  [4009, 'LIBBPF_ERRNO__KVER'],
  [4010, 'LIBBPF_ERRNO__PROGTYPE'],
];

const NAMES: ReadonlyMap<number, string> = buildNames();

function buildNames(): Map<number, string> {
  const names = new Map<number, string>(UNLISTED);
  for (const [name, number] of Object.entries(constants.errno)) {
    if (!names.has(number)) names.set(number, name);
  }
  return names;
}

/** The errors that callers of this package compare against, by Linux number. */
export const Errno = {
  EPERM: 1,
  ENOENT: 2,
  EINTR: 4,
  E2BIG: 7,
  EBADF: 9,
  EAGAIN: 11,
  EACCES: 13,
  EBUSY: 16,
  EEXIST: 17,
  EINVAL: 22,
  ENOSPC: 28,
  ENOPROTOOPT: 92,
  EOPNOTSUPP: 95,
  EADDRINUSE: 98,
  EAFNOSUPPORT: 97,
  EADDRNOTAVAIL: 99,
  EINPROGRESS: 115,
} as const;

/** The symbolic name of a positive errno, such as `ENOENT` for 2. A number without a name becomes `errno 12345`. */
export function errnoName(errno: number): string {
  return NAMES.get(errno) ?? `errno ${errno}`;
}
