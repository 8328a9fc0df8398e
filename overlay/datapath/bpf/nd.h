/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Neighbour discovery (RFC 4861) of containers, as ARP is for IPv4: the router's
 * MAC is the answer for every address, and there are no neighbours to keep in
 * step. Nothing of it ever leaves the container's interface.
 */
#ifndef MESH_ND_H
#define MESH_ND_H

#include "packet.h"

#define ND_ROUTER_SOLICITATION 133
#define ND_SOLICITATION 135
#define ND_ADVERTISEMENT 136
#define ND_REDIRECT 137
#define ND_SOLICITED_OVERRIDE 0x60000000
#define ND_TARGET_MAC 2
#define ND_HOPS 255 /* nobody can have sent it on */

struct nd_message {
	__u8 type, code;
	__be16 sum;
	__be32 flags;
	struct in6_addr target;
	__u8 option, option_len; /* in 8 bytes */
	__u8 mac[6];
} __attribute__((packed));

struct nd_packet {
	struct ethhdr eth;
	struct ipv6hdr ip;
	struct nd_message m;
} __attribute__((packed));

#define ND_BARE offsetof(struct nd_packet, m.option)

/* nd_type gives the type of a neighbour discovery message, or 0. */
static __always_inline __u8 nd_type(struct __sk_buff *skb)
{
	__u8 next = 0, type = 0;

	if (bpf_skb_load_bytes(skb, offsetof(struct nd_packet, ip.nexthdr), &next, 1) || next != IPPROTO_ICMPV6)
		return 0;
	if (bpf_skb_load_bytes(skb, offsetof(struct nd_packet, m.type), &type, 1))
		return 0;
	return type >= ND_ROUTER_SOLICITATION && type <= ND_REDIRECT ? type : 0;
}

static __always_inline int link_local(const struct mesh_addr *a)
{
	return (a->w[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

static __always_inline __be16 nd_checksum(const struct nd_packet *n)
{
	struct {
		struct in6_addr src, dst;
		__be32 len, next;
		struct nd_message m;
	} __attribute__((packed)) sum = {
		.src = n->ip.saddr, .dst = n->ip.daddr,
		.len = bpf_htonl(sizeof(n->m)), .next = bpf_htonl(IPPROTO_ICMPV6), .m = n->m,
	};
	__u64 c = bpf_csum_diff(NULL, 0, (__be32 *)&sum, sizeof(sum), 0);

	c = (c & 0xffff) + (c >> 16);
	c = (c & 0xffff) + (c >> 16);
	return ~c;
}

/*
 * answer_nd answers solicitations for all but the container's own address, for
 * which duplicate address detection (RFC 4862, from the unspecified address) is
 * to find nobody.
 */
static __always_inline int answer_nd(struct __sk_buff *skb, const struct iface *in, const __u8 *router_mac, __u8 type)
{
	struct nd_packet n = {};
	struct mesh_addr src, target;

	if (type != ND_SOLICITATION || bpf_skb_load_bytes(skb, 0, &n, ND_BARE))
		return drop(DROP_ARP);
	__builtin_memcpy(&src, &n.ip.saddr, 16);
	__builtin_memcpy(&target, &n.m.target, 16);
	if (!(src.w[0] | src.w[1] | src.w[2] | src.w[3]) || same_addr(&target, &in->addr6))
		return TC_ACT_SHOT;
	if (!same_addr(&src, &in->addr6) && !link_local(&src))
		return drop(DROP_FORGED_ADDRESS);
	if (!in->addr6.w[0] || n.ip.hop_limit != ND_HOPS || n.m.code || link_local(&target) || n.m.target.in6_u.u6_addr8[0] == 0xff)
		return drop(DROP_ARP);
	__builtin_memcpy(n.eth.h_dest, in->mac, 6);
	__builtin_memcpy(n.eth.h_source, router_mac, 6);
	n.ip.payload_len = bpf_htons(sizeof(n.m));
	n.ip.daddr = n.ip.saddr;
	n.ip.saddr = n.m.target;
	n.m.type = ND_ADVERTISEMENT;
	n.m.flags = bpf_htonl(ND_SOLICITED_OVERRIDE);
	n.m.option = ND_TARGET_MAC;
	n.m.option_len = 1;
	__builtin_memcpy(n.m.mac, router_mac, 6);
	n.m.sum = 0;
	n.m.sum = nd_checksum(&n);
	if (bpf_skb_change_tail(skb, sizeof(n), 0) || bpf_skb_store_bytes(skb, 0, &n, sizeof(n), 0))
		return drop(DROP_ARP);
	return bpf_redirect(skb->ifindex, 0);
}

#endif
