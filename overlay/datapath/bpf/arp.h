/* SPDX-License-Identifier: GPL-2.0 */
/* ARP (RFC 826) of containers: there are no neighbours to keep in step. */
#ifndef MESH_ARP_H
#define MESH_ARP_H

#include "packet.h"

#define ARPOP_REQUEST 1
#define ARPOP_REPLY 2

/*
 * answer_arp gives the router's MAC for every address but the container's own
 * (so that its duplicate address detection, RFC 5227, finds nobody): containers
 * send everything to the router, and there are no neighbours to keep in step.
 */
static __always_inline int answer_arp(struct __sk_buff *skb, const struct iface *in)
{
	struct config *c = config();
	struct arp { /* RFC 826 over Ethernet */
		struct ethhdr eth;
		__be16 hrd;
		__be16 pro;
		__u8 hln, pln;
		__be16 op;
		__u8 sha[6];
		__u8 spa[4];
		__u8 tha[6];
		__u8 tpa[4];
	} __attribute__((packed)) a;
	__u32 spa, tpa;

	if (!c || bpf_skb_load_bytes(skb, 0, &a, sizeof(a)))
		return drop(DROP_ARP);
	__builtin_memcpy(&spa, a.spa, 4);
	__builtin_memcpy(&tpa, a.tpa, 4);
	if (a.op != bpf_htons(ARPOP_REQUEST) || a.pro != bpf_htons(ETH_P_IP))
		return drop(DROP_ARP);
	if (!same_mac(a.eth.h_source, in->mac) || !same_mac(a.sha, in->mac))
		return drop(DROP_FORGED_MAC);
	if (spa == 0 || tpa == in->addr4.w[3])
		return TC_ACT_SHOT; /* detection or announcement of its own address */
	if (spa != in->addr4.w[3])
		return drop(DROP_FORGED_ADDRESS);
	__builtin_memcpy(a.eth.h_dest, in->mac, 6);
	__builtin_memcpy(a.eth.h_source, c->router_mac, 6);
	a.op = bpf_htons(ARPOP_REPLY);
	__builtin_memcpy(a.tha, in->mac, 6);
	__builtin_memcpy(a.sha, c->router_mac, 6);
	__builtin_memcpy(a.tpa, &spa, 4);
	__builtin_memcpy(a.spa, &tpa, 4);
	if (bpf_skb_store_bytes(skb, 0, &a, sizeof(a), 0))
		return drop(DROP_ARP);
	return bpf_redirect(skb->ifindex, 0);
}

#endif
