// SPDX-License-Identifier: GPL-2.0
/*
 * The load balancer: virtual addresses inside the overlay networks, and published
 * ports on the node's own addresses, packet by packet. Called by the overlay's
 * programs through mesh_hooks, hands on to their forwarding halves; see hook.h.
 *
 * Only destinations are rewritten, so a task sees the client's real address. An
 * answer is turned back on the client's node (VIPs) or on the node where the
 * connection entered (published ports); the backend's node remembers which.
 * Where answers may return directly, it has told the backend's node what the client called, and that one turns them.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <stddef.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "answer.h"
#include "carry.h"
#include "peer.h"
#include "published.h"
#include "refuse.h"
#include "vip.h"

SEC("tc")
int balance_underlay(struct __sk_buff *skb)
{
	return from_node(skb, 0, MESH_BALANCE_UNDERLAY);
}

SEC("tc")
int balance_local(struct __sk_buff *skb)
{
	return from_node(skb, FLOW_FROM_LO, MESH_BALANCE_LOCAL);
}

SEC("tc")
int balance_tunnel(struct __sk_buff *skb)
{
	__u32 vni = MESH_CB_VNI(skb->cb[0]);
	struct scratch *s = room();
	struct node *n = this_node();
	int verdict;

	if (!s || !n || parse(skb, &s->p, vni))
		return forward(skb, MESH_BALANCE_TUNNEL);
	leave_to_former(skb, s, n, vni, MESH_BALANCE_TUNNEL);
	if (is_error(skb, &s->p) && !quoted(skb, s, vni) && error_back(skb, s, MESH_BALANCE_TUNNEL, &verdict))
		return verdict;
	if (!has_ports(&s->p))
		return forward(skb, MESH_BALANCE_TUNNEL);
	if (s->p.unknown)
		return forward(skb, MESH_BALANCE_TUNNEL);
	remember(&s->p, vni);
	if (answered(skb, s, vni, MESH_BALANCE_TUNNEL, &verdict))
		return verdict;
	if (vni == n->mesh_vni && passed_on(skb, s, vni, MESH_BALANCE_TUNNEL, &verdict))
		return verdict;
	if (vni == n->mesh_vni && note_entry(skb, s, vni))
		return drop(DROP_REWRITE);
	return forward(skb, MESH_BALANCE_TUNNEL);
}

SEC("tc")
int balance_container(struct __sk_buff *skb)
{
	__u32 vni = MESH_CB_VNI(skb->cb[0]);
	struct scratch *s = room();
	struct node *n = this_node();
	int verdict;

	if (!s || !n || parse(skb, &s->p, vni))
		return forward(skb, MESH_BALANCE_CONTAINER);
	leave_to_former(skb, s, n, vni, MESH_BALANCE_CONTAINER);
	if (is_error(skb, &s->p) && !quoted(skb, s, vni) &&
	    (error_back(skb, s, MESH_BALANCE_CONTAINER, &verdict) || error_on(skb, s, MESH_BALANCE_CONTAINER, &verdict)))
		return verdict;
	if (!has_ports(&s->p))
		return other_protocol(skb, &s->p, vni);
	if (s->p.unknown)
		return lost_fragment(skb, &s->p, vni);
	remember(&s->p, vni);
	learn(skb, &s->p, vni, n);
	if (answered(skb, s, vni, MESH_BALANCE_CONTAINER, &verdict))
		return verdict;
	if (vni == n->mesh_vni && is_published(s->p.dport, s->p.proto) && is_node_addr(&s->p.dst, FLOW_FROM_CONTAINER))
		return ingress(skb, s, vni, came_in(skb, s, FLOW_FROM_CONTAINER), MESH_BALANCE_CONTAINER);
	return request(skb, s, vni);
}

char _license[] SEC("license") = "GPL";
