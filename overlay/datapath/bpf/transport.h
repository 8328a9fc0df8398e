/* SPDX-License-Identifier: GPL-2.0 */
/* What little is read beyond addresses: where the UDP or TCP header is, tunnelled packets of containers, and the MSS. */
#ifndef MESH_TRANSPORT_H
#define MESH_TRANSPORT_H

#include "packet.h"

#define MOST_EXTENSIONS 6
#define FRAGMENT_OFFSET 0x1fff
#define TCP_SYN 0x02
#define OPTION_END 0
#define OPTION_NOP 1
#define OPTION_MSS 2
#define MOST_OPTIONS 10

/* An IPv6 extension header that says what follows it (RFC 8200). */
static __always_inline int is_extension(__u8 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_DSTOPTS || next == IPPROTO_FRAGMENT;
}

/*
 * transport gives the protocol and the offset of its header; -1 for fragments that
 * are not the first, which have none. Where extensions go on for longer than
 * anybody's do, the protocol given is the next extension.
 */
static __always_inline int transport(struct __sk_buff *skb, int v6, __u32 *offset)
{
	__u32 at = sizeof(struct ethhdr);
	__u8 next;

	if (!v6) {
		struct iphdr ip;

		if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) || ip.frag_off & bpf_htons(FRAGMENT_OFFSET))
			return -1;
		*offset = at + ip.ihl * 4;
		return ip.protocol;
	}
	if (bpf_skb_load_bytes(skb, at + offsetof(struct ipv6hdr, nexthdr), &next, 1))
		return -1;
	at += sizeof(struct ipv6hdr);
	for (int i = 0; i < MOST_EXTENSIONS; i++) {
		__u8 head[4]; /* next header, length, and of a fragment its offset */

		if (!is_extension(next))
			break;
		if (bpf_skb_load_bytes(skb, at, head, sizeof(head)))
			return -1;
		if (next == IPPROTO_FRAGMENT && (head[2] || head[3] & 0xf8))
			return -1;
		at += next == IPPROTO_FRAGMENT ? 8 : (head[1] + 1) * 8;
		next = head[0];
	}
	*offset = at;
	return next;
}

/*
 * is_tunnelled says whether a packet that leaves for the node's own stack would be
 * taken for one of the tunnel: masqueraded, it has the address of a node.
 */
static __always_inline int is_tunnelled(struct __sk_buff *skb, int v6, __be16 port)
{
	__u32 at = 0;
	int proto = transport(skb, v6, &at);
	__be16 dest = 0;

	if (v6 && proto >= 0 && is_extension(proto))
		return 1; /* nobody knows what comes then */
	if (proto != IPPROTO_UDP)
		return 0;
	return bpf_skb_load_bytes(skb, at + 2, &dest, 2) || dest == port;
}

/*
 * clamp_mss lowers the maximum segment size that a client of a published port or its
 * task asks for (RFC 9293) to what the tunnel to this node takes: neither knows it.
 */
static __always_inline void clamp_mss(struct __sk_buff *skb, int v6)
{
	__u32 zero = 0, at = 0, *mtu = bpf_map_lookup_elem(&mesh_mtu, &zero);
	__u8 head[2];
	__be16 mss, most;

	if (!mtu || *mtu < 576 || transport(skb, v6, &at) != IPPROTO_TCP || bpf_skb_load_bytes(skb, at + 12, head, 2))
		return;
	if (!(head[1] & TCP_SYN))
		return;
	most = bpf_htons(*mtu - (v6 ? 60 : 40));

	__u32 option = at + 20, end = at + (head[0] >> 4) * 4;

	for (int i = 0; i < MOST_OPTIONS; i++) {
		__u8 kind[2];

		if (option + 4 > end || bpf_skb_load_bytes(skb, option, kind, 2) || kind[0] == OPTION_END)
			return;
		if (kind[0] == OPTION_MSS && kind[1] == 4) {
			if (bpf_skb_load_bytes(skb, option + 2, &mss, 2) || bpf_ntohs(mss) <= bpf_ntohs(most))
				return;
			/* The sum first: the kernel reads the packet's own. */
			if (!bpf_l4_csum_replace(skb, at + 16, mss, most, 2))
				bpf_skb_store_bytes(skb, option + 2, &most, 2, 0);
			return;
		}
		option += kind[0] == OPTION_NOP || kind[1] < 2 ? 1 : kind[1];
	}
}

/*
 * clamp_narrow does so at the other end of a tunnel over IPv6 that is narrower than the
 * interfaces of containers, which have 1280 bytes at least: it takes nothing in parts.
 */
static __noinline int clamp_narrow(struct __sk_buff *skb)
{
	__u32 zero = 0, *mtu = bpf_map_lookup_elem(&mesh_mtu, &zero);

	if (mtu && *mtu < 1280)
		clamp_mss(skb, skb->protocol == bpf_htons(ETH_P_IPV6));
	return 0;
}

#endif
