/* SPDX-License-Identifier: GPL-2.0 */
/* Published ports, on the node where the task is: which node must the answer go to? */
#ifndef MESH_IPVS_PEER_H
#define MESH_IPVS_PEER_H

#include "flow.h"

/* note_port reads the entry node's note that answers may return directly, and from which port. */
static __always_inline void note_port(struct __sk_buff *skb, struct scratch *s)
{
	__u32 note;

	if (bpf_skb_load_bytes(skb, MESH_NOTE_AT, &note, sizeof(note)) || (note & MESH_NOTE_MASK) != MESH_NOTE_RETURN)
		return;
	s->back.flags |= FLOW_RETURN;
	s->back.backend_port = bpf_htons(bpf_ntohl(note) & 0xffff);
}

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
	note_port(skb, s);
}

static __always_inline int is_entry_of(const struct flow *have, const struct scratch *s)
{
	return same_addr(&have->entry, &s->back.entry) && have->dport == s->back.dport;
}

/* known_port looks for the source port that another_port gave to this packet's connection. */
static __always_inline __be16 *known_port(struct scratch *s)
{
	__builtin_memset(&s->entered, 0, sizeof(s->entered));
	key_of(&s->entered.flow, &s->p, s->key.vni, ENTERED);
	s->entered.entry = s->back.entry;
	return bpf_map_lookup_elem(&entered, &s->entered);
}

/* follow notes a packet of a connection whose entry is there. */
static __always_inline void follow(struct scratch *s, struct flow *have)
{
	if (have->flags & FLOW_CLOSING && opens(&s->p))
		have->flags &= ~(FLOW_CLOSING | FLOW_RESET);
	if ((have->flags ^ s->back.flags) & FLOW_RETURN || have->backend_port != s->back.backend_port) {
		have->flags = (have->flags & ~FLOW_RETURN) | (s->back.flags & FLOW_RETURN);
		have->backend_port = s->back.backend_port;
	}
	touch(s, have, ENTERED);
}

/*
 * another_port finds a source port for a client that is, or was a moment ago,
 * connected to the same task through another node, from the same port.
 */
static __always_inline int another_port(struct __sk_buff *skb, struct scratch *s, __be16 *known)
{
	__be16 port = known ? *known : 0;
	struct ended ended = {};

	for (int i = 0; i < PORT_TRIES; i++) {
		struct flow *taken;

		if (!port)
			port = random_port();
		s->key.dport = port;
		taken = bpf_map_lookup_elem(&flows, &s->key);
		if (taken && is_entry_of(taken, s)) {
			follow(s, taken);
			return set_port(skb, &s->p, s->p.l4, s->p.sport, port);
		}
		if (!taken || over(taken, s->p.proto))
			break;
		longest_ended(&ended, taken, port);
		port = 0;
	}
	if (!port)
		port = ended.port;
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
	__be16 *known;

	entry_of(skb, s);
	answer_to(&s->key, &s->p, vni, REVERSE);
	have = bpf_map_lookup_elem(&flows, &s->key);
	if (have && is_entry_of(have, s)) {
		follow(s, have);
		return 0;
	}
	known = known_port(s);
	/* A connection keeps the port that it was given when the client's own comes free. */
	if ((have && !over(have, s->p.proto)) || (known && !opens(&s->p)))
		return another_port(skb, s, known);
	if (known)
		bpf_map_delete_elem(&entered, &s->entered);
	bpf_map_update_elem(&flows, &s->key, &s->back, BPF_ANY);
	return 0;
}

#endif
