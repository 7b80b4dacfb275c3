// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Inbound capture: one program per network namespace, attached there. It picks the agent's listener for every connection that arrives
 * from outside. The accepted socket keeps the local address that the client dialled: no address translation, no packet rules.
 */
#include "maps.bpf.h"

#define IPPROTO_TCP 6
#define AF_INET 2
#define LOOPBACK_IFINDEX 1

/* The workload of the namespace that this copy is attached to. */
const volatile __u32 workload_id = 0;

struct {
  __uint(type, BPF_MAP_TYPE_SOCKHASH);
  __uint(max_entries, WEFT_MAX_LISTENERS);
  __type(key, struct weft_listener);
  __type(value, __u64);
} weft_inbound_listeners SEC(".maps");

/*
 * A listener of the workload, to be released: that of the first worker that has one. The kernel drops a listener that closes from the
 * map, so the others take over at once from a worker that dies.
 */
static __always_inline struct bpf_sock *any_listener(__u32 id)
{
  for (__u32 worker = 0; worker < WEFT_MAX_WORKERS; worker++) {
    struct weft_listener key = {.workload_id = id, .worker = worker};
    struct bpf_sock *listener = bpf_map_lookup_elem(&weft_inbound_listeners, &key);
    if (listener)
      return listener;
  }
  return 0;
}

/*
 * True for a connection from within the namespace. One to a loopback address arrives on lo; one to the pod's own address is said to
 * arrive on the interface of that address, but comes from the very address it goes to. From outside that cannot be: the kernel drops such
 * IPv4 packets as martian, and the answer to an IPv6 one never leaves.
 */
static __always_inline bool from_within(struct bpf_sk_lookup *ctx)
{
  if (ctx->ingress_ifindex == LOOPBACK_IFINDEX)
    return true;
  if (ctx->family == AF_INET)
    return ctx->remote_ip4 == ctx->local_ip4;
  return ctx->remote_ip6[0] == ctx->local_ip6[0] && ctx->remote_ip6[1] == ctx->local_ip6[1] && ctx->remote_ip6[2] == ctx->local_ip6[2] &&
         ctx->remote_ip6[3] == ctx->local_ip6[3];
}

SEC("sk_lookup")
int weft_inbound(struct bpf_sk_lookup *ctx)
{
  if (ctx->protocol != IPPROTO_TCP || from_within(ctx))
    return SK_PASS;
  __u32 id = workload_id;
  struct weft_workload *workload = bpf_map_lookup_elem(&weft_workloads, &id);
  if (!workload)
    return SK_PASS;
  if (workload->tunnel_port && ctx->local_port == workload->tunnel_port) {
    count(WEFT_PASSED_TUNNEL);
    return SK_PASS;
  }
  bool strict = workload->mode == WEFT_MODE_STRICT;
  struct bpf_sock *listener = any_listener(id);
  if (!listener) {
    /* SK_DROP ends the search without a socket: the client gets a reset. */
    count(strict ? WEFT_REFUSED_NO_LISTENER : WEFT_PASSED_NO_LISTENER);
    return strict ? SK_DROP : SK_PASS;
  }
  long error = bpf_sk_assign(ctx, listener, 0);
  bpf_sk_release(listener);
  if (error) {
    count(strict ? WEFT_ASSIGN_FAILED_REFUSED : WEFT_ASSIGN_FAILED_PASSED);
    return strict ? SK_DROP : SK_PASS;
  }
  count(WEFT_CAPTURED_INBOUND);
  return SK_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
