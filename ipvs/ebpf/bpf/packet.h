/* SPDX-License-Identifier: GPL-2.0 */
/* Reading and rewriting packets of IPv4 and IPv6; what is neither goes by untouched. */
#ifndef MESH_IPVS_PACKET_H
#define MESH_IPVS_PACKET_H

#include "maps.h"

#define TC_ACT_OK 0
#define TC_ACT_SHOT 2
#define TCX_NEXT (-1) /* clsact: TC_ACT_UNSPEC, the same meaning */
#define PACKET_HOST 0

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

#define L3 ((int)sizeof(struct ethhdr))
#define FRAGMENT_OFFSET 0x1fff
#define FRAGMENT_MORE 0x2000
#define FRAGMENT6_OFFSET 0xfff8
#define FRAGMENT6_MORE 1

struct packet {
	struct mesh_addr src;
	struct mesh_addr dst;
	__be16 sport;
	__be16 dport;
	__u32 id;
	__u8 proto;
	__u8 tcp_flags;
	__u8 later;   /* a fragment without ports of its own */
	__u8 unknown; /* one whose first fragment was not seen */
	__u8 first;   /* a fragment with ports */
	__u8 v6;
	__u32 l4;     /* offset of what follows the IP header, and IPv6's extension headers */
	__u32 length; /* of the IP packet */
};

static __always_inline int drop(enum drop_reason reason)
{
	__u32 key = reason;
	__u64 *count = bpf_map_lookup_elem(&drops, &key);

	if (count)
		(*count)++;
	return TC_ACT_SHOT;
}

static __always_inline int has_ports(const struct packet *p)
{
	return p->proto == IPPROTO_TCP || p->proto == IPPROTO_UDP;
}

/* opens tells whether the packet is a TCP connection's first. */
static __always_inline int opens(const struct packet *p)
{
	return p->proto == IPPROTO_TCP && (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

static __always_inline void fragment_of(struct fragment_key *k, const struct packet *p, __u32 vni)
{
	__builtin_memset(k, 0, sizeof(*k));
	k->vni = vni;
	k->src = p->src;
	k->dst = p->dst;
	k->id = p->id;
	k->proto = p->proto;
}

/* remember keeps a first fragment's ports for those that follow; without it no datagram longer than the MTU would pass. */
static __always_inline void remember(const struct packet *p, __u32 vni)
{
	struct ports ports = { p->sport, p->dport };
	struct fragment_key k;

	if (!p->first || !has_ports(p))
		return;
	fragment_of(&k, p, vni);
	bpf_map_update_elem(&fragments, &k, &ports, BPF_ANY);
}

static __always_inline int parse_ports(struct __sk_buff *skb, struct packet *p)
{
	struct ports ports;

	if (!has_ports(p))
		return 0;
	if (bpf_skb_load_bytes(skb, p->l4, &ports, sizeof(ports)))
		return -1;
	p->sport = ports.source;
	p->dport = ports.dest;
	if (p->proto == IPPROTO_TCP && bpf_skb_load_bytes(skb, p->l4 + 13, &p->tcp_flags, 1))
		return -1;
	return 0;
}

/* fragmented reads the ports of a fragment that has some, or finds those of its first one. */
static __always_inline int fragmented(struct __sk_buff *skb, struct packet *p, __u32 vni, int offset, int more)
{
	struct fragment_key k;
	struct ports *ports;

	p->first = !offset && more;
	if (!offset)
		return parse_ports(skb, p);
	fragment_of(&k, p, vni);
	ports = bpf_map_lookup_elem(&fragments, &k);
	p->later = 1;
	p->unknown = !ports;
	if (ports) {
		p->sport = ports->source;
		p->dport = ports->dest;
	}
	return 0;
}

static __always_inline int parse4(struct __sk_buff *skb, struct packet *p, __u32 vni)
{
	struct iphdr ip;
	__u16 frag;

	if (bpf_skb_load_bytes(skb, L3, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
		return -1;
	p->src = v4_mapped(ip.saddr);
	p->dst = v4_mapped(ip.daddr);
	p->proto = ip.protocol;
	p->id = ip.id;
	p->l4 = L3 + ip.ihl * 4;
	p->length = bpf_ntohs(ip.tot_len);
	frag = bpf_ntohs(ip.frag_off);
	return fragmented(skb, p, vni, frag & FRAGMENT_OFFSET, frag & FRAGMENT_MORE);
}

struct extension { /* RFC 8200 4.3 to 4.6 */
	__u8 next;
	__u8 length;
	__be16 fragment;
	__be32 id;
};

#define EXTENSIONS 4 /* as many as are looked behind */

static __always_inline int parse6(struct __sk_buff *skb, struct packet *p, __u32 vni)
{
	struct ipv6hdr ip;
	__u16 frag = 0;

	if (bpf_skb_load_bytes(skb, L3, &ip, sizeof(ip)) || ip.version != 6)
		return -1;
	p->v6 = 1;
	__builtin_memcpy(&p->src, &ip.saddr, sizeof(p->src));
	__builtin_memcpy(&p->dst, &ip.daddr, sizeof(p->dst));
	p->proto = ip.nexthdr;
	p->l4 = L3 + sizeof(ip);
	p->length = sizeof(ip) + bpf_ntohs(ip.payload_len);
	for (int i = 0; i < EXTENSIONS; i++) {
		struct extension e;

		if (p->proto != IPPROTO_HOPOPTS && p->proto != IPPROTO_ROUTING && p->proto != IPPROTO_DSTOPTS &&
		    p->proto != IPPROTO_FRAGMENT)
			break;
		if (bpf_skb_load_bytes(skb, p->l4, &e, sizeof(e)))
			return -1;
		if (p->proto == IPPROTO_FRAGMENT) {
			frag = bpf_ntohs(e.fragment);
			p->id = e.id;
			e.length = 0;
		}
		p->proto = e.next;
		p->l4 += (e.length + 1) * 8;
	}
	return fragmented(skb, p, vni, frag & FRAGMENT6_OFFSET, frag & FRAGMENT6_MORE);
}

/* parse returns 0 for what it could read. */
static __always_inline int parse(struct __sk_buff *skb, struct packet *p, __u32 vni)
{
	__builtin_memset(p, 0, sizeof(*p));
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return parse4(skb, p, vni);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return parse6(skb, p, vni);
	return -1;
}

/* checksum_of gives where the transport checksum is; 0: the packet has none. */
static __always_inline int checksum_of(const struct packet *p)
{
	if (p->later)
		return 0;
	return p->l4 + (p->proto == IPPROTO_TCP ? 16 : 6);
}

/* A UDP checksum of zero means none, and stays so (RFC 768). */
static __always_inline __u64 checksum_flags(const struct packet *p)
{
	return p->proto == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
}

static __always_inline int set_addr(struct __sk_buff *skb, const struct packet *p, int off, __be32 from, __be32 to)
{
	int sum = checksum_of(p);

	if (from == to)
		return 0;
	if (sum && bpf_l4_csum_replace(skb, sum, from, to, checksum_flags(p) | BPF_F_PSEUDO_HDR | 4))
		return -1;
	if (bpf_l3_csum_replace(skb, L3 + offsetof(struct iphdr, check), from, to, 4))
		return -1;
	return bpf_skb_store_bytes(skb, off, &to, 4, 0);
}

/*
 * sum_changed takes 16 bytes that are now others into account in a transport checksum.
 * The flag tells newer kernels that there is no IPv6 header checksum to balance it;
 * older ones do not know it, and check such packets once more.
 */
#define SUM_IPV6 (1 << 7) /* BPF_F_IPV6, Linux 6.16 */

static __always_inline int sum_changed(struct __sk_buff *skb, int sum, const struct mesh_addr *from, const struct mesh_addr *to, __u64 flags)
{
	__s64 diff = bpf_csum_diff((__be32 *)from, sizeof(*from), (__be32 *)to, sizeof(*to), 0);

	if (diff < 0)
		return -1;
	if (!bpf_l4_csum_replace(skb, sum, 0, diff, flags | SUM_IPV6))
		return 0;
	return bpf_l4_csum_replace(skb, sum, 0, diff, flags);
}

static __always_inline int set_addr6(struct __sk_buff *skb, const struct packet *p, int off, const struct mesh_addr *from, const struct mesh_addr *to)
{
	int sum = checksum_of(p);

	if (same_addr(from, to))
		return 0;
	if (sum && sum_changed(skb, sum, from, to, checksum_flags(p) | BPF_F_PSEUDO_HDR))
		return -1;
	return bpf_skb_store_bytes(skb, off, to, sizeof(*to), 0);
}

static __always_inline int set_port(struct __sk_buff *skb, const struct packet *p, int off, __be16 from, __be16 to)
{
	int sum = checksum_of(p);

	if (from == to || !sum)
		return 0;
	if (bpf_l4_csum_replace(skb, sum, from, to, checksum_flags(p) | 2))
		return -1;
	return bpf_skb_store_bytes(skb, off, &to, 2, 0);
}

/* rewrite gives the packet the flow's addresses. */
static __always_inline int rewrite(struct __sk_buff *skb, const struct packet *p, const struct flow *f)
{
	if (p->v6) {
		if (set_addr6(skb, p, L3 + offsetof(struct ipv6hdr, saddr), &p->src, &f->src) ||
		    set_addr6(skb, p, L3 + offsetof(struct ipv6hdr, daddr), &p->dst, &f->dst))
			return -1;
	} else if (set_addr(skb, p, L3 + offsetof(struct iphdr, saddr), p->src.w[3], f->src.w[3]) ||
		   set_addr(skb, p, L3 + offsetof(struct iphdr, daddr), p->dst.w[3], f->dst.w[3]))
		return -1;
	if (set_port(skb, p, p->l4, p->sport, f->sport) || set_port(skb, p, p->l4 + 2, p->dport, f->dport))
		return -1;
	return 0;
}

#endif
