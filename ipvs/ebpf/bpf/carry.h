/* SPDX-License-Identifier: GPL-2.0 */
/*
 * While connections are carried over from the maps of a version with another layout
 * (see ../carry.go), those that are not there yet belong to the programs that were in
 * the slots before: they still have them. What begins is ours, so that this ends.
 */
#ifndef MESH_IPVS_CARRY_H
#define MESH_IPVS_CARRY_H

#include "flow.h"

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 4); /* those of enum mesh_slot that are the balancer's */
	__type(key, __u32);
	__type(value, __u32);
} former SEC(".maps");

/* leave_to_former does not return if the packet is the former programs'. */
static __always_inline void leave_to_former(struct __sk_buff *skb, struct scratch *s, const struct node *n, __u32 vni, enum mesh_slot slot)
{
	if (!(n->flags & NODE_CARRYING))
		return;
	if (has_ports(&s->p) && !s->p.unknown) {
		if (opens(&s->p))
			return;
		key_of(&s->key, &s->p, vni, FORWARD);
		if (bpf_map_lookup_elem(&flows, &s->key))
			return;
		s->key.direction = REVERSE;
		if (bpf_map_lookup_elem(&flows, &s->key))
			return;
	}
	bpf_tail_call(skb, &former, slot);
}

#endif
