/* SPDX-License-Identifier: GPL-2.0 */
/*
 * ICMP errors about balanced connections (RFC 792, RFC 4443, RFC 5508): path MTU, closed
 * ports. An error quotes the packet that it is about, as that looked where the error
 * arose; it goes the way of an answer to that packet, and both its own addresses
 * and the quoted ones must become what the other side knows.
 */
#ifndef MESH_IPVS_RELATED_H
#define MESH_IPVS_RELATED_H

#include "flow.h"

#define ICMP_UNREACHABLE 3
#define ICMP_TOO_BIG 4 /* a code of it */
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER 12
#define ICMP6_UNREACHABLE 1
#define ICMP6_PARAMETER 4 /* between them: packet too big, time exceeded */

/* Offsets within an ICMP error; its quotation begins behind 8 bytes. */
#define QUOTED(s) ((s)->p.l4 + 8)
#define QUOTED_PORTS(s) (QUOTED(s) + ((s)->p.v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)))

static __always_inline int is_error(struct __sk_buff *skb, const struct packet *p)
{
	__u8 type = 0;

	if (p->proto != (p->v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP) || p->later || p->first || bpf_skb_load_bytes(skb, p->l4, &type, 1))
		return 0;
	if (p->v6)
		return type >= ICMP6_UNREACHABLE && type <= ICMP6_PARAMETER;
	return type == ICMP_UNREACHABLE || type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETER;
}

static __always_inline int quoted6(struct __sk_buff *skb, struct scratch *s, __u32 vni)
{
	struct ports ports;
	struct ipv6hdr ip;

	if (bpf_skb_load_bytes(skb, QUOTED(s), &ip, sizeof(ip)) || ip.version != 6)
		return -1;
	if (ip.nexthdr != IPPROTO_TCP && ip.nexthdr != IPPROTO_UDP)
		return -1;
	if (bpf_skb_load_bytes(skb, QUOTED_PORTS(s), &ports, sizeof(ports)))
		return -1;
	__builtin_memset(&s->key, 0, sizeof(s->key));
	__builtin_memcpy(&s->key.src, &ip.daddr, sizeof(s->key.src));
	__builtin_memcpy(&s->key.dst, &ip.saddr, sizeof(s->key.dst));
	s->key.sport = ports.dest;
	s->key.dport = ports.source;
	s->key.proto = ip.nexthdr;
	s->key.vni = vni;
	return 0;
}

/* quoted makes s->key the key, but for its direction, of an answer to the quoted packet. */
static __always_inline int quoted(struct __sk_buff *skb, struct scratch *s, __u32 vni)
{
	struct ports ports;
	struct iphdr ip;

	if (s->p.v6)
		return quoted6(skb, s, vni);
	if (bpf_skb_load_bytes(skb, QUOTED(s), &ip, sizeof(ip)) || ip.version != 4 || ip.ihl != 5)
		return -1;
	if ((ip.protocol != IPPROTO_TCP && ip.protocol != IPPROTO_UDP) || ip.frag_off & bpf_htons(FRAGMENT_OFFSET))
		return -1;
	if (bpf_skb_load_bytes(skb, QUOTED_PORTS(s), &ports, sizeof(ports)))
		return -1;
	__builtin_memset(&s->key, 0, sizeof(s->key));
	s->key.src = v4_mapped(ip.daddr);
	s->key.dst = v4_mapped(ip.saddr);
	s->key.sport = ports.dest;
	s->key.dport = ports.source;
	s->key.proto = ip.protocol;
	s->key.vni = vni;
	return 0;
}

/* The quoted header's checksum changes with the address, so that the ICMP checksum over both stays. */
static __always_inline int set_quoted_addr(struct __sk_buff *skb, const struct scratch *s, int off, __be32 from, __be32 to)
{
	if (from == to)
		return 0;
	if (bpf_l3_csum_replace(skb, QUOTED(s) + offsetof(struct iphdr, check), from, to, 4))
		return -1;
	return bpf_skb_store_bytes(skb, QUOTED(s) + off, &to, 4, 0);
}

static __always_inline int set_quoted_port(struct __sk_buff *skb, const struct scratch *s, int off, __be16 from, __be16 to)
{
	if (from == to)
		return 0;
	if (bpf_l4_csum_replace(skb, s->p.l4 + 2, from, to, 2))
		return -1;
	return bpf_skb_store_bytes(skb, QUOTED_PORTS(s) + off, &to, 2, 0);
}

static __always_inline int set_outer_addr(struct __sk_buff *skb, int off, __be32 from, __be32 to)
{
	if (from == to)
		return 0;
	if (bpf_l3_csum_replace(skb, L3 + offsetof(struct iphdr, check), from, to, 4))
		return -1;
	return bpf_skb_store_bytes(skb, L3 + off, &to, 4, 0);
}

/* set_error_addr6 changes an address of the outer header, which is in the checksum's pseudo header, or of the quoted one, which is in its payload. */
static __always_inline int set_error_addr6(struct __sk_buff *skb, const struct scratch *s, int off, const struct mesh_addr *from, const struct mesh_addr *to)
{
	__u64 flags = off < QUOTED(s) ? BPF_F_PSEUDO_HDR : 0;

	if (same_addr(from, to))
		return 0;
	if (sum_changed(skb, s->p.l4 + 2, from, to, flags))
		return -1;
	return bpf_skb_store_bytes(skb, off, to, sizeof(*to), 0);
}

static __always_inline int rewrite_error6(struct __sk_buff *skb, const struct scratch *s, const struct flow *f)
{
	const struct flow_key *k = &s->key;

	if (same_addr(&s->p.src, &k->src) &&
	    set_error_addr6(skb, s, L3 + offsetof(struct ipv6hdr, saddr), &s->p.src, &f->src))
		return -1;
	if (set_error_addr6(skb, s, L3 + offsetof(struct ipv6hdr, daddr), &s->p.dst, &f->dst))
		return -1;
	if (set_error_addr6(skb, s, QUOTED(s) + offsetof(struct ipv6hdr, saddr), &k->dst, &f->dst) ||
	    set_error_addr6(skb, s, QUOTED(s) + offsetof(struct ipv6hdr, daddr), &k->src, &f->src))
		return -1;
	if (set_quoted_port(skb, s, 0, k->dport, f->dport) || set_quoted_port(skb, s, 2, k->sport, f->sport))
		return -1;
	return 0;
}

/* rewrite_error turns an error round as the flow would an answer; one of a router on the way keeps its sender. */
static __always_inline int rewrite_error(struct __sk_buff *skb, const struct scratch *s, const struct flow *f)
{
	const struct flow_key *k = &s->key;

	if (s->p.v6)
		return rewrite_error6(skb, s, f);
	if (same_addr(&s->p.src, &k->src) &&
	    set_outer_addr(skb, offsetof(struct iphdr, saddr), s->p.src.w[3], f->src.w[3]))
		return -1;
	if (set_outer_addr(skb, offsetof(struct iphdr, daddr), s->p.dst.w[3], f->dst.w[3]))
		return -1;
	if (set_quoted_addr(skb, s, offsetof(struct iphdr, saddr), k->dst.w[3], f->dst.w[3]) ||
	    set_quoted_addr(skb, s, offsetof(struct iphdr, daddr), k->src.w[3], f->src.w[3]))
		return -1;
	if (set_quoted_port(skb, s, 0, k->dport, f->dport) || set_quoted_port(skb, s, 2, k->sport, f->sport))
		return -1;
	return 0;
}

#endif
