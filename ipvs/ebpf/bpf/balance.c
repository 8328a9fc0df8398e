// SPDX-License-Identifier: GPL-2.0
/*
 * The load balancer: virtual addresses inside the overlay networks, and published
 * ports on the node's own addresses, packet by packet. Called by the overlay's
 * programs through mesh_hooks, hands on to their forwarding halves; see hook.h.
 *
 * Only destinations are rewritten, so a task sees the client's real address. An
 * answer is turned back on the client's node (VIPs) or on the node where the
 * connection entered (published ports); the backend's node remembers which.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <stddef.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "flow.h"
#include "refuse.h"

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

static __always_inline int to_entry(struct __sk_buff *skb, struct scratch *s, const struct flow *f, enum mesh_slot hook)
{
	__u32 vni = s->key.vni;

	if (set_port(skb, &s->p, s->p.l4 + 2, s->p.dport, f->dport))
		return drop(DROP_REWRITE);
	skb->cb[0] = MESH_CB(vni, MESH_TO_NODE);
	skb->cb[1] = f->entry.w[0];
	skb->cb[2] = f->entry.w[1];
	skb->cb[3] = f->entry.w[2];
	skb->cb[4] = f->entry.w[3];
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
		*verdict = to_entry(skb, s, f, hook);
		return 1;
	}
	touch(s, f, FORWARD);
	if (rewrite(skb, &s->p, f))
		*verdict = drop(DROP_REWRITE);
	else if (f->flags & FLOW_INGRESS)
		*verdict = to_client(skb, f, vni, hook);
	else
		*verdict = forward(skb, hook);
	return 1;
}

/* ---- published ports ---- */

static __always_inline int is_node_addr(const struct mesh_addr *a)
{
	return bpf_map_lookup_elem(&node_addrs, a) != NULL;
}

/* enters says that this packet can begin a connection to a published port. */
static __always_inline int enters(struct scratch *s)
{
	if (s->p.later)
		return 0;
	if (s->p.proto == IPPROTO_TCP)
		return opens(&s->p); /* else it answers what the node itself began */
	/* On lo our own answers pass by again, to what may be a published number. */
	answer_to(&s->other, &s->p, s->key.vni, FORWARD);
	return !bpf_map_lookup_elem(&flows, &s->other);
}

/* enter chooses a backend for a new connection to a published port: s->flow. */
static __always_inline int enter(struct __sk_buff *skb, struct scratch *s, __u16 from)
{
	struct service_key service = { .vni = s->key.vni, .port = s->p.dport, .proto = s->p.proto };

	if (!enters(s))
		return -1;
	__builtin_memset(&s->flow, 0, sizeof(s->flow));
	if (choose(s, &service))
		return -1;
	s->flow.src = s->p.src;
	s->flow.sport = s->p.sport;
	/* A task cannot answer itself or 127.0.0.1 through the network: those come from the node's address. */
	if (same_addr(&s->p.src, &s->flow.dst) || (bpf_ntohl(s->p.src.w[3]) >> 24) == 127)
		s->flow.src = s->p.dst;
	s->flow.flags = FLOW_INGRESS | from;
	s->flow.ifindex = skb->ifindex;
	keep(s);
	count(s->flow.service, 1);
	return 0;
}

/*
 * ingress leads a packet for a published port to its backend. What cannot be led
 * anywhere is the node's own: its stack refuses it as it refuses any closed port.
 */
static __always_inline int ingress(struct __sk_buff *skb, struct scratch *s, __u32 mesh, __u16 from, enum mesh_slot hook)
{
	struct flow *f;

	key_of(&s->key, &s->p, mesh, FORWARD);
	f = bpf_map_lookup_elem(&flows, &s->key);
	if (f) {
		enum fitness fit = fitness(s, f);

		if (fit == GONE) {
			drop(DROP_BACKEND_GONE);
			return forward(skb, hook);
		}
		if (fit == AGAIN) {
			f = NULL;
		} else {
			touch(s, f, REVERSE);
			count(f->service, 0);
		}
	}
	if (!f) {
		if (enter(skb, s, from))
			return forward(skb, hook);
		f = &s->flow;
	}
	if (rewrite(skb, &s->p, f))
		return drop(DROP_REWRITE);
	skb->cb[0] = MESH_CB(mesh, MESH_DELIVER);
	return forward(skb, hook);
}

/*
 * unpublished tells cheaply what is not for a published port: every packet of the
 * node comes by here.
 */
static __always_inline int unpublished(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	struct iphdr *ip = data + L3;
	struct ports *ports = (void *)(ip + 1);

	if (skb->protocol != bpf_htons(ETH_P_IP))
		return 1;
	if ((void *)(ports + 1) > end || ip->ihl != 5 || ip->frag_off & bpf_htons(FRAGMENT_OFFSET))
		return 0;
	if (ip->protocol != IPPROTO_TCP && ip->protocol != IPPROTO_UDP)
		return 1;
	return !is_published(ports->dest, ip->protocol);
}

static __always_inline int from_node(struct __sk_buff *skb, __u16 from, enum mesh_slot hook)
{
	struct scratch *s = room();
	struct node *n = this_node();

	if (unpublished(skb) || !s || !n || parse(skb, &s->p, 0) || !has_ports(&s->p))
		return forward(skb, hook);
	if (s->p.unknown || !is_published(s->p.dport, s->p.proto) || !is_node_addr(&s->p.dst))
		return forward(skb, hook);
	remember(&s->p, 0);
	return ingress(skb, s, n->mesh_vni, from, hook);
}

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

/* ---- what a peer sent ---- */

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

SEC("tc")
int balance_tunnel(struct __sk_buff *skb)
{
	__u32 vni = MESH_CB_VNI(skb->cb[0]);
	struct scratch *s = room();
	struct node *n = this_node();
	int verdict;

	if (!s || !n || parse(skb, &s->p, vni) || !has_ports(&s->p))
		return forward(skb, MESH_BALANCE_TUNNEL);
	if (s->p.unknown)
		return forward(skb, MESH_BALANCE_TUNNEL);
	remember(&s->p, vni);
	if (answered(skb, s, vni, MESH_BALANCE_TUNNEL, &verdict))
		return verdict;
	if (vni == n->mesh_vni && note_entry(skb, s, vni))
		return drop(DROP_REWRITE);
	return forward(skb, MESH_BALANCE_TUNNEL);
}

/* ---- what a container sent ---- */

/* to_vip leads a packet to a backend of the VIP it is for: s->key is its FORWARD key. */
static __always_inline int to_vip(struct __sk_buff *skb, struct scratch *s, const struct service_key *service)
{
	__builtin_memset(&s->flow, 0, sizeof(s->flow));
	if (s->p.later)
		return drop(DROP_FRAGMENT);
	if (choose(s, service)) {
		if (s->p.proto == IPPROTO_TCP)
			return reset(skb, &s->p, DROP_NO_BACKEND);
		return unreachable(skb, &s->p);
	}
	/* Not a beginning, and unknown: its entry was lost, and no other backend can go on with it. */
	if (s->p.proto == IPPROTO_TCP && !opens(&s->p))
		return reset(skb, &s->p, DROP_BACKEND_GONE);
	s->flow.src = s->p.src;
	s->flow.sport = s->p.sport;
	/* A client that is its own backend would answer itself directly: it is called by the VIP. */
	if (same_addr(&s->p.src, &s->flow.dst))
		s->flow.src = s->p.dst;
	keep(s);
	count(s->flow.service, 1);
	if (rewrite(skb, &s->p, &s->flow))
		return drop(DROP_REWRITE);
	return forward(skb, MESH_BALANCE_CONTAINER);
}

/*
 * direct looks after packets to no VIP. Where their answers would be taken for
 * those of a connection through a VIP, an ended one is forgotten, and beside a live
 * one the source port is changed.
 */
static __always_inline int direct(struct __sk_buff *skb, struct scratch *s, __u32 vni)
{
	struct flow *f;

	if (s->p.later || (s->p.proto == IPPROTO_TCP && !opens(&s->p)))
		return forward(skb, MESH_BALANCE_CONTAINER);
	answer_to(&s->other, &s->p, vni, REVERSE);
	f = bpf_map_lookup_elem(&flows, &s->other);
	if (!f)
		return forward(skb, MESH_BALANCE_CONTAINER);
	if (over(f, s->p.proto)) {
		bpf_map_delete_elem(&flows, &s->other);
		return forward(skb, MESH_BALANCE_CONTAINER);
	}
	__builtin_memset(&s->flow, 0, sizeof(s->flow));
	s->flow.src = s->p.src;
	s->flow.sport = s->p.sport;
	s->flow.dst = s->p.dst;
	s->flow.dport = s->p.dport;
	keep(s);
	if (rewrite(skb, &s->p, &s->flow))
		return drop(DROP_REWRITE);
	return forward(skb, MESH_BALANCE_CONTAINER);
}

/* other_protocol answers echo requests to VIPs; nothing else reaches them. */
static __always_inline int other_protocol(struct __sk_buff *skb, const struct packet *p, __u32 vni)
{
	struct service_key service = { .vni = vni, .addr = p->dst };
	__u8 type = 0;

	if (!bpf_map_lookup_elem(&services, &service))
		return forward(skb, MESH_BALANCE_CONTAINER);
	if (p->proto != IPPROTO_ICMP)
		return drop(DROP_PROTOCOL);
	if (p->later)
		return turn_round(skb, p);
	if (bpf_skb_load_bytes(skb, p->l4, &type, 1) || type != ICMP_ECHO)
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

		if (fit == GONE)
			return reset(skb, &s->p, DROP_BACKEND_GONE);
		if (fit == FIT) {
			touch(s, f, REVERSE);
			count(f->service, 0);
			if (rewrite(skb, &s->p, f))
				return drop(DROP_REWRITE);
			return forward(skb, MESH_BALANCE_CONTAINER);
		}
	}
	if (bpf_map_lookup_elem(&services, &service))
		return to_vip(skb, s, &service);
	return direct(skb, s, vni);
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
	if (!has_ports(&s->p))
		return other_protocol(skb, &s->p, vni);
	if (s->p.unknown)
		return lost_fragment(skb, &s->p, vni);
	remember(&s->p, vni);
	if (answered(skb, s, vni, MESH_BALANCE_CONTAINER, &verdict))
		return verdict;
	if (vni == n->mesh_vni && is_published(s->p.dport, s->p.proto) && is_node_addr(&s->p.dst))
		return ingress(skb, s, vni, FLOW_FROM_CONTAINER, MESH_BALANCE_CONTAINER);
	return request(skb, s, vni);
}

char _license[] SEC("license") = "GPL";
