/* SPDX-License-Identifier: GPL-2.0 */
/*
 * VIPs at the socket: a container that connects to one is connected to a backend,
 * and goes on believing that it talks to the VIP. No packet of it needs translation,
 * and there is no entry that could be pushed out while it is idle.
 *
 * Who asks is known by the network namespace's cookie. Which container has it, the
 * packets tell: see learn.h. Until then, and for everything here that does not
 * fit, the packets' way does the work.
 *
 * Connected UDP sockets stay with it, too: there a datagram to a backend that is
 * gone goes to another one.
 */
#ifndef MESH_IPVS_SOCKET_H
#define MESH_IPVS_SOCKET_H

#include "choose.h"

/* asker gives the networks of who asks; NULL: not a container of this node, or not known yet. */
static __always_inline struct client *asker(struct bpf_sock_addr *ctx, const struct node *n)
{
	__u64 netns = bpf_get_netns_cookie(ctx);
	struct client_key *name;

	if (!(n->flags & NODE_SOCKETS) || netns == n->netns)
		return NULL;
	name = bpf_map_lookup_elem(&known, &netns);
	if (!name) {
		__u64 socket = bpf_get_socket_cookie(ctx);

		/* To look is cheaper than to write, and a stranger may send a lot: it may be no container of ours at all. */
		if (!bpf_map_lookup_elem(&strangers, &socket))
			bpf_map_update_elem(&strangers, &socket, &netns, BPF_ANY);
		return NULL;
	}
	return bpf_map_lookup_elem(&clients, name);
}

static __always_inline int is_v4(const struct mesh_addr *a)
{
	return a->w[0] == 0 && a->w[1] == 0 && a->w[2] == MESH_V4_PREFIX;
}

/* find looks for a VIP of this address on the container's networks; zero if it is one: service, and the container's own address. */
static __always_inline int find(const struct client *c, const struct mesh_addr *vip, struct service_key *service, struct mesh_addr *own)
{
	__builtin_memset(service, 0, sizeof(*service));
	service->addr = *vip;
	for (int i = 0; i < CLIENT_NETWORKS; i++) {
		if (i >= c->count)
			break;
		if (is_v4(&c->networks[i].addr) != is_v4(vip))
			continue;
		service->vni = c->networks[i].vni;
		if (bpf_map_lookup_elem(&services, service)) {
			*own = c->networks[i].addr;
			return 0;
		}
	}
	return -1;
}

static __always_inline void socket_key_of(struct socket_key *k, struct bpf_sock_addr *ctx, const struct mesh_addr *addr, enum direction d)
{
	__builtin_memset(k, 0, sizeof(*k));
	k->socket = bpf_get_socket_cookie(ctx);
	k->addr = *addr;
	k->port = (__be16)ctx->user_port;
	k->proto = ctx->protocol;
	k->direction = d;
}

static __always_inline int still_there(const struct socket_peer *to)
{
	struct backend_key k = { .service = to->service, .addr = to->addr, .port = to->backend_port };
	__u32 *state = bpf_map_lookup_elem(&backends, &k);

	return state && !(*state & (BACKEND_EJECTED | BACKEND_AWAY));
}

/*
 * answers says that a datagram to a VIP answers one of the container itself, which
 * came by packet and bears the VIP as its source: see to_vip.
 */
static __always_inline int answers(struct bpf_sock_addr *ctx, const struct service_key *service, const struct mesh_addr *own)
{
	struct flow_key k = {
		.src = *own, .dst = service->addr, .dport = (__be16)ctx->user_port,
		.proto = IPPROTO_UDP, .direction = REVERSE, .vni = service->vni,
	};

	if (!ctx->sk)
		return 0;
	k.sport = bpf_htons(ctx->sk->src_port);
	return bpf_map_lookup_elem(&flows, &k) != NULL;
}

/* chosen makes `to` of a new choice and remembers it, for the answers; a datagram socket stays with it. */
static __always_inline int chosen(struct socket_key *k, const struct service_key *service, const struct mesh_addr *own, struct socket_peer *to)
{
	/* The source port is not known yet. */
	struct client_id who = { .addr = *own, .hash = bpf_get_prandom_u32() };
	struct socket_peer back = {};
	struct choice c;

	if (pick(service, &who, &c))
		return -1;
	__builtin_memset(to, 0, sizeof(*to));
	to->addr = c.slot.addr;
	to->backend_port = c.slot.port;
	to->port = c.slot.port ? c.slot.port : k->port;
	to->service = c.service;
	to->vni = service->vni;
	if (k->proto == IPPROTO_UDP)
		bpf_map_update_elem(&sockets, k, to, BPF_ANY);
	back = *to;
	back.addr = k->addr;
	back.port = k->port;
	k->addr = to->addr;
	k->port = to->port;
	k->direction = REVERSE;
	bpf_map_update_elem(&sockets, k, &back, BPF_ANY);
	return 0;
}

/* to_backend says where a socket is to be connected instead of `vip`; non-zero: where it asked. */
static __always_inline int to_backend(struct bpf_sock_addr *ctx, const struct mesh_addr *vip, struct socket_peer *to)
{
	struct node *n = this_node();
	struct service_key service;
	struct socket_peer *same;
	struct mesh_addr own;
	struct socket_key k;
	struct client *c;

	if (!n || (ctx->protocol != IPPROTO_TCP && ctx->protocol != IPPROTO_UDP))
		return -1;
	c = asker(ctx, n);
	if (!c || find(c, vip, &service, &own))
		return -1;
	if (ctx->protocol == IPPROTO_UDP && answers(ctx, &service, &own))
		return -1;
	socket_key_of(&k, ctx, vip, FORWARD);
	same = bpf_map_lookup_elem(&sockets, &k);
	if (same && still_there(same)) {
		*to = *same;
		return 0;
	}
	return chosen(&k, &service, &own, to); /* counted when its first packet is seen */
}

/* connects: as to_backend, for connect(). */
static __always_inline int connects(struct bpf_sock_addr *ctx, const struct mesh_addr *vip, struct socket_peer *to)
{
	struct node *n = this_node();

	if (ctx->protocol == IPPROTO_TCP)
		return to_backend(ctx, vip, to);
	/* Only to be known: mostly it is a resolver's socket. */
	if (n && ctx->protocol == IPPROTO_UDP)
		asker(ctx, n);
	return -1;
}

/* asked_for gives what a socket asked for when it got `peer`. */
static __always_inline struct socket_peer *asked_for(struct bpf_sock_addr *ctx, const struct mesh_addr *peer)
{
	struct socket_key k;

	socket_key_of(&k, ctx, peer, REVERSE);
	return bpf_map_lookup_elem(&sockets, &k);
}

#endif
