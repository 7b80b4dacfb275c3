/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The contract between the kernel programs and user space: every map key, map value and event, and the reasons that both sides count.
 * src/model/kernel-reasons.ts and bpf/contract.ts repeat it for TypeScript; test/unit/bpf/contract.test.ts holds them together.
 *
 * Addresses are 16 bytes in network order; IPv4 is IPv4-mapped (::ffff:a.b.c.d). Ports are in host order.
 */
#ifndef WEFT_H
#define WEFT_H

#include <linux/types.h>

/* Why the kernel passed, captured or refused a connection. Counted per CPU in the map weft_counters under this index. */
enum weft_reason {
  WEFT_CAPTURED_OUTBOUND = 0,      /* connect() was handed to the outbound listener */
  WEFT_CAPTURED_INBOUND = 1,       /* an arriving connection was handed to the inbound listener */
  WEFT_PASSED_OWN = 2,             /* one of the agent's own sockets */
  WEFT_PASSED_LOOPBACK = 3,        /* within the pod or host */
  WEFT_PASSED_NO_LISTENER = 4,     /* permissive, and the agent is away */
  WEFT_REFUSED_NO_LISTENER = 5,    /* strict, and the agent is away; or enrolled without a record */
  WEFT_REFUSED_AGENT_PORT = 6,     /* a workload dialled the agent's own listener, or tried to bind to its port */
  WEFT_REFUSED_NO_MEMORY = 7,      /* the original destination could not be recorded */
  WEFT_REFUSED_DEVICE = 8,         /* bound to a device: the binding could not be lifted, or leads a loopback address out of the pod */
  WEFT_MAP_FULL_DESTINATIONS = 9,  /* original destination not published: the proxy will drop the connection */
  WEFT_MAP_FULL_PEERS = 10,        /* client address not published: the application sees the proxy's address */
  WEFT_PASSED_TUNNEL = 11,         /* an arriving HBONE connection, which has its own listener */
  WEFT_EVENT_LOST = 12,            /* the event ring was full */
  WEFT_ASSIGN_FAILED_REFUSED = 13, /* inbound listener could not take the connection; strict */
  WEFT_ASSIGN_FAILED_PASSED = 14,  /* the same; permissive */
  WEFT_REFUSED_SOURCE_ROUTE = 15,  /* the socket's packets would go elsewhere first (IP_OPTIONS, IPV6_RTHDR) */
  WEFT_REFUSED_TOO_MANY = 16,      /* the workload holds its share of weft_original_destinations */
  WEFT_REASON_COUNT = 17,
};

enum weft_mode {
  WEFT_MODE_PERMISSIVE = 1,
  WEFT_MODE_STRICT = 2,
};

/* weft_workloads: workload id -> what the hooks must know of it. */
struct weft_workload {
  __u32 id;
  __u8 mode;
  __u8 reserved[3];
  __u16 outbound_port; /* listener on 127.0.0.1 and ::1; 0 when there is none */
  __u16 inbound_port;  /* listener that weft_inbound_listeners points to */
  __u16 tunnel_port;   /* 15008, or 0 when an application holds it */
  __u16 reserved2;
  __u8 address4[16]; /* shown by getsockname() on captured sockets; zero when unknown */
  __u8 address6[16];
};

/* Key of weft_inbound_listeners. */
struct weft_listener {
  __u32 workload_id;
  __u32 worker; /* below WEFT_MAX_WORKERS */
};

/* Key of one end of a TCP connection: weft_original_destinations, weft_presented_peers. */
struct weft_endpoint {
  __u64 netns; /* bpf_get_netns_cookie */
  __u8 address[16];
  __u32 port;
  __u32 reserved;
};

/* weft_original_destinations: the client's end -> where it wanted to go. */
struct weft_original {
  __u8 address[16];
  __u32 port;
  __u32 workload_id;
  __u64 cookie; /* socket cookie of the client's socket */
};

/* weft_presented_peers: the agent's end of a leg to an application -> the client address the application shall see. */
struct weft_peer {
  __u8 address[16];
  __u32 port;
  __u32 reserved;
};

enum weft_own_kind {
  WEFT_OWN_LISTENER = 1,
  WEFT_OWN_UPSTREAM = 2,
};

/* weft_own_sockets: socket storage that only the agent can write: this socket is the agent's. */
struct weft_own {
  __u32 kind;
  __u32 presented_port; /* 0: present nothing */
  __u8 presented_address[16];
};

/* weft_socket_state: socket storage of captured and presented sockets. */
struct weft_socket {
  struct weft_endpoint key;      /* what to delete when the socket closes */
  __u8 peer_address[16];         /* what getpeername() says */
  __u32 peer_port;               /* 0: the truth */
  __u32 workload_id;
  __u8 local_address[16];        /* what getsockname() says in place of a loopback address; zero: the truth */
  __u32 published;               /* 1: key is in weft_original_destinations; 2: in weft_presented_peers */
  __u32 reserved;
};

/* weft_events: something the operator should see. */
struct weft_event {
  __u64 time; /* CLOCK_MONOTONIC, ns */
  __u32 reason;
  __u32 workload_id;
  __u8 address[16];
  __u32 port;
  __u32 pid;
  char command[16];
};

#endif
