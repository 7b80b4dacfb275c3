import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';

/** Every offset and size that the package writes or reads by number, with the C that must agree. */
const LAYOUT: readonly (readonly [expression: string, value: number])[] = [
  ['sizeof(struct bpf_object_open_opts)', 80],
  ['offsetof(struct bpf_object_open_opts, object_name)', 8],
  ['sizeof(struct bpf_map_create_opts)', 48],
  ['offsetof(struct bpf_map_create_opts, map_flags)', 28],
  ['sizeof(struct bpf_link_update_opts)', 16],
  ['offsetof(struct bpf_link_update_opts, flags)', 8],
  ['offsetof(struct bpf_link_update_opts, old_prog_fd)', 12],
  ['offsetof(struct bpf_map_info, id)', 4],
  ['offsetof(struct bpf_map_info, key_size)', 8],
  ['offsetof(struct bpf_map_info, value_size)', 12],
  ['offsetof(struct bpf_map_info, max_entries)', 16],
  ['offsetof(struct bpf_map_info, map_flags)', 20],
  ['offsetof(struct bpf_map_info, name)', 24],
  ['offsetof(struct bpf_prog_info, id)', 4],
  ['offsetof(struct bpf_prog_info, tag)', 8],
  ['offsetof(struct bpf_prog_info, name)', 64],
  ['offsetof(struct bpf_link_info, id)', 4],
  ['offsetof(struct bpf_link_info, prog_id)', 8],
  ['offsetof(struct bpf_link_info, cgroup.cgroup_id)', 16],
  ['offsetof(struct bpf_link_info, cgroup.attach_type)', 24],
  ['offsetof(struct bpf_link_info, netns.netns_ino)', 16],
  ['offsetof(struct bpf_link_info, netns.attach_type)', 20],
  ['offsetof(union bpf_attr, insns)', 8],
  ['offsetof(union bpf_attr, license)', 16],
  ['offsetof(union bpf_attr, log_level)', 24],
  ['offsetof(union bpf_attr, log_size)', 28],
  ['offsetof(union bpf_attr, log_buf)', 32],
  ['offsetof(union bpf_attr, expected_attach_type)', 68],
  ['sizeof(struct sockaddr_in)', 16],
  ['sizeof(struct sockaddr_in6)', 28],
  ['offsetof(struct sockaddr_in6, sin6_scope_id)', 24],
  ['sizeof(struct ucred)', 12],
  ['BPF_RINGBUF_HDR_SZ', 8],
  ['BPF_RINGBUF_BUSY_BIT', 0x80000000],
  ['BPF_RINGBUF_DISCARD_BIT', 0x40000000],
  ['BPF_F_REPLACE', 4],
  ['BPF_MAP_TYPE_SK_STORAGE', 24],
  ['BPF_MAP_TYPE_RINGBUF', 27],
  ['BPF_MAP_TYPE_TASK_STORAGE', 29],
  ['BPF_PROG_TYPE_SK_LOOKUP', 30],
  ['BPF_PROG_TYPE_SK_MSG', 16],
  ['BPF_PROG_TYPE_CGROUP_SOCKOPT', 25],
  ['BPF_CGROUP_SETSOCKOPT', 22],
  ['BPF_CGROUP_INET6_GETSOCKNAME', 32],
  ['BPF_SK_LOOKUP', 36],
  ['BPF_SK_SKB_VERDICT', 38],
  ['BPF_FUNC_loop', 181],
  ['BPF_FUNC_get_netns_cookie', 122],
  ['BPF_LINK_TYPE_CGROUP', 3],
  ['BPF_LINK_TYPE_NETNS', 5],
];

test('the offsets and numbers used through FFI are those of the C headers', () => {
  const source = [
    '#define _GNU_SOURCE',
    '#include <stddef.h>',
    '#include <netinet/in.h>',
    '#include <sys/socket.h>',
    '#include <bpf/bpf.h>',
    '#include <bpf/libbpf.h>',
    ...LAYOUT.map(([expression, value]) => `_Static_assert(${expression} == ${value}u, "${expression}");`),
  ].join('\n');
  const compiler = spawnSync('clang-19', ['-xc', '-fsyntax-only', '-'], { input: source, encoding: 'utf8' });
  assert.equal(compiler.status, 0, compiler.stderr || String(compiler.error));
});
