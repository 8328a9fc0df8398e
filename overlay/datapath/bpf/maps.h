/* SPDX-License-Identifier: GPL-2.0 */
/* The overlay's maps: written by meshd, read by the programs, pinned by name. */
#ifndef MESH_MAPS_H
#define MESH_MAPS_H

#include "hook.h"

/* An interface of a container on this node, by the ifindex of its host side. */
#define IFACE_MESH 1

struct iface {
	__u32 vni;
	__u32 flags;
	struct mesh_addr addr4; /* zero: none */
	struct mesh_addr addr6;
	__u8 mac[6];
	__u8 pad[2];
};

/* Whose address is it? Exactly one of ifindex, node and ENDPOINT_HOST is set. */
#define ENDPOINT_HOST 1 /* an address of this node: the gateway of the mesh network */
#define ENDPOINT_TUNNEL 2 /* elsewhere, and never reached but through the tunnel */
#define ENDPOINT_ENCRYPTED 4 /* elsewhere, and never reached but through WireGuard */

struct endpoint_key {
	__u32 vni;
	struct mesh_addr addr;
};

struct endpoint {
	__u32 ifindex; /* a container here: the host side of its interface */
	__u32 flags;
	struct mesh_addr node; /* a container elsewhere */
	__u8 mac[6];
	__u8 pad[2];
};

struct subnet_key {
	__u32 prefixlen;
	struct mesh_addr addr;
};

struct config {
	__u32 vxlan_ifindex;
	__u16 vxlan_port; /* network byte order */
	__u8 router_mac[6];
};

/* Keep in step with datapath/drops.go. */
enum drop_reason {
	DROP_UNKNOWN_INTERFACE = 0,
	DROP_NOT_IP,
	DROP_FORGED_MAC,
	DROP_FORGED_ADDRESS,
	DROP_MULTICAST,
	DROP_NO_ENDPOINT,
	DROP_ISOLATED,
	DROP_FOREIGN_NETWORK,
	DROP_UNKNOWN_PEER,
	DROP_NO_TUNNEL,
	DROP_ARP,
	DROP_NOT_ENCRYPTED,
	DROP_REASONS,
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct iface);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} mesh_ifaces SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 20);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct endpoint_key);
	__type(value, struct endpoint);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} mesh_endpoints SEC(".maps");

/* The subnets of all networks of this node; the value is the network's VNI. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct subnet_key);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} mesh_subnets SEC(".maps");

/* The networks whose packets never travel in the clear, by VNI. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} mesh_encrypted SEC(".maps");

/* How to send to a node encrypted: the WireGuard device, and the address that tunnelled packets go to inside of it. */
struct cipher {
	__u32 ifindex;
	struct mesh_addr inside; /* zero: no tunnel inside */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct mesh_addr);
	__type(value, struct cipher);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} mesh_ciphers SEC(".maps");

/* The same addresses: the nodes that tunnelled packets inside of WireGuard are from. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct mesh_addr);
	__type(value, struct mesh_addr);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} mesh_inside SEC(".maps");

/* Who may send us tunnelled packets. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct mesh_addr);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} mesh_peers SEC(".maps");

/*
 * Peers on a link of ours whose direct frames are taken; see DESIGN.md. The MACs are those of peers with an
 * IPv6 address, for which the kernel's neighbour table cannot be asked here; zero for the others.
 */
struct onlink {
	__u32 ifindex;
	__u8 mac[6], own[6];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct mesh_addr);
	__type(value, struct onlink);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} mesh_onlink SEC(".maps");

/* When a direct frame came back from a peer last: nanoseconds of the monotonic clock. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct mesh_addr);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} mesh_answers SEC(".maps");

/* Those of them that direct frames are sent to, since they came back; the value is the device. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct mesh_addr);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} mesh_direct SEC(".maps");

#define SWITCH_DIRECT 1 /* there may be entries in mesh_onlink */
#define SWITCH_ANSWER 2 /* peers may send us direct frames, if they arrive: answer their probes */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} mesh_switches SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} mesh_config SEC(".maps");

/* The source MAC of what enters at this node and is tunnelled to a task: peers without eBPF know by it where to answer. */
struct self {
	__u8 mac[6];
	__u8 pad[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct self);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} mesh_self SEC(".maps");

/* What fits into the tunnel to every peer, in bytes. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} mesh_mtu SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DROP_REASONS);
	__type(key, __u32);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} mesh_drops SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, MESH_SLOTS);
	__type(key, __u32);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} mesh_hooks SEC(".maps");

#endif
