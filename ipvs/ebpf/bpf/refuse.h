/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Answers that the balancer gives itself to a container: echo replies of a VIP,
 * TCP resets and ICMP unreachables; and to a client of a published port, that its
 * packet is too big. They go back out of the device that the packet came in on.
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
#define ICMP6_PORT 4
#define ICMP6_TOO_BIG 2
#define ICMP6_ECHO 128
#define ICMP6_ECHO_REPLY 129

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

static __always_inline int swap_addrs(struct __sk_buff *skb, const struct packet *p)
{
	__be32 addrs[2] = { p->dst.w[3], p->src.w[3] };

	if (!p->v6)
		return bpf_skb_store_bytes(skb, L3 + offsetof(struct iphdr, saddr), addrs, 8, 0);
	if (bpf_skb_store_bytes(skb, L3 + offsetof(struct ipv6hdr, saddr), &p->dst, 16, 0))
		return -1;
	return bpf_skb_store_bytes(skb, L3 + offsetof(struct ipv6hdr, daddr), &p->src, 16, 0);
}

/* turn_round sends an echo request back as its own reply. Swapped addresses leave the checksums as they are. */
static __always_inline int turn_round(struct __sk_buff *skb, const struct packet *p)
{
	__u8 from = p->v6 ? ICMP6_ECHO : ICMP_ECHO, type = p->v6 ? ICMP6_ECHO_REPLY : ICMP_ECHO_REPLY;

	if (swap_macs(skb) || swap_addrs(skb, p))
		return drop(DROP_REWRITE);
	if (!p->later) {
		if (bpf_l4_csum_replace(skb, p->l4 + 2, bpf_htons(from << 8), bpf_htons(type << 8), 2) ||
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

struct pseudo6 { /* RFC 8200 8.1 */
	struct mesh_addr src;
	struct mesh_addr dst;
	__be32 length;
	__be32 proto;
};

static __always_inline __u32 pseudo6_sum(const struct packet *p, __u8 proto, __u16 length)
{
	struct pseudo6 pseudo = { .src = p->dst, .dst = p->src, .length = bpf_htonl(length), .proto = bpf_htonl(proto) };

	return bpf_csum_diff(0, 0, (__be32 *)&pseudo, sizeof(pseudo), 0);
}

static __always_inline void ip6_header(struct ipv6hdr *ip, const struct packet *p, __u8 proto, __u16 length)
{
	__builtin_memset(ip, 0, sizeof(*ip));
	ip->version = 6;
	ip->payload_len = bpf_htons(length);
	ip->nexthdr = proto;
	ip->hop_limit = 64;
	__builtin_memcpy(&ip->saddr, &p->dst, 16);
	__builtin_memcpy(&ip->daddr, &p->src, 16);
}

/* reset_of makes the TCP part of a reset, but for its checksum. */
static __always_inline void reset_of(struct tcphdr *r, const struct tcphdr *tcp, __u32 length)
{
	__builtin_memset(r, 0, sizeof(*r));
	r->source = tcp->dest;
	r->dest = tcp->source;
	r->doff = 5;
	r->rst = 1;
	if (tcp->ack) {
		r->seq = tcp->ack_seq;
		return;
	}
	r->ack = 1;
	r->ack_seq = bpf_htonl(bpf_ntohl(tcp->seq) + length - tcp->doff * 4 + tcp->syn + tcp->fin);
}

struct reset6 {
	struct ipv6hdr ip;
	struct tcphdr tcp;
} __attribute__((packed, aligned(4)));

/* reset6: what precedes is in reset. */
static __always_inline int reset6(struct __sk_buff *skb, const struct packet *p)
{
	struct reset6 r;
	struct tcphdr tcp;
	int ours_to_sum;
	__u32 sum;

	if (p->l4 != L3 + sizeof(struct ipv6hdr) || bpf_skb_load_bytes(skb, L3 + sizeof(struct ipv6hdr), &tcp, sizeof(tcp)))
		return TC_ACT_SHOT;
	ours_to_sum = !partial(skb, L3 + sizeof(struct ipv6hdr) + 16);
	ip6_header(&r.ip, p, IPPROTO_TCP, sizeof(tcp));
	reset_of(&r.tcp, &tcp, p->length - sizeof(struct ipv6hdr));
	sum = pseudo6_sum(p, IPPROTO_TCP, sizeof(tcp));
	if (ours_to_sum)
		r.tcp.check = fold(bpf_csum_diff(0, 0, (__be32 *)&r.tcp, sizeof(r.tcp), sum));
	else
		r.tcp.check = ~fold(sum);
	if (bpf_skb_change_tail(skb, L3 + sizeof(r), 0) || swap_macs(skb) ||
	    bpf_skb_store_bytes(skb, L3, &r, sizeof(r), 0))
		return TC_ACT_SHOT;
	return bpf_redirect(skb->ifindex, 0);
}

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
	if (p->later || p->tcp_flags & TCP_RST)
		return TC_ACT_SHOT;
	if (p->v6)
		return reset6(skb, p);
	if (p->l4 != L3 + sizeof(struct iphdr))
		return TC_ACT_SHOT;
	if (bpf_skb_load_bytes(skb, L3 + sizeof(struct iphdr), &tcp, sizeof(tcp)))
		return TC_ACT_SHOT;
	ours_to_sum = !partial(skb, L3 + sizeof(struct iphdr) + 16);
	ip_header(&r.ip, p, IPPROTO_TCP, sizeof(r));
	reset_of(&r.tcp, &tcp, p->length - sizeof(struct iphdr));

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

#define FRAGMENT6 8 /* bytes of the header that says so */

struct unreachable6 {
	struct ipv6hdr ip;
	struct icmp icmp;
	__u8 quote[sizeof(struct ipv6hdr) + FRAGMENT6 + 8];
} __attribute__((packed, aligned(4)));

/* error6 answers with an ICMP error that quotes so much of the packet. */
static __always_inline int error6(struct __sk_buff *skb, const struct packet *p, struct icmp icmp, const __u32 quote)
{
	const __u32 length = sizeof(struct icmp) + quote;
	struct unreachable6 u;

	if (bpf_skb_load_bytes(skb, L3, u.quote, quote))
		return TC_ACT_SHOT;
	ip6_header(&u.ip, p, IPPROTO_ICMPV6, length);
	u.icmp = icmp;
	u.icmp.checksum = fold(bpf_csum_diff(0, 0, (__be32 *)&u.icmp, length, pseudo6_sum(p, IPPROTO_ICMPV6, length)));
	if (bpf_skb_change_tail(skb, L3 + sizeof(u.ip) + length, 0) || swap_macs(skb) ||
	    bpf_skb_store_bytes(skb, L3, &u, sizeof(u.ip) + length, 0))
		return TC_ACT_SHOT;
	return bpf_redirect(skb->ifindex, 0);
}

/* error4 answers with one that quotes the header and 8 bytes more. */
static __always_inline int error4(struct __sk_buff *skb, const struct packet *p, struct icmp icmp)
{
	struct unreachable u;

	if (bpf_skb_load_bytes(skb, L3, u.quote, sizeof(u.quote)))
		return TC_ACT_SHOT;
	ip_header(&u.ip, p, IPPROTO_ICMP, sizeof(u));
	u.icmp = icmp;
	u.icmp.checksum = fold(bpf_csum_diff(0, 0, (__be32 *)&u.icmp, sizeof(u) - sizeof(u.ip), 0));
	if (bpf_skb_change_tail(skb, L3 + sizeof(u), 0) || swap_macs(skb) ||
	    bpf_skb_store_bytes(skb, L3, &u, sizeof(u), 0))
		return TC_ACT_SHOT;
	return bpf_redirect(skb->ifindex, 0);
}

/* unreachable refuses a datagram with "port unreachable" (RFC 1122 3.2.2.1, RFC 4443 3.1). */
static __always_inline int unreachable(struct __sk_buff *skb, const struct packet *p)
{
	struct icmp icmp = {};

	drop(DROP_NO_BACKEND);
	if (p->later || p->l4 != L3 + (p->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)))
		return TC_ACT_SHOT;
	icmp.type = p->v6 ? ICMP6_UNREACHABLE : ICMP_UNREACHABLE;
	icmp.code = p->v6 ? ICMP6_PORT : ICMP_PORT;
	if (p->v6)
		return error6(skb, p, icmp, sizeof(struct ipv6hdr) + 8);
	return error4(skb, p, icmp);
}

/* limit_for gives the longest packet that reaches other nodes; zero: any. IPv6 senders go no lower than 1280 (RFC 8200 5). */
static __always_inline __u32 limit_for(const struct packet *p)
{
	struct node *n = this_node();

	if (!n || !n->limit)
		return 0;
	return p->v6 && n->limit < 1280 ? 1280 : n->limit;
}

/*
 * too_big tells the sender how long packets may be (RFC 1191, RFC 8201). So it is with IPv4 packets that may be fragmented, such as the parts
 * of a long datagram: nobody behind does that, and senders take the word all the same.
 */
static __always_inline int too_big(struct __sk_buff *skb, const struct packet *p, __u32 limit)
{
	struct icmp icmp = {};

	drop(DROP_TOO_BIG);
	icmp.rest = bpf_htonl(limit);
	if (p->v6) {
		icmp.type = ICMP6_TOO_BIG;
		return error6(skb, p, icmp, sizeof(struct ipv6hdr) + FRAGMENT6 + 8);
	}
	if (p->later) /* it quotes no port: its first part does */
		return TC_ACT_SHOT;
	icmp.type = ICMP_UNREACHABLE;
	icmp.code = ICMP_TOO_BIG;
	return error4(skb, p, icmp);
}

#endif
