// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Outbound capture, and honest addresses. Attached to the root cgroup of the node:
 *   cgroup/connect4, connect6      hand an enrolled workload's connection to the agent's listener in the same network namespace
 *   cgroup/bind4, bind6            keep the ports of the agent's listeners for the agent
 *   sockops                        publish what connect recorded once the local port is known, and take it back at close
 *   cgroup/getpeername4, 6         the peer that the application dialled, or the client that dialled the application
 *   cgroup/getsockname4, 6         the workload's own address in place of the loopback address of a captured socket
 */
#include "maps.bpf.h"
#include <bpf/bpf_core_read.h>

#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define IPPROTO_MPTCP 262
#define SOL_SOCKET 1
#define SO_BINDTODEVICE 25
#define TCP_CLOSE 7
#define LOOPBACK_IFINDEX 1
#define ALLOW 1
#define REFUSE 0 /* connect() fails with EPERM */
/* One workload may hold this part of weft_original_destinations, so that it cannot keep the others from connecting. */
#define SHARE_OF_CONNECTIONS 8
/* Deepest cgroup that a host workload may live in, counted from the root. */
#define MAX_CGROUP_LEVEL 12

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, WEFT_MAX_WORKLOADS);
  __type(key, __u64); /* network namespace cookie */
  __type(value, __u32);
} weft_enrolled_netns SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, WEFT_MAX_WORKLOADS);
  __type(key, __u64); /* cgroup id */
  __type(value, __u32);
} weft_enrolled_cgroups SEC(".maps");

/* One entry: how many cgroups are enrolled, so that hosts without any pay nothing. */
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, __u32);
} weft_cgroup_count SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_SK_STORAGE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, int);
  __type(value, struct weft_own);
} weft_own_sockets SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_SK_STORAGE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, int);
  __type(value, struct weft_socket);
} weft_socket_state SEC(".maps");

/* Plain hashes, never LRU: eviction would silently lose where a live connection wanted to go. */
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, WEFT_MAX_CONNECTIONS);
  __type(key, struct weft_endpoint);
  __type(value, struct weft_original);
} weft_original_destinations SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, WEFT_MAX_CONNECTIONS);
  __type(key, struct weft_endpoint);
  __type(value, struct weft_peer);
} weft_presented_peers SEC(".maps");

/*
 * How many entries of weft_original_destinations each workload has. Signed, so that no race makes a small number a huge one. An entry is
 * made with the first connection. It goes with the workload, or with the last connection if that comes later: room for both.
 */
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, 2 * WEFT_MAX_WORKLOADS);
  __type(key, __u32); /* workload id */
  __type(value, __s64);
} weft_connection_counts SEC(".maps");

/*
 * The parts of kernel structs that are read, relocated to the running kernel's layout when the program is loaded (CO-RE).
 */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct bpf_map {
  __u32 max_entries;
};
struct ip_options {
  unsigned char srr;
};
struct ip_options_rcu {
  struct ip_options opt;
};
struct ipv6_txoptions {
  void *srcrt;
};
struct ipv6_pinfo {
  struct ipv6_txoptions *opt;
};
struct inet_sock {
  struct ipv6_pinfo *pinet6;
  struct ip_options_rcu *inet_opt;
};
#pragma clang attribute pop

enum published { PUBLISHED_NOTHING = 0, PUBLISHED_DESTINATION = 1, PUBLISHED_PEER = 2 };

static __always_inline void map_ipv4(__u8 *address, __u32 ip)
{
  __builtin_memset(address, 0, 10);
  address[10] = 0xff;
  address[11] = 0xff;
  __builtin_memcpy(address + 12, &ip, 4);
}

static __always_inline bool is_ipv4(const __u8 *address)
{
  const __u32 *words = (const __u32 *)address;
  return words[0] == 0 && words[1] == 0 && words[2] == bpf_htonl(0xffff);
}

static __always_inline bool is_zero(const __u8 *address)
{
  const __u64 *words = (const __u64 *)address;
  return words[0] == 0 && words[1] == 0;
}

/* 127.0.0.0/8, ::1, and the unspecified addresses, which Linux connects to the same host. */
static __always_inline bool is_loopback(const __u8 *address)
{
  const __u32 *words = (const __u32 *)address;
  if (is_ipv4(address))
    return address[12] == 127 || words[3] == 0;
  return words[0] == 0 && words[1] == 0 && words[2] == 0 && (words[3] == bpf_htonl(1) || words[3] == 0);
}

static __always_inline bool same_address(const __u8 *a, const __u8 *b)
{
  const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;
  return x[0] == y[0] && x[1] == y[1];
}

/* The workload that the calling process belongs to by cgroup: the deepest enrolled ancestor wins. */
static __noinline __u32 workload_of_cgroup(void)
{
  __u32 zero = 0;
  __u32 *enrolled = bpf_map_lookup_elem(&weft_cgroup_count, &zero);
  if (!enrolled || *enrolled == 0)
    return 0;
  __u32 found = 0;
  for (int level = 1; level <= MAX_CGROUP_LEVEL; level++) {
    __u64 cgroup = bpf_get_current_ancestor_cgroup_id(level);
    if (!cgroup)
      break;
    __u32 *id = bpf_map_lookup_elem(&weft_enrolled_cgroups, &cgroup);
    if (id)
      found = *id;
  }
  return found;
}

static __always_inline void report(enum weft_reason reason, __u32 workload_id, const __u8 *address, __u32 port)
{
  count(reason);
  struct weft_event *event = bpf_ringbuf_reserve(&weft_events, sizeof(*event), 0);
  if (!event) {
    count(WEFT_EVENT_LOST);
    return;
  }
  event->time = bpf_ktime_get_ns();
  event->reason = reason;
  event->workload_id = workload_id;
  __builtin_memcpy(event->address, address, 16);
  event->port = port;
  event->pid = bpf_get_current_pid_tgid() >> 32;
  bpf_get_current_comm(event->command, sizeof(event->command));
  bpf_ringbuf_submit(event, 0);
}

/* True if the agent's own listener waits on the loopback address of this network namespace: a stranger on its port does not count. */
static __always_inline bool listener_waits(struct bpf_sock_addr *ctx, __u16 port, bool ipv4)
{
  struct bpf_sock_tuple tuple = {};
  struct bpf_sock *sk;
  if (ipv4) {
    tuple.ipv4.daddr = bpf_htonl(0x7f000001);
    tuple.ipv4.saddr = bpf_htonl(0x7f000001);
    tuple.ipv4.dport = bpf_htons(port);
    sk = bpf_sk_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
  } else {
    tuple.ipv6.daddr[3] = bpf_htonl(1);
    tuple.ipv6.saddr[3] = bpf_htonl(1);
    tuple.ipv6.dport = bpf_htons(port);
    sk = bpf_sk_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
  }
  if (!sk)
    return false;
  struct weft_own *own = bpf_sk_storage_get(&weft_own_sockets, sk, 0, 0);
  bool waits = own && own->kind == WEFT_OWN_LISTENER;
  bpf_sk_release(sk);
  return waits;
}

/*
 * True if the socket's packets visit other hosts before they go where connect() says: a loose or strict source route (IP_OPTIONS), or a
 * routing header (IPV6_RTHDR), which any process may set. They would leave the pod even for a loopback address. A tcp_sock begins with
 * its inet_sock.
 */
static __always_inline bool is_source_routed(struct bpf_sock *sk)
{
  struct inet_sock *inet = (struct inet_sock *)bpf_skc_to_tcp_sock(sk);
  if (!inet)
    return false;
  struct ip_options_rcu *options = BPF_CORE_READ(inet, inet_opt);
  if (options && BPF_CORE_READ(options, opt.srr))
    return true;
  struct ipv6_pinfo *ipv6 = sk->family == AF_INET6 ? BPF_CORE_READ(inet, pinet6) : 0;
  struct ipv6_txoptions *sent = ipv6 ? BPF_CORE_READ(ipv6, opt) : 0;
  return sent && BPF_CORE_READ(sent, srcrt);
}

static __always_inline bool is_agent_port(const struct weft_workload *workload, __u32 port)
{
  return port && (port == workload->outbound_port || port == workload->inbound_port || port == workload->tunnel_port);
}

/* The workload that a socket belongs to, or 0: by its network namespace, or else by the calling process's cgroup. */
static __always_inline __u32 workload_of(struct bpf_sock_addr *ctx)
{
  __u64 netns = bpf_get_netns_cookie(ctx);
  __u32 *by_netns = bpf_map_lookup_elem(&weft_enrolled_netns, &netns);
  return by_netns ? *by_netns : workload_of_cgroup();
}

/* True if a workload with this count (null: none yet) may not have more connections. Of the map as it was made, whoever made it. */
static __always_inline bool has_its_share(const __s64 *connections)
{
  __s64 share = ((struct bpf_map *)&weft_original_destinations)->max_entries / SHARE_OF_CONNECTIONS;
  return connections && *connections >= (share ? share : 1);
}

enum verdict { VERDICT_PASS, VERDICT_REFUSE, VERDICT_CAPTURE };

/*
 * Decides about one connect(). On VERDICT_CAPTURE the destination is recorded on the socket and *listener is the port to go to.
 * Everything that cannot be decided is refused or passed by the workload's mode, never by accident.
 */
static __always_inline enum verdict decide(struct bpf_sock_addr *ctx, const __u8 *address, __u32 port, __u16 *listener)
{
  struct bpf_sock *sk = ctx->sk;
  if (!sk)
    return VERDICT_PASS;
  if (bpf_sk_storage_get(&weft_own_sockets, sk, 0, 0)) {
    count(WEFT_PASSED_OWN);
    return VERDICT_PASS;
  }
  __u32 id = workload_of(ctx);
  if (!id)
    return VERDICT_PASS;
  struct weft_workload *workload = bpf_map_lookup_elem(&weft_workloads, &id);
  if (!workload) {
    /* Enrolled, but its mode is not known: whoever lost the record, nothing may leave unseen. */
    report(WEFT_REFUSED_NO_LISTENER, id, address, port);
    return VERDICT_REFUSE;
  }

  bool strict = workload->mode == WEFT_MODE_STRICT;
  bool loopback = is_loopback(address);
  bool own_address = same_address(address, workload->address4) || same_address(address, workload->address6);
  if (is_agent_port(workload, port) && (loopback || own_address)) {
    report(WEFT_REFUSED_AGENT_PORT, id, address, port);
    return VERDICT_REFUSE;
  }
  /* A socket may be used again after connect(AF_UNSPEC): what was recorded for its last connection is void. */
  bpf_sk_storage_delete(&weft_socket_state, sk);
  if (strict && is_source_routed(sk)) {
    report(WEFT_REFUSED_SOURCE_ROUTE, id, address, port);
    return VERDICT_REFUSE;
  }
  bool on_device = sk->bound_dev_if && sk->bound_dev_if != LOOPBACK_IFINDEX;
  if (loopback) {
    if (strict && on_device) {
      /* Linux sends this out of the device, to a host that may well take it for its own. */
      report(WEFT_REFUSED_DEVICE, id, address, port);
      return VERDICT_REFUSE;
    }
    count(WEFT_PASSED_LOOPBACK);
    return VERDICT_PASS;
  }
  bool ipv4 = is_ipv4(address);
  if (!workload->outbound_port || !listener_waits(ctx, workload->outbound_port, ipv4)) {
    if (strict) {
      report(WEFT_REFUSED_NO_LISTENER, id, address, port);
      return VERDICT_REFUSE;
    }
    count(WEFT_PASSED_NO_LISTENER);
    return VERDICT_PASS;
  }
  /* In both modes, as when the map is full: what cannot be carried does not pass either. */
  if (has_its_share(bpf_map_lookup_elem(&weft_connection_counts, &id))) {
    report(WEFT_REFUSED_TOO_MANY, id, address, port);
    return VERDICT_REFUSE;
  }
  if (on_device) {
    /* The leg runs over lo, which a socket bound to another device cannot reach. The real device is chosen by the proxy's own dial. */
    char none[1] = {0};
    if (bpf_setsockopt(ctx, SOL_SOCKET, SO_BINDTODEVICE, none, sizeof(none))) {
      report(WEFT_REFUSED_DEVICE, id, address, port);
      return VERDICT_REFUSE;
    }
  }
  struct weft_socket *state = bpf_sk_storage_get(&weft_socket_state, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
  if (!state) {
    report(WEFT_REFUSED_NO_MEMORY, id, address, port);
    return VERDICT_REFUSE;
  }
  __builtin_memcpy(state->peer_address, address, 16);
  state->peer_port = port;
  state->workload_id = id;
  __builtin_memcpy(state->local_address, ipv4 ? workload->address4 : workload->address6, 16);
  state->published = PUBLISHED_NOTHING;
  *listener = workload->outbound_port;
  count(WEFT_CAPTURED_OUTBOUND);
  return VERDICT_CAPTURE;
}

SEC("cgroup/connect4")
int weft_connect4(struct bpf_sock_addr *ctx)
{
  if (ctx->protocol != IPPROTO_TCP)
    return ALLOW;
  __u8 address[16] __attribute__((aligned(8)));
  __u16 listener = 0;
  map_ipv4(address, ctx->user_ip4);
  switch (decide(ctx, address, bpf_ntohs((__u16)ctx->user_port), &listener)) {
  case VERDICT_PASS:
    return ALLOW;
  case VERDICT_REFUSE:
    return REFUSE;
  case VERDICT_CAPTURE:
    break;
  }
  ctx->user_ip4 = bpf_htonl(0x7f000001);
  ctx->user_port = bpf_htons(listener);
  return ALLOW;
}

SEC("cgroup/connect6")
int weft_connect6(struct bpf_sock_addr *ctx)
{
  if (ctx->protocol != IPPROTO_TCP)
    return ALLOW;
  __u32 words[4] __attribute__((aligned(8)));
  __u16 listener = 0;
  words[0] = ctx->user_ip6[0];
  words[1] = ctx->user_ip6[1];
  words[2] = ctx->user_ip6[2];
  words[3] = ctx->user_ip6[3];
  switch (decide(ctx, (__u8 *)words, bpf_ntohs((__u16)ctx->user_port), &listener)) {
  case VERDICT_PASS:
    return ALLOW;
  case VERDICT_REFUSE:
    return REFUSE;
  case VERDICT_CAPTURE:
    break;
  }
  if (is_ipv4((__u8 *)words)) {
    ctx->user_ip6[3] = bpf_htonl(0x7f000001);
  } else {
    ctx->user_ip6[0] = 0;
    ctx->user_ip6[1] = 0;
    ctx->user_ip6[2] = 0;
    ctx->user_ip6[3] = bpf_htonl(1);
  }
  ctx->user_port = bpf_htons(listener);
  return ALLOW;
}

/*
 * The agent's listeners share their ports among its workers (SO_REUSEPORT), and a process of the agent's user could join them; or it could
 * take a port while the agent is away. Either way connections would come to it that are the agent's to judge.
 */
static __always_inline int decide_bind(struct bpf_sock_addr *ctx, const __u8 *address)
{
  struct bpf_sock *sk = ctx->sk;
  if (ctx->protocol != IPPROTO_TCP || !sk || !ctx->user_port)
    return ALLOW;
  __u32 id = workload_of(ctx);
  if (!id)
    return ALLOW;
  struct weft_workload *workload = bpf_map_lookup_elem(&weft_workloads, &id);
  __u32 port = bpf_ntohs((__u16)ctx->user_port);
  if (!workload || !is_agent_port(workload, port) || bpf_sk_storage_get(&weft_own_sockets, sk, 0, 0))
    return ALLOW;
  report(WEFT_REFUSED_AGENT_PORT, id, address, port);
  return REFUSE;
}

SEC("cgroup/bind4")
int weft_bind4(struct bpf_sock_addr *ctx)
{
  __u8 address[16] __attribute__((aligned(8)));
  map_ipv4(address, ctx->user_ip4);
  return decide_bind(ctx, address);
}

SEC("cgroup/bind6")
int weft_bind6(struct bpf_sock_addr *ctx)
{
  __u32 words[4] __attribute__((aligned(8)));
  words[0] = ctx->user_ip6[0];
  words[1] = ctx->user_ip6[1];
  words[2] = ctx->user_ip6[2];
  words[3] = ctx->user_ip6[3];
  return decide_bind(ctx, (__u8 *)words);
}

static __always_inline void local_endpoint(struct bpf_sock_ops *ctx, struct weft_endpoint *key)
{
  key->netns = bpf_get_netns_cookie(ctx);
  key->reserved = 0;
  key->port = ctx->local_port;
  if (ctx->family == AF_INET) {
    map_ipv4(key->address, ctx->local_ip4);
  } else {
    __u32 *words = (__u32 *)key->address;
    words[0] = ctx->local_ip6[0];
    words[1] = ctx->local_ip6[1];
    words[2] = ctx->local_ip6[2];
    words[3] = ctx->local_ip6[3];
  }
}

static __always_inline void remote_endpoint(struct bpf_sock_ops *ctx, struct weft_endpoint *key)
{
  key->netns = bpf_get_netns_cookie(ctx);
  key->reserved = 0;
  key->port = bpf_ntohl(ctx->remote_port);
  if (ctx->family == AF_INET) {
    map_ipv4(key->address, ctx->remote_ip4);
  } else {
    __u32 *words = (__u32 *)key->address;
    words[0] = ctx->remote_ip6[0];
    words[1] = ctx->remote_ip6[1];
    words[2] = ctx->remote_ip6[2];
    words[3] = ctx->remote_ip6[3];
  }
}

static __always_inline __s64 *connection_count(__u32 workload_id)
{
  __s64 *connections = bpf_map_lookup_elem(&weft_connection_counts, &workload_id);
  if (connections)
    return connections;
  __s64 none = 0;
  bpf_map_update_elem(&weft_connection_counts, &workload_id, &none, BPF_NOEXIST);
  return bpf_map_lookup_elem(&weft_connection_counts, &workload_id);
}

/* The last connection of a workload that is forgotten takes the count with it. KernelHooks.forgetWorkload looks in the opposite order. */
static __always_inline void count_closed(__u32 workload_id)
{
  __s64 *connections = bpf_map_lookup_elem(&weft_connection_counts, &workload_id);
  if (!connections)
    return;
  __sync_fetch_and_add(connections, -1);
  if (*(volatile __s64 *)connections <= 0 && !bpf_map_lookup_elem(&weft_workloads, &workload_id))
    bpf_map_delete_elem(&weft_connection_counts, &workload_id);
}

/*
 * The local end is known, and the SYN is not sent yet: publish. So it is there whenever the other end looks, also when its listener accepts
 * on the SYN alone (TCP Fast Open, which a workload may switch on for every listener in its namespace).
 */
static __always_inline void connecting(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
  struct weft_socket *state = bpf_sk_storage_get(&weft_socket_state, sk, 0, 0);
  struct weft_own *own = bpf_sk_storage_get(&weft_own_sockets, sk, 0, 0);
  if (own) {
    if (!own->presented_port)
      return;
    state = bpf_sk_storage_get(&weft_socket_state, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
    if (!state) {
      count(WEFT_MAP_FULL_PEERS);
      return;
    }
    struct weft_peer peer = {.port = own->presented_port};
    __builtin_memcpy(peer.address, own->presented_address, 16);
    local_endpoint(ctx, &state->key);
    if (bpf_map_update_elem(&weft_presented_peers, &state->key, &peer, BPF_ANY)) {
      count(WEFT_MAP_FULL_PEERS);
      return;
    }
    state->published = PUBLISHED_PEER;
  } else {
    if (!state || !state->peer_port || state->published)
      return;
    __u32 id = state->workload_id;
    __s64 *connections = connection_count(id);
    if (!connections) {
      count(WEFT_MAP_FULL_DESTINATIONS);
      return;
    }
    /* Again: between connect() and the SYN may be any time, and any number of sockets (TCP_FASTOPEN_CONNECT). The proxy resets it. */
    if (has_its_share(connections)) {
      count(WEFT_REFUSED_TOO_MANY);
      return;
    }
    struct weft_original original = {.port = state->peer_port, .workload_id = state->workload_id, .cookie = bpf_get_socket_cookie(ctx)};
    __builtin_memcpy(original.address, state->peer_address, 16);
    local_endpoint(ctx, &state->key);
    if (bpf_map_update_elem(&weft_original_destinations, &state->key, &original, BPF_ANY)) {
      count(WEFT_MAP_FULL_DESTINATIONS);
      return;
    }
    __sync_fetch_and_add(connections, 1);
    state->published = PUBLISHED_DESTINATION;
  }
  bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
}

/* An application accepted a leg of ours: keep the client's address on its socket, for as long as the application keeps the socket. */
static __always_inline void passive_established(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
  struct weft_endpoint key;
  remote_endpoint(ctx, &key);
  struct weft_peer *peer = bpf_map_lookup_elem(&weft_presented_peers, &key);
  if (!peer)
    return;
  struct weft_socket *state = bpf_sk_storage_get(&weft_socket_state, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
  if (!state) {
    count(WEFT_MAP_FULL_PEERS);
    return;
  }
  __builtin_memcpy(state->peer_address, peer->address, 16);
  state->peer_port = peer->port;
}

static __always_inline void closed(struct bpf_sock *sk)
{
  struct weft_socket *state = bpf_sk_storage_get(&weft_socket_state, sk, 0, 0);
  if (!state)
    return;
  if (state->published == PUBLISHED_DESTINATION) {
    bpf_map_delete_elem(&weft_original_destinations, &state->key);
    count_closed(state->workload_id);
  } else if (state->published == PUBLISHED_PEER)
    bpf_map_delete_elem(&weft_presented_peers, &state->key);
  state->published = PUBLISHED_NOTHING;
}

SEC("sockops")
int weft_sockops(struct bpf_sock_ops *ctx)
{
  if (ctx->family != AF_INET && ctx->family != AF_INET6)
    return 0;
  struct bpf_sock *sk = ctx->sk;
  if (!sk)
    return 0;
  switch (ctx->op) {
  case BPF_SOCK_OPS_TCP_CONNECT_CB:
    connecting(ctx, sk);
    break;
  case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
    passive_established(ctx, sk);
    break;
  case BPF_SOCK_OPS_STATE_CB:
    if (ctx->args[1] == TCP_CLOSE)
      closed(sk);
    break;
  }
  return 0;
}

/*
 * What the client of an MPTCP connection dialled. The application holds the MPTCP socket, but what was captured is its subflow, which has
 * the same local end.
 */
static __always_inline struct weft_original *mptcp_original(struct bpf_sock_addr *ctx, struct bpf_sock *sk)
{
  struct weft_endpoint key = {.netns = bpf_get_netns_cookie(ctx), .port = sk->src_port};
  if (ctx->family == AF_INET) {
    map_ipv4(key.address, sk->src_ip4);
  } else {
    __u32 *words = (__u32 *)key.address;
    words[0] = sk->src_ip6[0];
    words[1] = sk->src_ip6[1];
    words[2] = sk->src_ip6[2];
    words[3] = sk->src_ip6[3];
  }
  return bpf_map_lookup_elem(&weft_original_destinations, &key);
}

/* The peer that getpeername() and accept() shall name, if it is not the real one. */
static __always_inline bool presented_peer(struct bpf_sock_addr *ctx, struct weft_peer *peer)
{
  struct bpf_sock *sk = ctx->sk;
  if (!sk)
    return false;
  struct weft_socket *state = bpf_sk_storage_get(&weft_socket_state, sk, 0, 0);
  if (state) {
    __builtin_memcpy(peer->address, state->peer_address, 16);
    peer->port = state->peer_port;
    return peer->port != 0;
  }
  if (sk->protocol != IPPROTO_MPTCP)
    return false;
  struct weft_original *original = mptcp_original(ctx, sk);
  if (!original)
    return false;
  __builtin_memcpy(peer->address, original->address, 16);
  peer->port = original->port;
  return true;
}

SEC("cgroup/getpeername4")
int weft_getpeername4(struct bpf_sock_addr *ctx)
{
  struct weft_peer peer;
  if (!presented_peer(ctx, &peer) || !is_ipv4(peer.address))
    return ALLOW;
  ctx->user_ip4 = *(__u32 *)(peer.address + 12);
  ctx->user_port = bpf_htons(peer.port);
  return ALLOW;
}

SEC("cgroup/getpeername6")
int weft_getpeername6(struct bpf_sock_addr *ctx)
{
  struct weft_peer peer;
  if (!presented_peer(ctx, &peer))
    return ALLOW;
  __u32 *words = (__u32 *)peer.address;
  ctx->user_ip6[0] = words[0];
  ctx->user_ip6[1] = words[1];
  ctx->user_ip6[2] = words[2];
  ctx->user_ip6[3] = words[3];
  ctx->user_port = bpf_htons(peer.port);
  return ALLOW;
}

/*
 * True if an MPTCP socket was captured. Its subflow's record is gone once that is closed, but nobody else than a captured socket is
 * connected to the outbound listener.
 */
static __always_inline bool is_captured_mptcp(const struct bpf_sock *sk, const struct weft_workload *workload)
{
  if (bpf_ntohs(sk->dst_port) != workload->outbound_port)
    return false;
  if (sk->family == AF_INET)
    return sk->dst_ip4 == bpf_htonl(0x7f000001);
  __u32 words[4] __attribute__((aligned(8))) = {sk->dst_ip6[0], sk->dst_ip6[1], sk->dst_ip6[2], sk->dst_ip6[3]};
  return is_loopback((__u8 *)words);
}

/* The address that getsockname() shall name in place of the loopback address `now` that a captured socket really has. */
static __always_inline bool presented_local(struct bpf_sock_addr *ctx, const __u8 *now, __u8 *address)
{
  struct bpf_sock *sk = ctx->sk;
  /* Without a far port the socket is not connected (any more): what it is bound to is the truth. */
  if (!sk || !sk->dst_port)
    return false;
  struct weft_socket *state = bpf_sk_storage_get(&weft_socket_state, sk, 0, 0);
  if (state) {
    __builtin_memcpy(address, state->local_address, 16);
    return !is_zero(address);
  }
  if (sk->protocol != IPPROTO_MPTCP)
    return false;
  __u32 id = workload_of(ctx);
  if (!id)
    return false;
  struct weft_workload *workload = bpf_map_lookup_elem(&weft_workloads, &id);
  if (!workload || !is_captured_mptcp(sk, workload))
    return false;
  __builtin_memcpy(address, is_ipv4(now) ? workload->address4 : workload->address6, 16);
  return !is_zero(address);
}

SEC("cgroup/getsockname4")
int weft_getsockname4(struct bpf_sock_addr *ctx)
{
  __u8 now[16] __attribute__((aligned(8)));
  __u8 local[16] __attribute__((aligned(8)));
  map_ipv4(now, ctx->user_ip4);
  if (!is_loopback(now) || !presented_local(ctx, now, local) || !is_ipv4(local))
    return ALLOW;
  ctx->user_ip4 = *(__u32 *)(local + 12);
  return ALLOW;
}

SEC("cgroup/getsockname6")
int weft_getsockname6(struct bpf_sock_addr *ctx)
{
  __u32 now[4] __attribute__((aligned(8)));
  now[0] = ctx->user_ip6[0];
  now[1] = ctx->user_ip6[1];
  now[2] = ctx->user_ip6[2];
  now[3] = ctx->user_ip6[3];
  __u32 local[4] __attribute__((aligned(8)));
  if (!is_loopback((__u8 *)now) || !presented_local(ctx, (__u8 *)now, (__u8 *)local))
    return ALLOW;
  ctx->user_ip6[0] = local[0];
  ctx->user_ip6[1] = local[1];
  ctx->user_ip6[2] = local[2];
  ctx->user_ip6[3] = local[3];
  return ALLOW;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
