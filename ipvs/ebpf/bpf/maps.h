/* SPDX-License-Identifier: GPL-2.0 */
/* The balancer's maps: pinned by name in a directory that names their layout (layoutVersion in ../objects.go). */
#ifndef MESH_IPVS_MAPS_H
#define MESH_IPVS_MAPS_H

#include "../../../overlay/datapath/bpf/hook.h"

/* ---- what user space wants ---- */

struct service_key {
	__u32 vni;
	struct mesh_addr addr; /* of a published port, zero: any IPv4 address of the node; all ones: any IPv6 one */
	__be16 port;           /* zero: any port */
	__u8 proto;            /* zero: any */
	__u8 pad;
};

/*
 * A service's list of backends is replaced as a whole: the slots of the new
 * generation are written first, then this value, then the old ones go.
 */
struct service {
	__u32 id;
	__u32 generation;
	__u32 count;    /* of slots; zero: nobody takes new connections */
	__u32 affinity; /* seconds */
	__u8 algorithm;
	__u8 local; /* user space prefers backends of this node; told for its own sake. And SERVICE_RETURN */
	/* Also told for user space's sake: when backends are ejected, for how many seconds. */
	__u16 eject_after;
	__u32 eject_within;
	__u32 eject_first;
	__u32 eject_longest;
};

#define SERVICE_RETURN 4 /* of a published port: answers return directly where they can */

/* A published port that is not everywhere: 127.0.0.1 and ::1 stand for the node's own processes. */
#define LOOPBACK4 bpf_htonl(0x7f000001)
#define LOOPBACK6 ((struct mesh_addr){{0, 0, 0, bpf_htonl(1)}})

/* Keep in step with ../slots.go, which makes the slots that each of them needs. */
enum algorithm {
	RANDOM2 = 0,
	ROUND_ROBIN = 1,
	LEAST_CONN = 2,
	MAGLEV = 3,
};

struct slot_key {
	__u32 service;
	__u32 generation;
	__u32 index;
};

struct slot {
	struct mesh_addr addr;
	__be16 port; /* zero: keep the client's */
	__u16 weight;
};

/* Who may keep connections: every packet of one is checked against this. */
struct backend_key {
	__u32 service;
	struct mesh_addr addr;
	__be16 port;
	__u16 pad;
};

#define BACKEND_DRAINING 1
#define BACKEND_EJECTED 4
#define BACKEND_AWAY 8 /* draining, and what can move at once does */
#define BACKEND_OUT (BACKEND_DRAINING | BACKEND_EJECTED) /* gets no new connections */
#define BACKEND_HERE 2 /* on this node */
/* For user space alone: the weight is in the upper half. */

/* Ways to fail. A backend that accepts and resets has accepted: so they are counted apart. */
enum failure {
	NO_ANSWER = 0, /* refused, or was silent to a SYN that came again */
	CUT_SHORT = 1, /* accepted, and reset before it had sent anything */
	FAILURES,
};

struct streak {
	__u32 count; /* of failures without a success between */
	__u32 since; /* seconds since boot */
};

/* What a backend's failures come to. User space makes the entry; see ../../eject.go. */
struct health {
	__u32 limit;  /* a streak of so many is told; zero: none is */
	__u32 window; /* a streak is over after so many seconds */
	__u32 told;   /* when the last one was told */
	__u32 pad;
	struct streak streaks[FAILURES];
};

/* Who did last what another backend fails to do, by port: a port that nobody serves says nothing of one. */
struct worker_key {
	__u32 service;
	__be16 port;
	__u8 proto;
	__u8 failure;
};

struct worker {
	struct mesh_addr addr;
	__be16 port; /* as in backend_key */
	__u16 pad;
	__u32 seen; /* seconds since boot */
};

/* A backend that failed so often in a row while another one did not: for user space. */
struct suspect {
	struct backend_key backend;
	__u32 failure;
	__u32 count;
	__be16 port; /* the one that clients asked for */
	__u8 proto;
	__u8 pad[5];
};

struct affinity_key {
	__u32 service;
	struct mesh_addr client;
};

struct affinity {
	struct mesh_addr addr;
	__be16 port; /* as in backend_key */
	__u16 pad;
	__u32 seen; /* seconds since boot */
};

struct node {
	__u64 netns; /* cookie of the node's own network namespace */
	__u32 mesh_vni;
	__u32 addr4; /* where connections to 127.0.0.1 go; zero: nowhere */
	__u32 flags;
	__u32 limit; /* the longest packet that reaches other nodes; zero: any */
	struct mesh_addr addr6; /* where connections to ::1 go; zero: to addr4 */
};

#define NODE_SOCKETS 1 /* sockets of known containers are led to backends when they connect */
#define NODE_ADMIT 2   /* the host's packet filter is asked about new connections to published ports */
#define NODE_CARRYING 4 /* some connections are in other maps still: carry.h */

/*
 * What is on its way through the packet filter bears this and the device that it came
 * in on as its priority; see ask() and overlay/nft/admit.go.
 */
#define ADMIT 0x4d000000
#define ADMIT_MASK 0xff000000

/* An address of a container of this node, which names it: the overlay lets nobody else send with it. */
struct client_key {
	__u32 vni;
	struct mesh_addr addr;
};

#define CLIENT_NETWORKS 16

/* The networks on which a container sees VIPs, each with its own address there. */
struct client {
	__u32 count;
	struct client_key networks[CLIENT_NETWORKS];
};

#define PORT_WORDS 1024 /* 65536 bits */

/* ---- what the programs remember ---- */

enum direction {
	FORWARD = 0, /* as the client sends */
	REVERSE = 1, /* as the backend answers */
	ENTERED = 2, /* as another node sends what it chose us for; see struct entered_key */
};

struct flow_key {
	struct mesh_addr src;
	struct mesh_addr dst;
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 direction;
	__u16 pad;
	__u32 vni;
};

#define FLOW_INGRESS 1        /* came to a published port */
#define FLOW_FROM_LO 2        /* of a process of this node */
#define FLOW_FROM_CONTAINER 4 /* of a container of this node */
#define FLOW_CLOSING 8        /* FIN or RST was seen: its ports may be taken */
#define FLOW_ACCEPTED 16      /* the backend has answered */
#define FLOW_SERVED 32        /* ... and has sent something */
#define FLOW_LATE 64          /* it had not when the SYN came again */
#define FLOW_RESET 128        /* RST was seen: nobody keeps its ports for a while */
#define FLOW_RETURN 256       /* answers need not come by the node where it entered */

/* What the packet's addresses become. */
struct flow {
	struct mesh_addr src;
	struct mesh_addr dst;
	/* The node where it entered and where the answer becomes what the client expects; zero: this one. */
	struct mesh_addr entry;
	__be16 sport;
	__be16 dport;
	__be16 backend_port; /* as in backend_key; where entry is set, the published port if FLOW_RETURN */
	__u16 flags;
	__u32 ifindex; /* where it entered */
	__u32 service; /* zero: none, only a source port is changed */
	__u32 seen;    /* seconds since boot */
};

struct entered_key {
	struct flow_key flow;
	struct mesh_addr entry;
};

struct fragment_key {
	__u32 vni;
	struct mesh_addr src;
	struct mesh_addr dst;
	__u32 id;
	__u8 proto;
	__u8 pad[3];
};

struct ports {
	__be16 source;
	__be16 dest;
};

/*
 * What a socket asked for and what it got: FORWARD is found by what it asks for,
 * REVERSE by what it got.
 */
struct socket_key {
	__u64 socket; /* cookie */
	struct mesh_addr addr;
	__be16 port;
	__u8 proto;
	__u8 direction;
	__u32 pad;
};

struct socket_peer {
	struct mesh_addr addr;
	__be16 port;
	__be16 backend_port; /* as in backend_key */
	__u32 service;
	__u32 vni;
};

/* Of a backend, once it got a connection; with a key that names only the service, of its former backends. */
struct counters {
	__u64 connections;
	__u64 packets; /* of clients */
	__u64 bytes;   /* IP packets with their headers */
	__u64 answer_packets;
	__u64 answer_bytes;
	__u64 refusals; /* RST to a SYN, ICMP unreachable */
	__u64 timeouts; /* SYNs that came again, once a connection */
	__u64 resets;   /* of connections that nobody had begun to close */
};

struct refusal_key {
	__u32 service;
	__u32 reason;
};

/* Keep in step with ../stats.go. */
enum drop_reason {
	DROP_NO_BACKEND = 0, /* refused: nobody serves */
	DROP_BACKEND_GONE,   /* reset: the connection's backend is no more */
	DROP_FRAGMENT,       /* a fragment whose first one was not seen */
	DROP_PROTOCOL,       /* to a VIP, neither TCP, UDP nor echo */
	DROP_REWRITE,        /* the packet could not be changed */
	DROP_NO_FORWARD,     /* the overlay is not there */
	DROP_TOO_BIG,        /* to a published port, too long for the way to other nodes: the client is told */
	DROP_REASONS,
};

#define PINNED __uint(pinning, LIBBPF_PIN_BY_NAME)

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct service_key);
	__type(value, struct service);
	PINNED;
} services SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 20);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct slot_key);
	__type(value, struct slot);
	PINNED;
} slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 20);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct backend_key);
	__type(value, __u32);
	PINNED;
} backends SEC(".maps");

/* TCP connections by backend; user space counts them again now and then. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 20);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct backend_key);
	__type(value, __s32);
	PINNED;
} loads SEC(".maps");

/* Round-robin: whose turn it is, by service. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u32);
	PINNED;
} turns SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct affinity_key);
	__type(value, struct affinity);
	PINNED;
} affinities SEC(".maps");

/* The value: one of these, or less. */
#define NODE_ADDR_TUNNEL 2 /* other nodes know this one by it */
#define NODE_ADDR_MESH 3   /* on the mesh network: answers what was led there from 127.0.0.1, and nobody else */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct mesh_addr);
	__type(value, __u32);
	PINNED;
} node_addrs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct node);
	PINNED;
} node SEC(".maps");

/* Published ports, a bit each: PORT_WORDS for TCP, then as many for UDP. The first thing looked at. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2 * PORT_WORDS);
	__type(key, __u32);
	__type(value, __u64);
	PINNED;
} published SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 131072);
	__type(key, struct flow_key);
	__type(value, struct flow);
	PINNED;
} flows SEC(".maps");

/* Source ports that were changed because two nodes sent the same client to the same backend. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct entered_key);
	__type(value, __be16);
	PINNED;
} entered SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct fragment_key);
	__type(value, struct ports);
	PINNED;
} fragments SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct client_key);
	__type(value, struct client);
	PINNED;
} clients SEC(".maps");

/* Network namespaces, by cookie, whose container is known. Cookies are never used again. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct client_key);
	PINNED;
} known SEC(".maps");

/* Sockets, by cookie, of namespaces that are not known yet. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, __u64);
	__type(value, __u64);
	PINNED;
} strangers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 32768);
	__type(key, struct socket_key);
	__type(value, struct socket_peer);
	PINNED;
} sockets SEC(".maps");

/* Memory per CPU cannot be had at once when a packet comes: so these two have it from the beginning, for those in use. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_PERCPU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct backend_key);
	__type(value, struct counters);
	PINNED;
} counters SEC(".maps");

/* What was refused or dropped of a service, by reason: see enum drop_reason. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_PERCPU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct refusal_key);
	__type(value, __u64);
	PINNED;
} refusals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 20);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct backend_key);
	__type(value, struct health);
	PINNED;
} health SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct worker_key);
	__type(value, struct worker);
	PINNED;
} workers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DROP_REASONS);
	__type(key, __u32);
	__type(value, __u64);
	PINNED;
} drops SEC(".maps");

static __always_inline struct mesh_addr v4_mapped(__be32 addr)
{
	struct mesh_addr a = {{0, 0, MESH_V4_PREFIX, addr}};

	return a;
}

static __always_inline int is_zero(const struct mesh_addr *a)
{
	return (a->w[0] | a->w[1] | a->w[2] | a->w[3]) == 0;
}

static __always_inline int same_addr(const struct mesh_addr *a, const struct mesh_addr *b)
{
	return a->w[0] == b->w[0] && a->w[1] == b->w[1] && a->w[2] == b->w[2] && a->w[3] == b->w[3];
}

static __always_inline int is_published(__be16 port, __u8 proto)
{
	__u32 at = (bpf_ntohs(port) >> 6) + (proto == IPPROTO_UDP ? PORT_WORDS : 0);
	__u64 *word = bpf_map_lookup_elem(&published, &at);

	return word && (*word >> (bpf_ntohs(port) & 63)) & 1;
}

static __always_inline __u32 now(void)
{
	return bpf_ktime_get_ns() / 1000000000;
}

static __always_inline struct node *this_node(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&node, &zero);
}

#endif
