/* SPDX-License-Identifier: GPL-2.0 */
/* Reading packets: only as far as addresses; fragments need nothing more. */
#ifndef MESH_PACKET_H
#define MESH_PACKET_H

#include "maps.h"

#define TC_ACT_OK 0
#define TC_ACT_SHOT 2
#define TCX_NEXT (-1) /* clsact: TC_ACT_UNSPEC, the same meaning */
#define PACKET_HOST 0

struct packet {
	struct mesh_addr src;
	struct mesh_addr dst;
	__u8 source_mac[6];
	__u8 v6;
	__u8 multicast; /* or broadcast */
};

static __always_inline int drop(enum drop_reason reason)
{
	__u32 key = reason;
	__u64 *count = bpf_map_lookup_elem(&mesh_drops, &key);

	if (count)
		(*count)++;
	return TC_ACT_SHOT;
}

static __always_inline struct config *config(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&mesh_config, &zero);
}

static __always_inline int same_addr(const struct mesh_addr *a, const struct mesh_addr *b)
{
	return a->w[0] == b->w[0] && a->w[1] == b->w[1] && a->w[2] == b->w[2] && a->w[3] == b->w[3];
}

static __always_inline int same_mac(const __u8 *a, const __u8 *b)
{
	return ((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) | (a[4] ^ b[4]) | (a[5] ^ b[5])) == 0;
}

static __always_inline struct mesh_addr v4_mapped(__u32 addr)
{
	struct mesh_addr a = {{0, 0, MESH_V4_PREFIX, addr}};

	return a;
}

static __always_inline int is_v4(const struct mesh_addr *a)
{
	return a->w[0] == 0 && a->w[1] == 0 && a->w[2] == MESH_V4_PREFIX;
}

/* linear makes the headers directly readable; IPv4's may be all there is. */
static __always_inline void linear(struct __sk_buff *skb)
{
	const __u32 most = sizeof(struct ethhdr) + sizeof(struct ipv6hdr);
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;

	if (data + most > end)
		bpf_skb_pull_data(skb, skb->len < most ? skb->len : most);
}

/* parse returns 0 for IPv4 and IPv6 packets. */
static __always_inline int parse(struct __sk_buff *skb, struct packet *p)
{
	linear(skb);

	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;

	if ((void *)(eth + 1) > end)
		return -1;
	__builtin_memcpy(p->source_mac, eth->h_source, 6);
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > end || ip->version != 4)
			return -1;
		p->src = v4_mapped(ip->saddr);
		p->dst = v4_mapped(ip->daddr);
		p->v6 = 0;
		p->multicast = (bpf_ntohl(ip->daddr) >> 28) == 0xe || ip->daddr == 0xffffffff;
		return 0;
	}
	if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > end || ip->version != 6)
			return -1;
		__builtin_memcpy(&p->src, &ip->saddr, 16);
		__builtin_memcpy(&p->dst, &ip->daddr, 16);
		p->v6 = 1;
		p->multicast = ip->daddr.in6_u.u6_addr8[0] == 0xff;
		return 0;
	}
	return -1;
}

/* mark says what the balancer and the forwarding half go by. */
static __always_inline void mark(struct __sk_buff *skb, __u32 vni, const struct mesh_addr *from)
{
	skb->cb[0] = MESH_CB(vni, MESH_NEXT);
	skb->cb[1] = from->w[0];
	skb->cb[2] = from->w[1];
	skb->cb[3] = from->w[2];
	skb->cb[4] = from->w[3];
}

#endif
