/* SPDX-License-Identifier: GPL-2.0 */
/* Which backend gets a new connection: of a packet, or of a socket. */
#ifndef MESH_IPVS_CHOOSE_H
#define MESH_IPVS_CHOOSE_H

#include "maps.h"

struct choice {
	struct slot slot;
	__u32 service;
};

/* pick chooses a backend; non-zero: there is none. */
static __always_inline int pick(const struct service_key *key, struct choice *c)
{
	/* Twice: between two look-ups user space may have replaced the list. */
	for (int i = 0; i < 2; i++) {
		struct service *service = bpf_map_lookup_elem(&services, key);
		struct slot_key at;
		struct slot *slot;

		if (!service || !service->count)
			return -1;
		at.service = service->id;
		at.generation = service->generation;
		at.index = bpf_get_prandom_u32() % service->count;
		slot = bpf_map_lookup_elem(&slots, &at);
		if (!slot)
			continue;
		c->slot = *slot;
		c->service = at.service;
		return 0;
	}
	return -1;
}

#endif
