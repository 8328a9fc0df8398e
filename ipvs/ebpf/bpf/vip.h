/* SPDX-License-Identifier: GPL-2.0 */
/* Virtual addresses, on the node of the client. */
#ifndef MESH_IPVS_VIP_H
#define MESH_IPVS_VIP_H

#include "answer.h"
#include "learn.h"
#include "refuse.h"

/* to_vip leads a packet to a backend of the VIP it is for: s->key is its FORWARD key. */
static __always_inline int to_vip(struct __sk_buff *skb, struct scratch *s, const struct service_key *service)
{
	__builtin_memset(&s->flow, 0, sizeof(s->flow));
	if (s->p.later)
		return drop(DROP_FRAGMENT);
	s->service = *service;
	if (choose()) {
		refused(s->flow.service, DROP_NO_BACKEND);
		if (s->p.proto == IPPROTO_TCP)
			return reset(skb, &s->p, DROP_NO_BACKEND);
		return unreachable(skb, &s->p);
	}
	/* Not a beginning, and unknown: its entry was lost, and no other backend can go on with it. */
	if (s->p.proto == IPPROTO_TCP && !opens(&s->p)) {
		refused(s->flow.service, DROP_BACKEND_GONE);
		return reset(skb, &s->p, DROP_BACKEND_GONE);
	}
	s->flow.src = s->p.src;
	s->flow.sport = s->p.sport;
	/* A client that is its own backend would answer itself directly: it is called by the VIP. */
	if (same_addr(&s->p.src, &s->flow.dst))
		s->flow.src = s->p.dst;
	keep();
	count_begin(s);
	if (rewrite(skb, &s->p, &s->flow))
		return drop(DROP_REWRITE);
	return forward(skb, MESH_BALANCE_CONTAINER);
}

/* plainly forwards a packet that is for nobody virtual, but remembers the connection both ways. */
static __always_inline int plainly(struct __sk_buff *skb, struct scratch *s)
{
	s->flow.src = s->p.src;
	s->flow.sport = s->p.sport;
	s->flow.dst = s->p.dst;
	s->flow.dport = s->p.dport;
	keep();
	if (rewrite(skb, &s->p, &s->flow))
		return drop(DROP_REWRITE);
	return forward(skb, MESH_BALANCE_CONTAINER);
}

/*
 * direct looks after packets to no VIP. Where their answers would be taken for
 * those of a connection through a VIP, an ended one is forgotten, and beside a live
 * one the source port is changed. Of a connection that its socket was led to, the
 * entry serves to count it, and to end it when its backend is gone: it goes on without.
 */
static __always_inline int direct(struct __sk_buff *skb, struct scratch *s, __u32 vni)
{
	struct flow *f;

	if (s->p.later || (s->p.proto == IPPROTO_TCP && !opens(&s->p)))
		return forward(skb, MESH_BALANCE_CONTAINER);
	__builtin_memset(&s->flow, 0, sizeof(s->flow));
	if (led_here(skb, s, vni)) {
		s->flow.dst = s->p.dst;
		count_begin(s);
		return plainly(skb, s);
	}
	answer_to(&s->other, &s->p, vni, REVERSE);
	f = bpf_map_lookup_elem(&flows, &s->other);
	if (!f)
		return forward(skb, MESH_BALANCE_CONTAINER);
	if (over(f, s->p.proto)) {
		bpf_map_delete_elem(&flows, &s->other);
		return forward(skb, MESH_BALANCE_CONTAINER);
	}
	return plainly(skb, s);
}

/* other_protocol answers echo requests to VIPs; nothing else reaches them. */
static __always_inline int other_protocol(struct __sk_buff *skb, const struct packet *p, __u32 vni)
{
	struct service_key service = { .vni = vni, .addr = p->dst };
	__u8 type = 0;

	if (!bpf_map_lookup_elem(&services, &service))
		return forward(skb, MESH_BALANCE_CONTAINER);
	if (p->proto != (p->v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
		return drop(DROP_PROTOCOL);
	if (p->later)
		return turn_round(skb, p);
	if (bpf_skb_load_bytes(skb, p->l4, &type, 1) || type != (p->v6 ? ICMP6_ECHO : ICMP_ECHO))
		return drop(DROP_PROTOCOL);
	return turn_round(skb, p);
}

/* lost_fragment: nobody knows which connection it is of; on the direct way that does not matter. */
static __always_inline int lost_fragment(struct __sk_buff *skb, const struct packet *p, __u32 vni)
{
	struct service_key service = { .vni = vni, .addr = p->dst };

	if (bpf_map_lookup_elem(&services, &service))
		return drop(DROP_FRAGMENT);
	return forward(skb, MESH_BALANCE_CONTAINER);
}

static __always_inline int request(struct __sk_buff *skb, struct scratch *s, __u32 vni)
{
	struct service_key service = { .vni = vni, .addr = s->p.dst };
	struct flow *f;

	key_of(&s->key, &s->p, vni, FORWARD);
	f = bpf_map_lookup_elem(&flows, &s->key);
	if (f) {
		enum fitness fit = fitness(s, f);

		if (fit == GONE) {
			refused(f->service, DROP_BACKEND_GONE);
			return reset(skb, &s->p, DROP_BACKEND_GONE);
		}
		if (fit == FIT) {
			asked_on(s, f);
			touch(s, f, REVERSE);
			if (rewrite(skb, &s->p, f))
				return drop(DROP_REWRITE);
			return forward(skb, MESH_BALANCE_CONTAINER);
		}
		forget(s, f);
		bpf_map_delete_elem(&flows, &s->key);
	}
	if (bpf_map_lookup_elem(&services, &service))
		return to_vip(skb, s, &service);
	return direct(skb, s, vni);
}

#endif
