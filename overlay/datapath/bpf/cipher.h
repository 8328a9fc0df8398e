/* SPDX-License-Identifier: GPL-2.0 */
/* Packets of encrypted networks, into WireGuard devices and out of them. The reasoning is in overlay/DESIGN.md. */
#ifndef MESH_CIPHER_H
#define MESH_CIPHER_H

#include "packet.h"

static __always_inline int encrypted(__u32 vni)
{
	return bpf_map_lookup_elem(&mesh_encrypted, &vni) != NULL;
}

static __always_inline int no_addr(const struct mesh_addr *a)
{
	return (a->w[0] | a->w[1] | a->w[2] | a->w[3]) == 0;
}

/* encrypt gives the packet as it is to the device of the node's key: WireGuard knows by its destination whose it is. */
static __always_inline int encrypt(struct __sk_buff *skb, const struct mesh_addr *node)
{
	struct cipher *c = bpf_map_lookup_elem(&mesh_ciphers, node);

	if (!c)
		return drop(DROP_NOT_ENCRYPTED);
	return bpf_redirect(c->ifindex, 0); /* which takes the Ethernet header off */
}

/* What comes out of WireGuard bears this on its way through the node's stack: nobody outside can set it. */
#define INSIDE_MARK 0x6d777367

/* from_inside says whether a tunnelled packet came in by WireGuard, and turns its sender into the node. */
static __always_inline int from_inside(struct __sk_buff *skb, struct mesh_addr *from)
{
	struct mesh_addr *node = bpf_map_lookup_elem(&mesh_inside, from);

	if (!node || skb->mark != INSIDE_MARK)
		return 0;
	skb->mark = 0;
	*from = *node;
	return 1;
}

/* for_tunnel says whether a packet as it comes out of WireGuard is one of the tunnel: the node's own stack unpacks it. */
static __always_inline int for_tunnel(struct __sk_buff *skb)
{
	struct {
		struct ipv6hdr ip;
		struct udphdr udp;
	} __attribute__((packed)) h;
	struct config *c = config();
	struct mesh_addr from;

	if (skb->protocol != bpf_htons(ETH_P_IPV6) || bpf_skb_load_bytes(skb, 0, &h, sizeof(h)) || h.ip.nexthdr != IPPROTO_UDP)
		return 0;
	__builtin_memcpy(&from, &h.ip.saddr, 16);
	return c && h.udp.dest == c->vxlan_port && bpf_map_lookup_elem(&mesh_inside, &from) != NULL;
}

/* put_header gives a packet that has none an Ethernet header: containers' interfaces want one. */
static __always_inline int put_header(struct __sk_buff *skb)
{
	struct config *c = config();
	struct ethhdr eth;

	if (!c || bpf_skb_change_head(skb, sizeof(eth), 0))
		return -1;
	__builtin_memcpy(eth.h_dest, c->router_mac, 6);
	__builtin_memcpy(eth.h_source, c->router_mac, 6);
	eth.h_proto = skb->protocol;
	return bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0);
}

#endif
