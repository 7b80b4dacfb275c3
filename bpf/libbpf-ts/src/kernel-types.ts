/** Numbers of include/uapi/linux/bpf.h that callers name. They never change. */

/** `enum bpf_map_type`. */
export const MapType = {
  HASH: 1,
  ARRAY: 2,
  PROG_ARRAY: 3,
  PERF_EVENT_ARRAY: 4,
  PERCPU_HASH: 5,
  PERCPU_ARRAY: 6,
  STACK_TRACE: 7,
  CGROUP_ARRAY: 8,
  LRU_HASH: 9,
  LRU_PERCPU_HASH: 10,
  LPM_TRIE: 11,
  ARRAY_OF_MAPS: 12,
  HASH_OF_MAPS: 13,
  DEVMAP: 14,
  SOCKMAP: 15,
  CPUMAP: 16,
  XSKMAP: 17,
  SOCKHASH: 18,
  CGROUP_STORAGE: 19,
  REUSEPORT_SOCKARRAY: 20,
  PERCPU_CGROUP_STORAGE: 21,
  QUEUE: 22,
  STACK: 23,
  SK_STORAGE: 24,
  RINGBUF: 27,
  INODE_STORAGE: 28,
  TASK_STORAGE: 29,
  CGRP_STORAGE: 32,
} as const;

/** `enum bpf_prog_type`, those of sockets and cgroups. */
export const ProgramType = {
  SOCKET_FILTER: 1,
  CGROUP_SKB: 8,
  CGROUP_SOCK: 9,
  SOCK_OPS: 13,
  SK_SKB: 14,
  SK_MSG: 16,
  CGROUP_SOCK_ADDR: 18,
  SK_REUSEPORT: 21,
  CGROUP_SOCKOPT: 25,
  SK_LOOKUP: 30,
} as const;

/** `enum bpf_attach_type`, those of sockets and cgroups. */
export const AttachType = {
  CGROUP_INET_INGRESS: 0,
  CGROUP_INET_EGRESS: 1,
  CGROUP_INET_SOCK_CREATE: 2,
  CGROUP_SOCK_OPS: 3,
  SK_SKB_STREAM_PARSER: 4,
  SK_SKB_STREAM_VERDICT: 5,
  SK_MSG_VERDICT: 7,
  CGROUP_INET4_BIND: 8,
  CGROUP_INET6_BIND: 9,
  CGROUP_INET4_CONNECT: 10,
  CGROUP_INET6_CONNECT: 11,
  CGROUP_INET4_POST_BIND: 12,
  CGROUP_INET6_POST_BIND: 13,
  CGROUP_UDP4_SENDMSG: 14,
  CGROUP_UDP6_SENDMSG: 15,
  CGROUP_UDP4_RECVMSG: 19,
  CGROUP_UDP6_RECVMSG: 20,
  CGROUP_GETSOCKOPT: 21,
  CGROUP_SETSOCKOPT: 22,
  CGROUP_INET4_GETPEERNAME: 29,
  CGROUP_INET6_GETPEERNAME: 30,
  CGROUP_INET4_GETSOCKNAME: 31,
  CGROUP_INET6_GETSOCKNAME: 32,
  CGROUP_INET_SOCK_RELEASE: 34,
  SK_LOOKUP: 36,
  SK_SKB_VERDICT: 38,
} as const;

/** Flags of a map update. */
export const UpdateFlag = {
  /** Insert or replace. */
  ANY: 0n,
  /** Insert; EEXIST if it is there. */
  NOEXIST: 1n,
  /** Replace; ENOENT if it is not there. */
  EXIST: 2n,
} as const;

/** `BPF_F_NO_PREALLOC`: needed by socket storage and LPM tries. */
export const MAP_FLAG_NO_PREALLOC = 1;

function nameOf(table: Readonly<Record<string, number>>, value: number): string {
  for (const [name, number] of Object.entries(table)) {
    if (number === value) return name.toLowerCase();
  }
  return `type ${value}`;
}

/** Such as `sk_storage` for 24. */
export function mapTypeName(type: number): string {
  return nameOf(MapType, type);
}

/** Such as `sk_lookup` for 30. */
export function programTypeName(type: number): string {
  return nameOf(ProgramType, type);
}

/** Such as `cgroup_inet4_connect` for 10. */
export function attachTypeName(type: number): string {
  return nameOf(AttachType, type);
}

/** True if the map holds one value per CPU. */
export function isPerCpuMap(type: number): boolean {
  return (
    type === MapType.PERCPU_HASH ||
    type === MapType.PERCPU_ARRAY ||
    type === MapType.LRU_PERCPU_HASH ||
    type === MapType.PERCPU_CGROUP_STORAGE
  );
}
