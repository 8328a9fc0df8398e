/* SPDX-License-Identifier: GPL-2.0 */
/* What little is read beyond addresses: where the UDP header is, and tunnelled packets of containers. */
#ifndef MESH_TRANSPORT_H
#define MESH_TRANSPORT_H

#include "packet.h"

#define MOST_EXTENSIONS 6
#define FRAGMENT_OFFSET 0x1fff

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

#endif
