/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Answers that the balancer gives itself to a container: echo replies of a VIP,
 * TCP resets and ICMP unreachables. They go back out of the device that the
 * packet came in on.
 */
#ifndef MESH_IPVS_REFUSE_H
#define MESH_IPVS_REFUSE_H

#include "related.h"

struct icmp {
	__u8 type;
	__u8 code;
	__u16 checksum;
	__u32 rest;
};

#define ICMP_ECHO_REPLY 0
#define ICMP_PORT 3
#define ICMP_ECHO 8

static __always_inline __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static __always_inline int swap_macs(struct __sk_buff *skb)
{
	struct ethhdr eth;
	__u8 mac[ETH_ALEN];

	if (bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)))
		return -1;
	__builtin_memcpy(mac, eth.h_dest, ETH_ALEN);
	__builtin_memcpy(eth.h_dest, eth.h_source, ETH_ALEN);
	__builtin_memcpy(eth.h_source, mac, ETH_ALEN);
	return bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0);
}

/* turn_round sends an echo request back as its own reply. Swapped addresses leave the IP checksum as it is. */
static __always_inline int turn_round(struct __sk_buff *skb, const struct packet *p)
{
	__be32 addrs[2] = { p->dst.w[3], p->src.w[3] };
	__u8 type = ICMP_ECHO_REPLY;

	if (swap_macs(skb) || bpf_skb_store_bytes(skb, L3 + offsetof(struct iphdr, saddr), addrs, 8, 0))
		return drop(DROP_REWRITE);
	if (!p->later) {
		if (bpf_l4_csum_replace(skb, p->l4 + 2, bpf_htons(ICMP_ECHO << 8), 0, 2) ||
		    bpf_skb_store_bytes(skb, p->l4, &type, 1, 0))
			return drop(DROP_REWRITE);
	}
	return bpf_redirect(skb->ifindex, 0);
}

/* ip_header makes the header of an answer of the given length. */
static __always_inline void ip_header(struct iphdr *ip, const struct packet *p, __u8 proto, __u16 length)
{
	__builtin_memset(ip, 0, sizeof(*ip));
	ip->version = 4;
	ip->ihl = 5;
	ip->tot_len = bpf_htons(length);
	ip->frag_off = bpf_htons(0x4000);
	ip->ttl = 64;
	ip->protocol = proto;
	ip->saddr = p->dst.w[3];
	ip->daddr = p->src.w[3];
	ip->check = fold(bpf_csum_diff(0, 0, (__be32 *)ip, sizeof(*ip), 0));
}

/*
 * partial tells whether the sender left the transport checksum to the device
 * (CHECKSUM_PARTIAL). The kernel tells nobody; but then it does not let itself be
 * changed for anything that is not in the pseudo header.
 */
static __always_inline int partial(struct __sk_buff *skb, int off)
{
	__u16 before = 0, after = 0;

	if (bpf_skb_load_bytes(skb, off, &before, 2) || bpf_l4_csum_replace(skb, off, 0, bpf_htons(1), 2) ||
	    bpf_skb_load_bytes(skb, off, &after, 2))
		return 0;
	return before == after;
}

struct pseudo {
	__be32 src;
	__be32 dst;
	__u8 zero;
	__u8 proto;
	__be16 length;
};

struct reset {
	struct iphdr ip;
	struct tcphdr tcp;
} __attribute__((packed, aligned(4)));

/* reset refuses a connection, or ends one, as RFC 9293 3.5.2 has it. */
static __always_inline int reset(struct __sk_buff *skb, const struct packet *p, enum drop_reason reason)
{
	struct reset r;
	struct tcphdr tcp;
	struct pseudo pseudo = {
		.src = p->dst.w[3], .dst = p->src.w[3], .proto = IPPROTO_TCP, .length = bpf_htons(sizeof(tcp)),
	};
	int ours_to_sum;

	drop(reason);
	if (p->later || p->tcp_flags & TCP_RST || p->l4 != L3 + sizeof(struct iphdr))
		return TC_ACT_SHOT;
	if (bpf_skb_load_bytes(skb, L3 + sizeof(struct iphdr), &tcp, sizeof(tcp)))
		return TC_ACT_SHOT;
	ours_to_sum = !partial(skb, L3 + sizeof(struct iphdr) + 16);
	__builtin_memset(&r, 0, sizeof(r));
	ip_header(&r.ip, p, IPPROTO_TCP, sizeof(r));
	r.tcp.source = tcp.dest;
	r.tcp.dest = tcp.source;
	r.tcp.doff = 5;
	r.tcp.rst = 1;
	if (tcp.ack) {
		r.tcp.seq = tcp.ack_seq;
	} else {
		__u32 length = p->length - sizeof(struct iphdr) - tcp.doff * 4;

		r.tcp.ack = 1;
		r.tcp.ack_seq = bpf_htonl(bpf_ntohl(tcp.seq) + length + tcp.syn + tcp.fin);
	}

	__u32 sum = bpf_csum_diff(0, 0, (__be32 *)&pseudo, sizeof(pseudo), 0);

	if (ours_to_sum)
		r.tcp.check = fold(bpf_csum_diff(0, 0, (__be32 *)&r.tcp, sizeof(r.tcp), sum));
	else
		r.tcp.check = ~fold(sum);
	if (bpf_skb_change_tail(skb, L3 + sizeof(r), 0) || swap_macs(skb) ||
	    bpf_skb_store_bytes(skb, L3, &r, sizeof(r), 0))
		return TC_ACT_SHOT;
	return bpf_redirect(skb->ifindex, 0);
}

struct unreachable {
	struct iphdr ip;
	struct icmp icmp;
	__u8 quote[sizeof(struct iphdr) + 8];
} __attribute__((packed, aligned(4)));

/* unreachable refuses a datagram with "port unreachable" (RFC 1122 3.2.2.1). */
static __always_inline int unreachable(struct __sk_buff *skb, const struct packet *p)
{
	struct unreachable u;

	drop(DROP_NO_BACKEND);
	if (p->later || p->l4 != L3 + sizeof(struct iphdr))
		return TC_ACT_SHOT;
	__builtin_memset(&u, 0, sizeof(u));
	if (bpf_skb_load_bytes(skb, L3, u.quote, sizeof(u.quote)))
		return TC_ACT_SHOT;
	ip_header(&u.ip, p, IPPROTO_ICMP, sizeof(u));
	u.icmp.type = ICMP_UNREACHABLE;
	u.icmp.code = ICMP_PORT;
	u.icmp.checksum = fold(bpf_csum_diff(0, 0, (__be32 *)&u.icmp, sizeof(u) - sizeof(u.ip), 0));
	if (bpf_skb_change_tail(skb, L3 + sizeof(u), 0) || swap_macs(skb) ||
	    bpf_skb_store_bytes(skb, L3, &u, sizeof(u), 0))
		return TC_ACT_SHOT;
	return bpf_redirect(skb->ifindex, 0);
}

#endif
