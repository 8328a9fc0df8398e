/* SPDX-License-Identifier: GPL-2.0 */
/* Published ports, on the node where a connection enters. */
#ifndef MESH_IPVS_PUBLISHED_H
#define MESH_IPVS_PUBLISHED_H

#include "answer.h"
#include "carry.h"
#include "refuse.h"

static __always_inline int is_node_addr(const struct mesh_addr *a, __u16 from)
{
	__u32 *what = bpf_map_lookup_elem(&node_addrs, a);

	return what && (*what != NODE_ADDR_MESH || from & FLOW_FROM_LO);
}

static __always_inline int is_loopback(const struct packet *p)
{
	if (!p->v6)
		return bpf_ntohl(p->src.w[3]) >> 24 == 127;
	return (p->src.w[0] | p->src.w[1] | p->src.w[2]) == 0 && p->src.w[3] == bpf_htonl(1);
}

/* enters says that this packet can begin a connection to a published port. */
static __always_inline int enters(struct scratch *s)
{
	if (s->p.later)
		return 0;
	if (s->p.proto == IPPROTO_TCP)
		return opens(&s->p); /* else it answers what the node itself began */
	/* On lo our own answers pass by again, to what may be a published number. */
	answer_to(&s->other, &s->p, s->key.vni, FORWARD);
	return !bpf_map_lookup_elem(&flows, &s->other);
}

/*
 * serves finds the service that a packet for a published port is for: of its address
 * alone, of the node's processes, or of all addresses. Non-zero: there is none.
 */
static __always_inline int serves(const struct scratch *s, __u16 from, struct service_key *k)
{
	__builtin_memset(k, 0, sizeof(*k));
	k->vni = s->key.vni;
	k->port = s->p.dport;
	k->proto = s->p.proto;
	k->addr = s->p.dst;
	if (bpf_map_lookup_elem(&services, k))
		return 0;
	if (from & FLOW_FROM_LO) {
		k->addr = s->p.v6 ? LOOPBACK6 : v4_mapped(LOOPBACK4);
		if (bpf_map_lookup_elem(&services, k))
			return 0;
	}
	__builtin_memset(&k->addr, s->p.v6 ? 0xff : 0, sizeof(k->addr));
	return bpf_map_lookup_elem(&services, k) ? 0 : -1;
}

/*
 * returns_directly says whether the task's node may answer the client itself: it can
 * tell only the address that it knows this node by, and the port that the note tells.
 */
static __always_inline int returns_directly(const struct scratch *s, __u16 from)
{
	struct service *service = bpf_map_lookup_elem(&services, &s->service);
	__u32 *own = bpf_map_lookup_elem(&node_addrs, &s->p.dst);
	struct backend_key k = { .service = s->flow.service, .addr = s->flow.dst, .port = s->flow.backend_port };
	__u32 *state;

	if (from || !service || !(service->local & SERVICE_RETURN) || !own || *own != NODE_ADDR_TUNNEL)
		return 0;
	state = bpf_map_lookup_elem(&backends, &k);
	return state && !(*state & BACKEND_HERE);
}

/* note_of is the note to the task's node: a source port that was changed is changed back here only. */
static __always_inline __u32 note_of(const struct scratch *s, const struct flow *f)
{
	if (!(f->flags & FLOW_RETURN) || f->sport != s->p.sport)
		return 0;
	return MESH_NOTE_RETURN | bpf_htonl(bpf_ntohs(s->p.dport));
}

/* enter chooses a backend for a new connection to a published port: s->flow. */
static __always_inline int enter(struct scratch *s, __u16 from)
{
	if (!enters(s) || serves(s, from, &s->service))
		return -1;
	__builtin_memset(&s->flow, 0, sizeof(s->flow));
	if (choose()) {
		refused(s->flow.service, DROP_NO_BACKEND);
		return -1;
	}
	s->flow.src = s->p.src;
	s->flow.sport = s->p.sport;
	/* A task cannot answer itself or loopback through the network: those come from the node's address. */
	if (same_addr(&s->p.src, &s->flow.dst) || is_loopback(&s->p))
		s->flow.src = s->p.dst;
	s->flow.flags = FLOW_INGRESS | from;
	if (returns_directly(s, from)) /* what is not seen cannot be judged, nor be missed */
		s->flow.flags |= FLOW_RETURN | FLOW_ACCEPTED;
	s->flow.ifindex = s->ifindex;
	keep();
	count_begin(s);
	return 0;
}

/*
 * ask lets a new connection from outside go up to the host's packet filter. What no
 * rule for the node's own ports denies comes back on lo, by a rule of ours at the
 * very end, and is entered there; what follows is not asked about any more.
 */
static __always_inline int ask(struct __sk_buff *skb, struct scratch *s, __u16 from)
{
	struct node *n = this_node();
	struct service_key key;
	struct service *service;

	if (from || s->admitted || !n || !(n->flags & NODE_ADMIT) || !enters(s) || serves(s, from, &key))
		return 0;
	service = bpf_map_lookup_elem(&services, &key);
	if (!service || !service->count)
		return 0;
	skb->priority = ADMIT | (skb->ifindex & ~ADMIT_MASK);
	return 1;
}

/* came_in notes where a packet came in: what the packet filter let pass is not of the node. */
static __always_inline __u16 came_in(struct __sk_buff *skb, struct scratch *s, __u16 from)
{
	__u32 priority = skb->priority;

	s->ifindex = skb->ifindex;
	s->admitted = 0;
	if (!(from & FLOW_FROM_LO) || (priority & ADMIT_MASK) != ADMIT)
		return from;
	s->ifindex = priority & ~ADMIT_MASK;
	s->admitted = 1;
	skb->priority = 0;
	return from & ~FLOW_FROM_LO;
}

/*
 * ingress leads a packet for a published port to its backend. What cannot be led
 * anywhere is the node's own: its stack refuses it as it refuses any closed port.
 */
static __always_inline int ingress(struct __sk_buff *skb, struct scratch *s, __u32 mesh, __u16 from, enum mesh_slot hook)
{
	struct flow *f;
	__u32 note, limit = limit_for(&s->p);
	/* What is merged from several packets goes out as several. */
	int too_long = limit && s->p.length > limit && !skb->gso_size;
	int again = 0;

	key_of(&s->key, &s->p, mesh, FORWARD);
	f = bpf_map_lookup_elem(&flows, &s->key);
	if (f) {
		enum fitness fit = fitness(s, f);

		if (fit == GONE) {
			refused(f->service, DROP_BACKEND_GONE);
			drop(DROP_BACKEND_GONE);
			return forward(skb, hook);
		}
		again = fit == AGAIN;
		if (!again) {
			asked_on(s, f);
			touch(s, f, REVERSE);
		}
	}
	if (!f || again) {
		if (ask(skb, s, from)) /* which nobody has allowed yet: no entry is made */
			return too_long ? too_big(skb, &s->p, limit) : forward(skb, hook);
		if (f)
			forget(s, f);
		if (enter(s, from))
			return forward(skb, hook);
		f = &s->flow;
	}
	if (too_long && !s->admitted)
		return too_big(skb, &s->p, limit);
	note = note_of(s, f);
	if (rewrite(skb, &s->p, f))
		return drop(DROP_REWRITE);
	skb->cb[0] = MESH_CB(mesh, MESH_DELIVER);
	skb->cb[1] = note;
	return forward(skb, hook);
}

static __always_inline int unpublished6(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	struct ipv6hdr *ip = data + L3;
	struct ports *ports = (void *)(ip + 1);

	if ((void *)(ports + 1) > end)
		return 0;
	if (ip->nexthdr != IPPROTO_TCP && ip->nexthdr != IPPROTO_UDP)
		return 0; /* what there is little of: errors, neighbours, extension headers */
	return !is_published(ports->dest, ip->nexthdr);
}

/*
 * unpublished tells cheaply what is not for a published port: every packet of the
 * node comes by here.
 */
static __always_inline int unpublished(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	struct iphdr *ip = data + L3;
	struct ports *ports = (void *)(ip + 1);

	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return unpublished6(skb);
	if (skb->protocol != bpf_htons(ETH_P_IP))
		return 1;
	if ((void *)(ports + 1) > end || ip->ihl != 5 || ip->frag_off & bpf_htons(FRAGMENT_OFFSET))
		return 0;
	if (ip->protocol != IPPROTO_TCP && ip->protocol != IPPROTO_UDP)
		return ip->protocol != IPPROTO_ICMP;
	return !is_published(ports->dest, ip->protocol);
}

static __always_inline int from_node(struct __sk_buff *skb, __u16 from, enum mesh_slot hook)
{
	struct scratch *s = room();
	struct node *n = this_node();
	int verdict;

	if (unpublished(skb) || !s || !n || parse(skb, &s->p, 0))
		return forward(skb, hook);
	leave_to_former(skb, s, n, n->mesh_vni, hook);
	if (is_error(skb, &s->p) && !quoted(skb, s, n->mesh_vni) && error_on(skb, s, hook, &verdict))
		return verdict;
	if (!has_ports(&s->p))
		return forward(skb, hook);
	if (s->p.unknown || !is_published(s->p.dport, s->p.proto) || !is_node_addr(&s->p.dst, from))
		return forward(skb, hook);
	remember(&s->p, 0);
	return ingress(skb, s, n->mesh_vni, came_in(skb, s, from), hook);
}

#endif
