// SPDX-License-Identifier: GPL-2.0
/*
 * The overlay's data path: one program per kind of device, each a guard (who
 * speaks?) and a forwarding half (whose address is it?), with the balancer
 * tail-called in between; see hook.h.
 *
 * One VXLAN device in external mode (RFC 7348; "collect metadata") carries all
 * networks: the VNI and the other node's address are metadata of the packet. A
 * packet is handed to a container with bpf_redirect_peer: no bridge, no second
 * pass through a network stack.
 *
 * Addresses decide everything here, never ports, so fragments need no memory.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <stddef.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "packet.h"
#include "arp.h"
#include "cipher.h"
#include "direct.h"
#include "nd.h"
#include "transport.h"

/* tunnel sends to another node. The outer packet may be fragmented: with DF set, what is too long vanishes unannounced. */
static __always_inline int tunnel(struct __sk_buff *skb, __u32 vni, const struct mesh_addr *node)
{
	struct config *c = config();
	struct bpf_tunnel_key key = {};
	__u64 flags = BPF_F_ZERO_CSUM_TX;

	if (!c || !c->vxlan_ifindex)
		return drop(DROP_NO_TUNNEL);
	if (encrypted(vni)) {
		struct cipher *to = bpf_map_lookup_elem(&mesh_ciphers, node);

		if (!to || no_addr(&to->inside))
			return drop(DROP_NOT_ENCRYPTED);
		node = &to->inside;
	}
	key.tunnel_id = vni;
	key.tunnel_ttl = 64;
	if (is_v4(node)) {
		key.remote_ipv4 = bpf_ntohl(node->w[3]);
	} else {
		__builtin_memcpy(key.remote_ipv6, node->w, 16);
		/* UDP over IPv6 must have a checksum (RFC 8200). */
		flags = BPF_F_TUNINFO_IPV6;
		clamp_narrow(skb);
	}
	/* The length that kernels before 5.19 know too. */
	if (bpf_skb_set_tunnel_key(skb, &key, offsetof(struct bpf_tunnel_key, local_ipv4), flags))
		return drop(DROP_NO_TUNNEL);
	return bpf_redirect(c->vxlan_ifindex, 0);
}

/* deliver hands the packet to a container of this node. */
static __always_inline int deliver(struct __sk_buff *skb, const struct endpoint *to)
{
	struct config *c = config();
	__u32 ifindex = to->ifindex;
	__u8 macs[12];

	if (!c)
		return drop(DROP_NO_ENDPOINT);
	__builtin_memcpy(macs, to->mac, 6);
	__builtin_memcpy(macs + 6, c->router_mac, 6);
	if (bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0))
		return drop(DROP_NO_ENDPOINT);
	/* Before 6.15 the packet keeps the type it had on the first device, and is ignored. */
	bpf_skb_change_type(skb, PACKET_HOST);
	return bpf_redirect_peer(ifindex, 0);
}

static __always_inline struct endpoint *endpoint(__u32 vni, const struct mesh_addr *addr)
{
	struct endpoint_key key = { .vni = vni, .addr = *addr };

	return bpf_map_lookup_elem(&mesh_endpoints, &key);
}

static __always_inline int to_node(struct __sk_buff *skb)
{
	struct mesh_addr node = {{skb->cb[1], skb->cb[2], skb->cb[3], skb->cb[4]}};

	return tunnel(skb, MESH_CB_VNI(skb->cb[0]), &node);
}

/*
 * give_back sends what a container answers in the name of the node where its client
 * came in. Such a source address is good on a link where that node is sent to
 * directly, since frames with others' addresses are seen to arrive there. It goes out
 * there only if the client is reached by that link anyway.
 */
static __always_inline int give_back(struct __sk_buff *skb, const struct packet *p)
{
	struct mesh_addr entry = {{skb->cb[1], skb->cb[2], skb->cb[3], skb->cb[4]}};
	__u32 *link = switched(SWITCH_DIRECT) ? bpf_map_lookup_elem(&mesh_direct, &entry) : NULL;
	__u32 ifindex = link ? *link : 0;

	if (ifindex && leaves_by(skb, p, ifindex))
		return bpf_redirect_neigh(ifindex, NULL, 0, 0);
	return to_node(skb);
}

/* to_endpoint delivers here or sends to the endpoint's node. */
static __always_inline int to_endpoint(struct __sk_buff *skb, __u32 vni, const struct endpoint *to)
{
	if (to->flags & ENDPOINT_HOST)
		return drop(DROP_NO_ENDPOINT);
	if (to->ifindex)
		return deliver(skb, to);

	struct mesh_addr node = to->node;

	if (to->flags & ENDPOINT_ENCRYPTED)
		return encrypt(skb, &node);
	if (!(to->flags & ENDPOINT_TUNNEL)) {
		int sent = send_direct(skb, &node);

		if (sent >= 0)
			return sent;
	}
	return tunnel(skb, vni, &node);
}

/* ---- packets that a container sent ---- */

/* sign makes this node a frame's sender: who calls a published port from a container is on no list of the task's node. */
static __always_inline void sign(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct self *self = bpf_map_lookup_elem(&mesh_self, &zero);

	if (self)
		bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_source), self->mac, sizeof(self->mac), 0);
}

static __always_inline int in_overlay(const struct mesh_addr *addr)
{
	struct subnet_key key = { .prefixlen = 128, .addr = *addr };

	return bpf_map_lookup_elem(&mesh_subnets, &key) != NULL;
}

/*
 * The mesh network is the way to the node, the world and the balancer, not to
 * the other containers on it: those are reached over a common network.
 */
static __always_inline int forward_from(struct __sk_buff *skb, const struct iface *in, const struct packet *p)
{
	__u32 vni = MESH_CB_VNI(skb->cb[0]), verdict = MESH_CB_VERDICT(skb->cb[0]);

	if (verdict == MESH_TO_NODE)
		return to_node(skb);
	if (verdict == MESH_RETURN)
		return give_back(skb, p);

	struct endpoint *to = endpoint(vni, &p->dst);

	if (verdict == MESH_DELIVER) {
		if (!to)
			return drop(DROP_NO_ENDPOINT);
		if (in->flags & IFACE_MESH)
			sign(skb);
		return to_endpoint(skb, vni, to);
	}
	if (!(in->flags & IFACE_MESH)) {
		if (!to)
			return drop(DROP_NO_ENDPOINT);
		return to_endpoint(skb, vni, to);
	}
	if (to && to->flags & ENDPOINT_HOST)
		return TC_ACT_OK;
	if (to)
		return drop(DROP_ISOLATED);
	if (in_overlay(&p->dst))
		return drop(DROP_FOREIGN_NETWORK);

	struct config *c = config();

	if (!c || is_tunnelled(skb, p->v6, c->vxlan_port))
		return drop(DROP_UNKNOWN_PEER);
	return TC_ACT_OK;
}

SEC("tc")
int forward_container(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	struct iface *in = bpf_map_lookup_elem(&mesh_ifaces, &ifindex);
	struct packet p;

	if (!in)
		return drop(DROP_UNKNOWN_INTERFACE);
	if (parse(skb, &p))
		return drop(DROP_NOT_IP);
	return forward_from(skb, in, &p);
}

SEC("tc")
int from_container(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	struct iface *in = bpf_map_lookup_elem(&mesh_ifaces, &ifindex);
	struct mesh_addr none = {};
	struct packet p;

	if (!in)
		return drop(DROP_UNKNOWN_INTERFACE);
	if (skb->vlan_present)
		return drop(DROP_NOT_IP); /* a tag would go on to the node's own link, with direct routing */
	if (skb->protocol == bpf_htons(ETH_P_ARP))
		return answer_arp(skb, in);
	if (parse(skb, &p))
		return drop(DROP_NOT_IP);
	if (!same_mac(p.source_mac, in->mac))
		return drop(DROP_FORGED_MAC);
	if (p.v6) {
		struct config *c = config();
		__u8 nd = nd_type(skb);

		if (nd)
			return c ? answer_nd(skb, in, c->router_mac, nd) : drop(DROP_ARP);
		if (link_local(&p.dst))
			return drop(DROP_NO_ENDPOINT);
	}
	if (p.multicast)
		return drop(DROP_MULTICAST);
	if (!same_addr(&p.src, p.v6 ? &in->addr6 : &in->addr4))
		return drop(DROP_FORGED_ADDRESS);
	mark(skb, in->vni, &none);
	bpf_tail_call(skb, &mesh_hooks, MESH_BALANCE_CONTAINER);
	return forward_from(skb, in, &p);
}

/* ---- packets that a peer sent through the tunnel ---- */

static __always_inline int forward_to(struct __sk_buff *skb, const struct packet *p)
{
	__u32 vni = MESH_CB_VNI(skb->cb[0]), verdict = MESH_CB_VERDICT(skb->cb[0]);

	if (verdict == MESH_TO_NODE)
		return to_node(skb);

	struct endpoint *to = endpoint(vni, &p->dst);

	if (!to)
		return drop(DROP_NO_ENDPOINT);
	/* A plain packet is never sent on: two nodes that disagree would pass it to and fro. */
	if (verdict == MESH_NEXT && !to->ifindex)
		return drop(DROP_NO_ENDPOINT);
	return to_endpoint(skb, vni, to);
}

SEC("tc")
int forward_tunnel(struct __sk_buff *skb)
{
	struct packet p;

	if (parse(skb, &p))
		return drop(DROP_NOT_IP);
	return forward_to(skb, &p);
}

/* sender reads the outer source address and the VNI. */
static __always_inline int sender(struct __sk_buff *skb, struct mesh_addr *from, __u32 *vni)
{
	struct bpf_tunnel_key key = {};
	const __u32 size = offsetof(struct bpf_tunnel_key, local_ipv4);

	if (!bpf_skb_get_tunnel_key(skb, &key, size, 0))
		*from = v4_mapped(bpf_htonl(key.remote_ipv4));
	else if (!bpf_skb_get_tunnel_key(skb, &key, size, BPF_F_TUNINFO_IPV6))
		__builtin_memcpy(from, key.remote_ipv6, 16);
	else
		return -1;
	*vni = key.tunnel_id;
	return 0;
}

SEC("tc")
int from_tunnel(struct __sk_buff *skb)
{
	struct mesh_addr from = {};
	struct packet p;
	__u32 vni = 0;

	if (sender(skb, &from, &vni))
		return drop(DROP_UNKNOWN_PEER);
	if (encrypted(vni) && !from_inside(skb, &from))
		return drop(DROP_NOT_ENCRYPTED);
	if (!bpf_map_lookup_elem(&mesh_peers, &from))
		return drop(DROP_UNKNOWN_PEER);
	if (parse(skb, &p))
		return drop(DROP_NOT_IP);
	clamp_mss(skb, p.v6);
	mark(skb, vni, &from);
	bpf_tail_call(skb, &mesh_hooks, MESH_BALANCE_TUNNEL);
	return forward_to(skb, &p);
}

/* ---- packets that a peer encrypted ---- */

/*
 * from_cipher finds the network by the destination address, as from_link does; that the source is one of the peer's containers
 * WireGuard has made sure of (its AllowedIPs), and that it is on the same network is seen here.
 */
SEC("tc")
int from_cipher(struct __sk_buff *skb)
{
	struct subnet_key key = { .prefixlen = 128 };
	struct endpoint *from;
	struct mesh_addr node;
	struct packet p;
	__u32 *vni;

	if (for_tunnel(skb)) {
		skb->mark = INSIDE_MARK;
		return TC_ACT_OK;
	}
	if (put_header(skb) || parse(skb, &p))
		return drop(DROP_NOT_IP);
	key.addr = p.dst;
	vni = bpf_map_lookup_elem(&mesh_subnets, &key);
	if (!vni || !encrypted(*vni))
		return drop(DROP_FOREIGN_NETWORK);
	from = endpoint(*vni, &p.src);
	if (!from || from->ifindex || !(from->flags & ENDPOINT_ENCRYPTED))
		return drop(DROP_FORGED_ADDRESS);
	node = from->node;
	mark(skb, *vni, &node);
	bpf_tail_call(skb, &mesh_hooks, MESH_BALANCE_TUNNEL);
	return forward_to(skb, &p);
}

/* ---- packets of the node: from outside, and its own on lo ---- */

static __always_inline int forward_node(struct __sk_buff *skb)
{
	__u32 vni = MESH_CB_VNI(skb->cb[0]), verdict = MESH_CB_VERDICT(skb->cb[0]), note = skb->cb[1];
	struct config *c = config();
	struct packet p;
	struct self *self;
	__u8 macs[12];
	__u32 zero = 0;

	if (verdict == MESH_NEXT || !c)
		return TCX_NEXT;
	self = bpf_map_lookup_elem(&mesh_self, &zero);
	if (!self)
		return TCX_NEXT;
	clamp_mss(skb, skb->protocol == bpf_htons(ETH_P_IPV6));
	/* On lo there are no MACs, and a VXLAN device takes none from nobody. */
	__builtin_memcpy(macs, c->router_mac, 6);
	__builtin_memcpy(macs + 6, self->mac, 6);
	if (verdict == MESH_DELIVER && note)
		__builtin_memcpy(macs + MESH_NOTE_AT, &note, sizeof(note));
	if (bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0))
		return drop(DROP_NO_ENDPOINT);
	if (verdict == MESH_TO_NODE)
		return to_node(skb);
	if (parse(skb, &p))
		return drop(DROP_NOT_IP);

	struct endpoint *to = endpoint(vni, &p.dst);

	if (!to)
		return drop(DROP_NO_ENDPOINT);
	return to_endpoint(skb, vni, to);
}

SEC("tc")
int forward_underlay(struct __sk_buff *skb)
{
	return forward_node(skb);
}

SEC("tc")
int forward_local(struct __sk_buff *skb)
{
	return forward_node(skb);
}

/*
 * not_ours tells cheaply what no balancer can want: this program sees each packet
 * of the tunnel before it is unpacked and merged, some thirty times as many.
 */
static __always_inline int not_ours(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	struct iphdr *ip = data + sizeof(struct ethhdr);
	struct udphdr *udp = (void *)(ip + 1);
	struct config *c;

	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip6 = data + sizeof(struct ethhdr);
		struct udphdr *udp6 = (void *)(ip6 + 1);

		if ((void *)(udp6 + 1) > end || ip6->nexthdr != IPPROTO_UDP)
			return 0;
		c = config();
		return c && udp6->dest == c->vxlan_port;
	}
	if (skb->protocol != bpf_htons(ETH_P_IP))
		return 1;
	if ((void *)(udp + 1) > end)
		return 0; /* not linear: let the balancer look */
	if (ip->protocol != IPPROTO_UDP || ip->ihl != 5)
		return 0;
	c = config();
	return c && udp->dest == c->vxlan_port;
}

/*
 * from_link looks whether the packet is for an overlay network: a negative number
 * says no. If so it has to be from a container of a peer, in a frame of that
 * peer's, to a container here on the same network, or goes no further.
 */
static __always_inline int from_link(struct __sk_buff *skb)
{
	struct subnet_key key = { .prefixlen = 128 };
	struct endpoint *from;
	struct mesh_addr node;
	struct packet p;
	__u32 *vni;

	if (parse(skb, &p))
		return -1;
	key.addr = p.dst;
	vni = bpf_map_lookup_elem(&mesh_subnets, &key);
	if (!vni)
		return -1;
	/* Another VLAN is another link; and what a switch floods is not for us. */
	if (skb->vlan_present || skb->pkt_type != PACKET_HOST)
		return drop(DROP_UNKNOWN_PEER);

	int probed = answer_probe(skb);

	if (probed >= 0)
		return probed;
	from = endpoint(*vni, &p.src);
	if (!from || from->ifindex || from->flags)
		return drop(DROP_FORGED_ADDRESS);
	node = from->node;
	if (!is_sender(skb, &node, p.source_mac))
		return drop(DROP_UNKNOWN_PEER);
	mark(skb, *vni, &node);
	bpf_tail_call(skb, &mesh_hooks, MESH_BALANCE_TUNNEL);
	return forward_to(skb, &p);
}

SEC("tc")
int from_underlay(struct __sk_buff *skb)
{
	struct mesh_addr none = {};

	if (not_ours(skb))
		return TCX_NEXT;
	if (switched(SWITCH_DIRECT)) {
		int taken = from_link(skb);

		if (taken >= 0)
			return taken;
	}
	mark(skb, 0, &none);
	bpf_tail_call(skb, &mesh_hooks, MESH_BALANCE_UNDERLAY);
	return TCX_NEXT;
}

SEC("tc")
int from_local(struct __sk_buff *skb)
{
	struct mesh_addr none = {};

	if (not_ours(skb))
		return TCX_NEXT;
	mark(skb, 0, &none);
	bpf_tail_call(skb, &mesh_hooks, MESH_BALANCE_LOCAL);
	return TCX_NEXT;
}

char _license[] SEC("license") = "GPL";
