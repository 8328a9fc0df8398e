/* SPDX-License-Identifier: GPL-2.0 */
/* Peers on the same link, without a tunnel: who they are, and how to send to them. The reasoning is in overlay/DESIGN.md. */
#ifndef MESH_DIRECT_H
#define MESH_DIRECT_H

#include "packet.h"

#define AF_INET 2

static __always_inline int direct_on(void)
{
	__u32 zero = 0;
	__u32 *on = bpf_map_lookup_elem(&mesh_switches, &zero);

	return on && *on & SWITCH_DIRECT;
}

/*
 * neighbour asks the kernel for the way to a peer: its MAC as the neighbour table
 * has it now, and the device's own. 0 only if the peer is on the link.
 */
static __always_inline int neighbour(struct __sk_buff *skb, const struct mesh_addr *peer, __u32 ifindex, struct bpf_fib_lookup *way)
{
	way->family = AF_INET;
	way->ifindex = ifindex;
	way->ipv4_dst = peer->w[3];
	if (bpf_fib_lookup(skb, way, sizeof(*way), BPF_FIB_LOOKUP_OUTPUT) != BPF_FIB_LKUP_RET_SUCCESS)
		return -1;
	return way->ifindex == ifindex && way->ipv4_dst == peer->w[3] ? 0 : -1;
}

/* send_direct gives a negative number where the tunnel has to do, as long as the peer's MAC is not known. */
static __always_inline int send_direct(struct __sk_buff *skb, const struct mesh_addr *peer)
{
	struct bpf_fib_lookup way = {};
	__u8 macs[12];
	__u32 *ifindex;

	if (!direct_on())
		return -1;
	ifindex = bpf_map_lookup_elem(&mesh_direct, peer);
	if (!ifindex || neighbour(skb, peer, *ifindex, &way))
		return -1;
	__builtin_memcpy(macs, way.dmac, 6);
	__builtin_memcpy(macs + 6, way.smac, 6);
	if (bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0))
		return drop(DROP_NO_ENDPOINT);
	return bpf_redirect(way.ifindex, 0);
}

/* is_sender says whether the frame came from that peer over our common link. */
static __always_inline int is_sender(struct __sk_buff *skb, const struct mesh_addr *peer, const __u8 *source_mac)
{
	struct bpf_fib_lookup way = {};
	__u32 *ifindex = bpf_map_lookup_elem(&mesh_direct, peer);

	if (!ifindex || *ifindex != skb->ifindex || neighbour(skb, peer, *ifindex, &way))
		return 0;
	return same_mac(way.dmac, source_mac);
}

#endif
