/* SPDX-License-Identifier: GPL-2.0 */
/* Published ports, on the node where the task is: which node must the answer go to? */
#ifndef MESH_IPVS_PEER_H
#define MESH_IPVS_PEER_H

#include "flow.h"

/* entry_of makes s->back: the answer to this packet goes to the node that sent it. */
static __always_inline void entry_of(struct __sk_buff *skb, struct scratch *s)
{
	struct mesh_addr entry = {{skb->cb[1], skb->cb[2], skb->cb[3], skb->cb[4]}};

	__builtin_memset(&s->back, 0, sizeof(s->back));
	s->back.src = s->p.dst;
	s->back.sport = s->p.dport;
	s->back.dst = s->p.src;
	s->back.dport = s->p.sport;
	s->back.entry = entry;
	s->back.flags = FLOW_INGRESS;
	s->back.seen = now();
}

static __always_inline int is_entry_of(const struct flow *have, const struct scratch *s)
{
	return same_addr(&have->entry, &s->back.entry) && have->dport == s->back.dport;
}

/*
 * another_port finds a source port for a client that is connected to the same
 * task through another node already, from the same port.
 */
static __always_inline int another_port(struct __sk_buff *skb, struct scratch *s)
{
	__be16 *known, port = 0;

	__builtin_memset(&s->entered, 0, sizeof(s->entered));
	key_of(&s->entered.flow, &s->p, s->key.vni, ENTERED);
	s->entered.entry = s->back.entry;
	known = bpf_map_lookup_elem(&entered, &s->entered);
	if (known)
		port = *known;
	for (int i = 0; i < PORT_TRIES; i++) {
		struct flow *taken;

		if (!port)
			port = random_port();
		s->key.dport = port;
		taken = bpf_map_lookup_elem(&flows, &s->key);
		if (!taken || over(taken, s->p.proto) || is_entry_of(taken, s))
			break;
		port = 0;
	}
	if (!port)
		return -1;
	bpf_map_update_elem(&flows, &s->key, &s->back, BPF_ANY);
	bpf_map_update_elem(&entered, &s->entered, &port, BPF_ANY);
	return set_port(skb, &s->p, s->p.l4, s->p.sport, port);
}

/* note_entry remembers which node the answer must go to. */
static __always_inline int note_entry(struct __sk_buff *skb, struct scratch *s, __u32 vni)
{
	struct flow *have;

	entry_of(skb, s);
	answer_to(&s->key, &s->p, vni, REVERSE);
	have = bpf_map_lookup_elem(&flows, &s->key);
	if (have && is_entry_of(have, s)) {
		if (have->flags & FLOW_CLOSING && opens(&s->p))
			have->flags &= ~FLOW_CLOSING;
		touch(s, have, ENTERED);
		return 0;
	}
	if (have && !over(have, s->p.proto))
		return another_port(skb, s);
	bpf_map_update_elem(&flows, &s->key, &s->back, BPF_ANY);
	return 0;
}

#endif
