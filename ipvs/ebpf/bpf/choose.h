/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Which backend gets a new connection: of a packet, or of a socket. User space
 * has written the slots so that weights are in them: see ../slots.go.
 */
#ifndef MESH_IPVS_CHOOSE_H
#define MESH_IPVS_CHOOSE_H

#include "maps.h"

#define LEAST_CONN_LOOKS_AT 64

struct choice {
	struct slot slot;
	__u32 service;
};

/* Who asks. */
struct client_id {
	struct mesh_addr addr;
	__u32 hash; /* of the connection */
};

static __always_inline __u32 mixed(__u32 h, __u32 word)
{
	h = (h ^ word) * 0x9e3779b1;
	return h ^ h >> 15;
}

static __always_inline __u32 hash_of(__u32 h, const struct mesh_addr *a)
{
	h = mixed(h, a->w[0]);
	h = mixed(h, a->w[1]);
	h = mixed(h, a->w[2]);
	return mixed(h, a->w[3]);
}

static __always_inline struct slot *slot_at(const struct service *s, __u32 index)
{
	struct slot_key at = { .service = s->id, .generation = s->generation, .index = index };

	return bpf_map_lookup_elem(&slots, &at);
}

static __always_inline __s32 *load_of(__u32 service, const struct mesh_addr *addr, __be16 port)
{
	struct backend_key k = { .service = service, .addr = *addr, .port = port };

	return bpf_map_lookup_elem(&loads, &k);
}

/* lighter says that b has fewer connections than a for its weight. */
static __always_inline int lighter(const struct service *s, const struct slot *a, const struct slot *b)
{
	__s32 *la = load_of(s->id, &a->addr, a->port);
	__s32 *lb = load_of(s->id, &b->addr, b->port);
	__u64 na = la && *la > 0 ? *la : 0, nb = lb && *lb > 0 ? *lb : 0;

	return nb * a->weight < na * b->weight;
}

/* least looks at all slots, or of very many at a piece that begins anywhere. */
static __always_inline struct slot *least(const struct service *s)
{
	__u32 from = bpf_get_prandom_u32() % s->count;
	struct slot *best = slot_at(s, from);

	for (__u32 i = 1; i < LEAST_CONN_LOOKS_AT; i++) {
		__u32 index = from + i;
		struct slot *other;

		if (!best || i >= s->count)
			break;
		other = slot_at(s, index >= s->count ? index - s->count : index);
		if (other && lighter(s, best, other))
			best = other;
	}
	return best;
}

static __always_inline struct slot *random2(const struct service *s)
{
	struct slot *a = slot_at(s, bpf_get_prandom_u32() % s->count);
	struct slot *b = slot_at(s, bpf_get_prandom_u32() % s->count);

	return a && b && lighter(s, a, b) ? b : a;
}

static __always_inline struct slot *next_turn(const struct service *s)
{
	__u32 *turn = bpf_map_lookup_elem(&turns, &s->id);
	__u32 index = turn ? *turn : bpf_get_prandom_u32();

	/* Two CPUs may take the same turn: to fetch and add in one is newer than the kernels we run on. */
	if (turn)
		__sync_fetch_and_add(turn, 1);
	return slot_at(s, index % s->count);
}

static __always_inline struct slot *slot_for(const struct service *s, const struct client_id *who)
{
	switch (s->algorithm) {
	case ROUND_ROBIN:
		return next_turn(s);
	case LEAST_CONN:
		return least(s);
	case MAGLEV:
		/* With affinity the client counts alone: so all nodes agree on its backend. */
		return slot_at(s, (s->affinity ? hash_of(0, &who->addr) : who->hash) % s->count);
	}
	return random2(s);
}

/* as_before finds the backend that the client had last. */
static __always_inline int as_before(const struct service *s, const struct affinity_key *k, struct choice *c)
{
	struct affinity *last = bpf_map_lookup_elem(&affinities, k);
	struct backend_key b = { .service = s->id };
	__u32 *state, t = now();

	if (!last || t - last->seen > s->affinity)
		return -1;
	b.addr = last->addr;
	b.port = last->port;
	state = bpf_map_lookup_elem(&backends, &b);
	if (!state || *state & BACKEND_OUT)
		return -1;
	last->seen = t;
	c->slot.addr = b.addr;
	c->slot.port = b.port;
	return 0;
}

static __always_inline void stay(const struct affinity_key *k, const struct choice *c)
{
	struct affinity a = { .addr = c->slot.addr, .port = c->slot.port, .seen = now() };

	bpf_map_update_elem(&affinities, k, &a, BPF_ANY);
}

/* pick chooses a backend; non-zero: there is none. c->service is zero if there is no service either. */
static __always_inline int pick(const struct service_key *key, const struct client_id *who, struct choice *c)
{
	/* Twice: between two look-ups user space may have replaced the list. */
	c->service = 0;
	for (int i = 0; i < 2; i++) {
		struct service *service = bpf_map_lookup_elem(&services, key);
		struct affinity_key affine = { .client = who->addr };
		struct slot *slot;

		if (!service)
			return -1;
		c->service = affine.service = service->id;
		if (!service->count)
			return -1;
		if (service->affinity && !as_before(service, &affine, c))
			return 0;
		slot = slot_for(service, who);
		if (!slot)
			continue;
		c->slot = *slot;
		if (service->affinity)
			stay(&affine, c);
		return 0;
	}
	return -1;
}

#endif
