/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What sockets and packets tell of each other. A packet that leaves a container
 * still knows its socket, and its source address has been checked: so it tells which
 * container a network namespace belongs to. That needs neither a process ID nor the
 * engine, and holds for containers that were started by hand.
 */
#ifndef MESH_IPVS_LEARN_H
#define MESH_IPVS_LEARN_H

#include "flow.h"

#define DNS_PORT bpf_htons(53)

/*
 * learn looks at beginnings and at DNS queries. A name is asked for before there is
 * a connection: so the namespace is known in time for the first one.
 */
static __always_inline void learn(struct __sk_buff *skb, const struct packet *p, __u32 vni, const struct node *n)
{
	struct client_key name = { .vni = vni, .addr = p->src };
	__u64 socket, *netns;

	if (!(n->flags & NODE_SOCKETS) || p->later || !(opens(p) || (p->proto == IPPROTO_UDP && p->dport == DNS_PORT)))
		return;
	socket = bpf_get_socket_cookie(skb);
	if (!socket)
		return;
	netns = bpf_map_lookup_elem(&strangers, &socket);
	if (!netns)
		return;
	bpf_map_update_elem(&known, netns, &name, BPF_ANY);
	bpf_map_delete_elem(&strangers, &socket);
}

/* led_here says that the packet begins a connection that its socket was led to; s->flow then has the backend. */
static __always_inline int led_here(struct __sk_buff *skb, struct scratch *s, __u32 vni)
{
	struct socket_key k = {
		.socket = bpf_get_socket_cookie(skb), .addr = s->p.dst, .port = s->p.dport, .proto = s->p.proto, .direction = REVERSE,
	};
	struct socket_peer *asked = bpf_map_lookup_elem(&sockets, &k);

	if (!asked || asked->vni != vni)
		return 0;
	s->flow.service = asked->service;
	s->flow.backend_port = asked->backend_port;
	return 1;
}

#endif
