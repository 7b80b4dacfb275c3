import { existsSync, readFileSync } from 'node:fs';
import { release } from 'node:os';
import { errnoName } from './errno.ts';
import { LibbpfError } from './errors.ts';
import { libbpf, readCString } from './ffi.ts';
import { hasHelper } from './helper-probe.ts';
import { MapType, mapTypeName, ProgramType, programTypeName } from './kernel-types.ts';
import { findBpfFilesystems, findCgroup2 } from './mounts.ts';

/** Whether this machine has something, and what for. */
export interface Feature {
  /** Stable, such as `map type sk_storage`. */
  readonly name: string;
  readonly ok: boolean;
  /** What was found, or why it is not there. */
  readonly detail: string;
  /** What cannot be done without it. */
  readonly requiredFor: string;
}

/** `enum bpf_func_id` (include/uapi/linux/bpf.h), helpers worth a probe. */
export const Helper = {
  SK_STORAGE_GET: 107,
  SK_ASSIGN: 124,
  GET_NETNS_COOKIE: 122,
  SKC_TO_TCP_SOCK: 137,
  GET_SOCKET_COOKIE: 46,
  MSG_REDIRECT_HASH: 71,
  RINGBUF_OUTPUT: 130,
  LOOP: 181,
} as const;

const PROGRAM_TYPES: readonly (readonly [number, string])[] = [
  [ProgramType.CGROUP_SOCK_ADDR, 'rewriting or refusing connect, bind, getpeername and getsockname'],
  [ProgramType.SOCK_OPS, 'following TCP connections'],
  [ProgramType.SK_LOOKUP, 'choosing the socket that takes an incoming connection'],
  [ProgramType.SK_MSG, 'redirecting data between sockets'],
];

const MAP_TYPES: readonly (readonly [number, string])[] = [
  [MapType.SK_STORAGE, 'data that belongs to a socket'],
  [MapType.SOCKMAP, 'programs that refer to sockets by index'],
  [MapType.SOCKHASH, 'programs that refer to sockets by key'],
  [MapType.RINGBUF, 'events from programs to user space'],
];

const HELPERS: readonly (readonly [string, number, number, string])[] = [
  ['bpf_get_netns_cookie', Helper.GET_NETNS_COOKIE, ProgramType.CGROUP_SOCK_ADDR, 'telling network namespaces apart at connect'],
  ['bpf_get_netns_cookie', Helper.GET_NETNS_COOKIE, ProgramType.SOCK_OPS, 'telling network namespaces apart on connections'],
  ['bpf_sk_storage_get', Helper.SK_STORAGE_GET, ProgramType.CGROUP_SOCK_ADDR, 'reading socket storage at connect'],
  ['bpf_sk_storage_get', Helper.SK_STORAGE_GET, ProgramType.SK_MSG, 'reading socket storage on data'],
  ['bpf_sk_assign', Helper.SK_ASSIGN, ProgramType.SK_LOOKUP, 'choosing the socket that takes an incoming connection'],
  ['bpf_msg_redirect_hash', Helper.MSG_REDIRECT_HASH, ProgramType.SK_MSG, 'redirecting data between sockets'],
  ['bpf_loop', Helper.LOOP, ProgramType.SK_MSG, 'loops over data that the verifier need not unroll (Linux 5.17)'],
];

const CAP_SYS_ADMIN = 21n;
const CAP_BPF = 39n;

const CAPABILITIES: readonly (readonly [string, bigint, string])[] = [
  ['CAP_BPF', CAP_BPF, 'loading programs and maps'],
  ['CAP_PERFMON', 38n, 'programs that read kernel memory'],
  ['CAP_NET_ADMIN', 12n, 'network programs, and attaching them'],
  ['CAP_SYS_ADMIN', CAP_SYS_ADMIN, 'entering network namespaces, mounting a BPF file system, opening maps by id'],
];

/** The version of the libbpf in use, such as `1.1`. Throws LIBBPF_LIBRARY_MISSING. */
export function libbpfVersion(): string {
  return readCString(libbpf().libbpf_version_string()).replace(/^v/, '');
}

/** Probes this machine. Never throws for what is missing; takes some milliseconds, as it loads small programs and maps. */
export function features(): readonly Feature[] {
  return [...environment(), ...capabilities(), ...kernel()];
}

function environment(): Feature[] {
  const cgroup = findCgroup2();
  const filesystems = findBpfFilesystems();
  const btf = '/sys/kernel/btf/vmlinux';
  return [
    probe('libbpf', 'everything', () => `version ${libbpfVersion()}`),
    { name: 'kernel', ok: true, detail: release(), requiredFor: 'everything' },
    { name: 'kernel BTF', ok: existsSync(btf), detail: existsSync(btf) ? btf : `${btf} is missing`, requiredFor: 'CO-RE programs' },
    { name: 'cgroup v2', ok: cgroup !== null, detail: cgroup ?? 'not mounted', requiredFor: 'attaching to cgroups' },
    {
      name: 'BPF file system',
      ok: filesystems.length > 0,
      detail: filesystems.join(', ') || 'not mounted (mount -t bpf bpf /sys/fs/bpf)',
      requiredFor: 'pinning: what outlives the process',
    },
  ];
}

function capabilities(): Feature[] {
  return CAPABILITIES.map(([name, bit, requiredFor]) => {
    const ok = hasCapability(bit);
    return { name, ok, detail: ok ? 'held' : 'not held', requiredFor };
  });
}

/** The thread's effective capabilities as a bit mask (capabilities(7)). */
export function effectiveCapabilities(): bigint {
  const match = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/thread-self/status', 'utf8'));
  return match === null ? 0n : BigInt(`0x${match[1]}`);
}

function hasCapability(bit: bigint): boolean {
  return ((effectiveCapabilities() >> bit) & 1n) === 1n;
}

function kernel(): Feature[] {
  const list: Feature[] = [];
  for (const [type, requiredFor] of PROGRAM_TYPES) {
    list.push(probe(`program type ${programTypeName(type)}`, requiredFor, () => judge(libbpf().libbpf_probe_bpf_prog_type(type, null))));
  }
  for (const [type, requiredFor] of MAP_TYPES) {
    list.push(probe(`map type ${mapTypeName(type)}`, requiredFor, () => judge(libbpf().libbpf_probe_bpf_map_type(type, null))));
  }
  for (const [name, helper, program, requiredFor] of HELPERS) {
    const title = `helper ${name} in ${programTypeName(program)}`;
    list.push(probe(title, requiredFor, () => judge(hasHelper(program, helper) ? 1 : 0)));
  }
  return list;
}

function judge(result: number): string {
  if (result > 0) return 'available';
  // The probes of libbpf 1.1 take a lack of privilege for a lack of the feature.
  if (!hasCapability(CAP_BPF) && !hasCapability(CAP_SYS_ADMIN)) throw new LibbpfError('LIBBPF_SYSCALL', 'cannot be probed without CAP_BPF');
  throw new LibbpfError('LIBBPF_SYSCALL', result === 0 ? 'this kernel does not have it' : `cannot be probed (${errnoName(-result)})`);
}

function probe(name: string, requiredFor: string, test: () => string): Feature {
  try {
    return { name, ok: true, detail: test(), requiredFor };
  } catch (error) {
    return { name, ok: false, detail: error instanceof Error ? error.message : String(error), requiredFor };
  }
}
