/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The maps that all kernel programs share; pinned under <bpf directory>/v1. */
#ifndef WEFT_MAPS_H
#define WEFT_MAPS_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "weft.h"

#define WEFT_MAX_WORKLOADS 4096
#define WEFT_MAX_WORKERS 64 /* as --workers */
#define WEFT_MAX_LISTENERS 65536
#define WEFT_MAX_CONNECTIONS 262144

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, WEFT_MAX_WORKLOADS);
  __type(key, __u32);
  __type(value, struct weft_workload);
} weft_workloads SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, WEFT_REASON_COUNT);
  __type(key, __u32);
  __type(value, __u64);
} weft_counters SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 256 * 1024);
} weft_events SEC(".maps");

static __always_inline void count(enum weft_reason reason)
{
  __u32 index = reason;
  __u64 *value = bpf_map_lookup_elem(&weft_counters, &index);
  if (value)
    *value += 1;
}

#endif
