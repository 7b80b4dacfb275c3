/** `missing`: the agent cannot run without it. `off`: it can, with less. */
export type CheckState = 'ok' | 'missing' | 'off';

/** One line of `weft doctor`. */
export interface Check {
  readonly name: string;
  readonly state: CheckState;
  /** What was found. */
  readonly detail: string;
  /** What to do; null when all is well. */
  readonly nextStep: string | null;
}

/** What was found on this machine. */
export interface MachineFacts {
  /** As `uname -r` says. */
  readonly kernelRelease: string;
  /** Such as `v26.10.0`. */
  readonly nodeVersion: string;
  /** Of libbpf-ts: name, whether it is there, and what was seen. */
  readonly features: readonly { readonly name: string; readonly ok: boolean; readonly detail: string }[];
  /** Compiled kernel objects of this checkout that are not there. */
  readonly objectsMissing: readonly string[];
  readonly ipv4: boolean;
  readonly ipv6: boolean;
  /** net.core.bpf_jit_enable; null when it cannot be read. */
  readonly bpfJit: number | null;
  /** The hard limit of open files; Infinity for none. */
  readonly openFilesLimit: number;
  /** Where the BPF compiler is; null when it is not installed. */
  readonly clang: string | null;
}

/** sk_lookup programs see the interface (ingress_ifindex) from here on. */
const LEAST_KERNEL: readonly [number, number] = [5, 17];
const LEAST_NODE: readonly [number, number] = [26, 10];
/** A proxied connection takes two descriptors. */
const ENOUGH_OPEN_FILES = 65_536;

const AS_ROOT = 'run it as root, or in a container with these capabilities: BPF, PERFMON, NET_ADMIN, SYS_ADMIN';
const OTHER_KERNEL = 'use a kernel that has it: Debian 12 and later do';
const MOUNT_CGROUP = 'mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified';

/** Features of libbpf-ts that Weft uses, by name: what their absence means, and what to do about it. */
const FEATURES: readonly (readonly [name: string, state: 'missing' | 'off', nextStep: string])[] = [
  ['libbpf', 'missing', 'install libbpf.so.1: apt-get install libbpf1'],
  ['kernel BTF', 'missing', 'use a kernel built with CONFIG_DEBUG_INFO_BTF, as those of Debian are'],
  ['cgroup v2', 'missing', MOUNT_CGROUP],
  ['BPF file system', 'off', 'nothing: the agent mounts one on its --bpf-dir; to have one for all: mount -t bpf bpf /sys/fs/bpf'],
  ['CAP_BPF', 'missing', AS_ROOT],
  ['CAP_PERFMON', 'missing', AS_ROOT],
  ['CAP_NET_ADMIN', 'missing', AS_ROOT],
  ['CAP_SYS_ADMIN', 'missing', AS_ROOT],
  ['program type cgroup_sock_addr', 'missing', OTHER_KERNEL],
  ['program type sock_ops', 'missing', OTHER_KERNEL],
  ['program type sk_lookup', 'missing', OTHER_KERNEL],
  ['map type sk_storage', 'missing', OTHER_KERNEL],
  ['map type ringbuf', 'missing', OTHER_KERNEL],
  ['helper bpf_get_netns_cookie in cgroup_sock_addr', 'missing', OTHER_KERNEL],
  ['helper bpf_get_netns_cookie in sock_ops', 'missing', OTHER_KERNEL],
  ['helper bpf_sk_storage_get in cgroup_sock_addr', 'missing', OTHER_KERNEL],
  ['helper bpf_sk_assign in sk_lookup', 'missing', OTHER_KERNEL],
];

/** Judges a machine. Reads nothing but its arguments. */
export function doctorChecks(facts: MachineFacts): readonly Check[] {
  return [
    check(
      'kernel',
      atLeast(facts.kernelRelease, LEAST_KERNEL),
      facts.kernelRelease,
      'missing',
      `use Linux ${LEAST_KERNEL.join('.')} or later`,
    ),
    check(
      'Node',
      atLeast(facts.nodeVersion, LEAST_NODE) && facts.nodeVersion.startsWith(`v${LEAST_NODE[0]}.`),
      facts.nodeVersion,
      'missing',
      'start Weft with src/cli/weft, which uses the Node that npm brought; sh scripts/setup.sh brings it',
    ),
    ...FEATURES.map(([name, state, nextStep]) => {
      const feature = facts.features.find((each) => each.name === name);
      return check(name, feature?.ok === true, feature?.detail ?? 'was not probed', state, nextStep);
    }),
    check(
      'kernel objects',
      facts.objectsMissing.length === 0,
      facts.objectsMissing.length === 0 ? 'compiled' : `no ${facts.objectsMissing.join(', ')}`,
      'missing',
      'take them from the repository, or build them: npm run build:bpf',
    ),
    check('IPv4', facts.ipv4, facts.ipv4 ? 'on' : 'not in this kernel', 'missing', 'use a kernel with IPv4'),
    check(
      'IPv6',
      facts.ipv6,
      facts.ipv6 ? 'on' : 'off',
      'off',
      'nothing, if your workloads have no IPv6 addresses; else: sysctl net.ipv6.conf.all.disable_ipv6=0',
    ),
    check(
      'BPF compiler',
      facts.clang !== null,
      facts.clang ?? 'not installed',
      'off',
      'nothing: it is only needed to change bpf/*.bpf.c (npm run setup test brings it)',
    ),
    ...limits(facts),
  ];
}

function limits({ bpfJit, openFilesLimit }: MachineFacts): Check[] {
  const list = [
    check(
      'open files',
      openFilesLimit >= ENOUGH_OPEN_FILES,
      openFilesLimit === Number.POSITIVE_INFINITY ? 'no limit' : `at most ${openFilesLimit}`,
      'off',
      `raise the hard limit to ${ENOUGH_OPEN_FILES} or more (systemd: LimitNOFILE=); each connection takes two`,
    ),
  ];
  if (bpfJit !== null)
    list.push(
      check(
        'BPF compiler of the kernel',
        bpfJit > 0,
        bpfJit > 0 ? 'on' : 'off',
        'off',
        'sysctl net.core.bpf_jit_enable=1: hooks are slow without it',
      ),
    );
  return list;
}

function check(name: string, ok: boolean, detail: string, otherwise: 'missing' | 'off', nextStep: string): Check {
  return { name, state: ok ? 'ok' : otherwise, detail, nextStep: ok ? null : nextStep };
}

/** Compares the first two numbers of a version. */
function atLeast(version: string, [major, minor]: readonly [number, number]): boolean {
  const match = /^v?(\d+)\.(\d+)/.exec(version);
  if (match === null) return false;
  const [found, foundMinor] = [Number(match[1]), Number(match[2])];
  return found > major || (found === major && foundMinor >= minor);
}
