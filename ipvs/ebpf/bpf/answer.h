/* SPDX-License-Identifier: GPL-2.0 */
/* The way back: answers of backends, and errors about what was sent. */
#ifndef MESH_IPVS_ANSWER_H
#define MESH_IPVS_ANSWER_H

#include "judge.h"
#include "related.h"

#define LO_IFINDEX 1 /* in every network namespace */

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, MESH_SLOTS);
	__type(key, __u32);
	__type(value, __u32);
} mesh_hooks SEC(".maps");

/* forward gives the packet to the overlay's half; it returns only when there is none. */
static __always_inline int forward(struct __sk_buff *skb, enum mesh_slot hook)
{
	if (hook == MESH_BALANCE_CONTAINER)
		bpf_tail_call(skb, &mesh_hooks, MESH_FORWARD_CONTAINER);
	else if (hook == MESH_BALANCE_TUNNEL)
		bpf_tail_call(skb, &mesh_hooks, MESH_FORWARD_TUNNEL);
	else if (hook == MESH_BALANCE_UNDERLAY)
		bpf_tail_call(skb, &mesh_hooks, MESH_FORWARD_UNDERLAY);
	else
		bpf_tail_call(skb, &mesh_hooks, MESH_FORWARD_LOCAL);
	if (hook == MESH_BALANCE_UNDERLAY || hook == MESH_BALANCE_LOCAL)
		return TCX_NEXT;
	return drop(DROP_NO_FORWARD);
}

/* ---- answers ---- */

/* to_client sends the restored answer of a published port to where the connection came from. */
static __always_inline int to_client(struct __sk_buff *skb, const struct flow *f, __u32 vni, enum mesh_slot hook)
{
	__u32 ifindex = f->ifindex;

	if (f->flags & FLOW_FROM_CONTAINER) {
		skb->cb[0] = MESH_CB(vni, MESH_DELIVER);
		return forward(skb, hook);
	}
	if (f->flags & FLOW_FROM_LO) {
		__u8 none[2 * ETH_ALEN] = {};

		if (bpf_skb_store_bytes(skb, 0, none, sizeof(none), 0))
			return drop(DROP_REWRITE);
		bpf_skb_change_type(skb, PACKET_HOST);
		return bpf_redirect(LO_IFINDEX, BPF_F_INGRESS);
	}
	return bpf_redirect_neigh(ifindex, 0, 0, 0);
}

/* to_node names the node that the overlay's half is to send to. */
static __always_inline void to_node(struct __sk_buff *skb, __u32 vni, enum mesh_verdict verdict, const struct mesh_addr *node)
{
	skb->cb[0] = MESH_CB(vni, verdict);
	skb->cb[1] = node->w[0];
	skb->cb[2] = node->w[1];
	skb->cb[3] = node->w[2];
	skb->cb[4] = node->w[3];
}

/* restored gives an answer the address and port that its client spoke to: s->flow. Verified by itself, see choose. */
__noinline int restored(struct __sk_buff *skb)
{
	struct scratch *s = room();

	return s ? rewrite(skb, &s->p, &s->flow) : -1;
}

/* to_return answers in the entry node's name. */
static __always_inline int to_return(struct __sk_buff *skb, struct scratch *s, const struct flow *f, enum mesh_slot hook)
{
	s->flow = *f;
	s->flow.src = f->entry;
	s->flow.sport = f->backend_port;
	if (restored(skb))
		return drop(DROP_REWRITE);
	to_node(skb, s->key.vni, MESH_RETURN, &s->flow.entry);
	return forward(skb, hook);
}

/*
 * passed_on looks whether the packet is an answer that another node gave in this
 * node's name, and could not send to the client itself.
 */
static __always_inline int passed_on(struct __sk_buff *skb, struct scratch *s, __u32 vni, enum mesh_slot hook, int *verdict)
{
	struct flow *f;

	answer_to(&s->key, &s->p, vni, FORWARD);
	f = bpf_map_lookup_elem(&flows, &s->key);
	if (!f || !(f->flags & FLOW_RETURN))
		return 0;
	touch(s, f, REVERSE);
	*verdict = to_client(skb, f, vni, hook);
	return 1;
}

static __always_inline int to_entry(struct __sk_buff *skb, struct scratch *s, const struct flow *f, enum mesh_slot hook)
{
	if (set_port(skb, &s->p, s->p.l4 + 2, s->p.dport, f->dport))
		return drop(DROP_REWRITE);
	to_node(skb, s->key.vni, MESH_TO_NODE, &f->entry);
	return forward(skb, hook);
}

/*
 * answered looks whether the packet answers a balanced connection; if so it goes
 * back, and *verdict holds. A first packet answers nothing: what it would match is
 * left over from a connection that used the same ports before.
 */
static __always_inline int answered(struct __sk_buff *skb, struct scratch *s, __u32 vni, enum mesh_slot hook, int *verdict)
{
	struct flow *f;

	if (opens(&s->p))
		return 0;
	key_of(&s->key, &s->p, vni, REVERSE);
	f = bpf_map_lookup_elem(&flows, &s->key);
	if (!f)
		return 0;
	if (!is_zero(&f->entry)) {
		if (hook != MESH_BALANCE_CONTAINER)
			return 0;
		touch(s, f, ENTERED); /* no such entry: it has no other half here */
		*verdict = f->flags & FLOW_RETURN ? to_return(skb, s, f, hook) : to_entry(skb, s, f, hook);
		return 1;
	}
	answers_on(skb, s, f);
	touch(s, f, FORWARD);
	if (rewrite(skb, &s->p, f))
		*verdict = drop(DROP_REWRITE);
	else if (f->flags & FLOW_INGRESS)
		*verdict = to_client(skb, f, vni, hook);
	else
		*verdict = forward(skb, hook);
	return 1;
}

/* ---- errors ---- */

/* error_to_entry: as to_entry, for an error about what the client sent. */
static __always_inline int error_to_entry(struct __sk_buff *skb, struct scratch *s, const struct flow *f, enum mesh_slot hook)
{
	if (set_quoted_port(skb, s, 0, s->key.dport, f->dport))
		return drop(DROP_REWRITE);
	to_node(skb, s->key.vni, MESH_TO_NODE, &f->entry);
	return forward(skb, hook);
}

/* error_back: about what a client sent, from the backend's side. */
static __always_inline int error_back(struct __sk_buff *skb, struct scratch *s, enum mesh_slot hook, int *verdict)
{
	struct flow *f;

	s->key.direction = REVERSE;
	f = bpf_map_lookup_elem(&flows, &s->key);
	if (!f)
		return 0;
	if (!is_zero(&f->entry)) {
		if (hook != MESH_BALANCE_CONTAINER)
			return 0;
		*verdict = error_to_entry(skb, s, f, hook);
		return 1;
	}
	refused_by(skb, s, f);
	if (rewrite_error(skb, s, f)) {
		*verdict = drop(DROP_REWRITE);
	} else if (f->flags & FLOW_INGRESS) {
		*verdict = to_client(skb, f, s->key.vni, hook);
	} else {
		*verdict = forward(skb, hook);
	}
	return 1;
}

/* error_on: about what a backend answered, from the client's side. */
static __always_inline int error_on(struct __sk_buff *skb, struct scratch *s, enum mesh_slot hook, int *verdict)
{
	struct flow *f;

	s->key.direction = FORWARD;
	f = bpf_map_lookup_elem(&flows, &s->key);
	if (!f)
		return 0;
	if (rewrite_error(skb, s, f)) {
		*verdict = drop(DROP_REWRITE);
		return 1;
	}
	if (f->flags & FLOW_INGRESS)
		skb->cb[0] = MESH_CB(s->key.vni, MESH_DELIVER);
	*verdict = forward(skb, hook);
	return 1;
}

#endif
