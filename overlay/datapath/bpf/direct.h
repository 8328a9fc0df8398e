/* SPDX-License-Identifier: GPL-2.0 */
/* Peers on the same link, without a tunnel: who they are, and how to send to them. The reasoning is in overlay/DESIGN.md. */
#ifndef MESH_DIRECT_H
#define MESH_DIRECT_H

#include "packet.h"

#define AF_INET 2
#define AF_INET6 10

static __always_inline int switched(__u32 what)
{
	__u32 zero = 0;
	__u32 *on = bpf_map_lookup_elem(&mesh_switches, &zero);

	return on && *on & what;
}

/* The way to a peer: its MAC and ours follow each other as in a frame. */
struct way {
	__u32 ifindex;
	__u8 mac[6], own[6];
};

static __always_inline int no_mac(const __u8 *m)
{
	return (m[0] | m[1] | m[2] | m[3] | m[4] | m[5]) == 0;
}

/*
 * find_way gives 0 only for a peer on the link whose MAC is known: for an IPv4 address
 * as the kernel's neighbour table has it now. For IPv6 the same lookup wants the device
 * to forward, so meshd says what the table has.
 */
static __always_inline int find_way(struct __sk_buff *skb, const struct mesh_addr *peer, struct way *way)
{
	struct onlink *on = bpf_map_lookup_elem(&mesh_onlink, peer);
	struct bpf_fib_lookup fib = {};

	if (!on)
		return -1;
	way->ifindex = on->ifindex;
	if (!is_v4(peer)) {
		__builtin_memcpy(way->mac, on->mac, 6);
		__builtin_memcpy(way->own, on->own, 6);
		return no_mac(way->mac) ? -1 : 0;
	}
	fib.family = AF_INET;
	fib.ifindex = on->ifindex;
	fib.ipv4_dst = peer->w[3];
	if (bpf_fib_lookup(skb, &fib, sizeof(fib), BPF_FIB_LOOKUP_OUTPUT) != BPF_FIB_LKUP_RET_SUCCESS)
		return -1;
	__builtin_memcpy(way->mac, fib.dmac, 6);
	__builtin_memcpy(way->own, fib.smac, 6);
	return fib.ifindex == way->ifindex && fib.ipv4_dst == peer->w[3] ? 0 : -1;
}

/* send_direct gives a negative number where the tunnel has to do, as long as the peer's MAC is not known. */
static __always_inline int send_direct(struct __sk_buff *skb, const struct mesh_addr *peer)
{
	struct way way = {};

	if (!switched(SWITCH_DIRECT) || !bpf_map_lookup_elem(&mesh_direct, peer) || find_way(skb, peer, &way))
		return -1;
	if (bpf_skb_store_bytes(skb, 0, way.mac, 12, 0))
		return drop(DROP_NO_ENDPOINT);
	return bpf_redirect(way.ifindex, 0);
}

/* leaves_by says whether what the device brought in with these addresses would leave by the same device. */
static __always_inline int leaves_by(struct __sk_buff *skb, const struct packet *p, __u32 ifindex)
{
	struct bpf_fib_lookup fib = { .ifindex = ifindex };
	int found;

	if (p->v6) {
		fib.family = AF_INET6;
		__builtin_memcpy(fib.ipv6_src, &p->src, 16);
		__builtin_memcpy(fib.ipv6_dst, &p->dst, 16);
	} else {
		fib.family = AF_INET;
		fib.ipv4_src = p->src.w[3];
		fib.ipv4_dst = p->dst.w[3];
	}
	found = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	return (found == BPF_FIB_LKUP_RET_SUCCESS || found == BPF_FIB_LKUP_RET_NO_NEIGH) && fib.ifindex == ifindex;
}

/* is_sender says whether the frame came from that peer over our common link. */
static __always_inline int is_sender(struct __sk_buff *skb, const struct mesh_addr *peer, const __u8 *source_mac)
{
	struct way way = {};

	return !find_way(skb, peer, &way) && way.ifindex == skb->ifindex && same_mac(way.mac, source_mac);
}

/*
 * A probe is a UDP packet as containers might send it, between addresses of the mesh
 * network, in a frame from node to node. The peer sends it back as it came, with all
 * addresses and ports exchanged, which leaves its checksums right.
 */
#define PROBE_ASK 27905
#define PROBE_ANSWER 27906

struct probe {
	__u8 dest[6], source[6];
	__be16 proto;
	struct iphdr ip;
	__be16 sport, dport, len, sum;
	struct mesh_addr asker, asked;
} __attribute__((packed));

/* answer_probe looks whether the packet is one: a negative number says no. */
static __always_inline int answer_probe(struct __sk_buff *skb)
{
	struct probe p;
	struct mesh_addr peer;
	__u64 now = bpf_ktime_get_ns();
	__u32 addr;

	if (skb->len != sizeof(p) || bpf_skb_load_bytes(skb, 0, &p, sizeof(p)))
		return -1;
	if (p.proto != bpf_htons(ETH_P_IP) || p.ip.protocol != IPPROTO_UDP || p.ip.ihl != 5)
		return -1;
	if (p.dport == bpf_htons(PROBE_ANSWER) && p.sport == bpf_htons(PROBE_ASK)) {
		peer = p.asked;
		if (is_sender(skb, &peer, p.source))
			bpf_map_update_elem(&mesh_answers, &peer, &now, BPF_ANY);
		return TC_ACT_SHOT;
	}
	if (p.dport != bpf_htons(PROBE_ASK) || p.sport != bpf_htons(PROBE_ANSWER))
		return -1;
	peer = p.asker;
	if (!switched(SWITCH_ANSWER) || !is_sender(skb, &peer, p.source))
		return TC_ACT_SHOT;
	__builtin_memcpy(p.source, p.dest, 6);
	bpf_skb_load_bytes(skb, 6, p.dest, 6);
	addr = p.ip.saddr;
	p.ip.saddr = p.ip.daddr;
	p.ip.daddr = addr;
	p.sport = bpf_htons(PROBE_ASK);
	p.dport = bpf_htons(PROBE_ANSWER);
	if (bpf_skb_store_bytes(skb, 0, &p, sizeof(p), 0))
		return TC_ACT_SHOT;
	return bpf_redirect(skb->ifindex, 0);
}

#endif
