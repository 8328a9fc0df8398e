/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The hook ABI: how the overlay's programs and the load balancer's share a packet.
 *
 * One overlay program sits on each device. It parses, checks who speaks, and
 * tail-calls the balancer through the program array `mesh_hooks`; the balancer
 * rewrites addresses if it wants to and tail-calls the overlay's forwarding half
 * through the same array. An empty slot falls through to the caller, so that
 * either half works alone:
 *
 *   device in -> overlay guard -> [balancer] -> overlay forward -> device out
 *
 * skb->cb carries what the halves tell each other (it survives tail calls). The
 * guard sets all five words, so that nobody reads what a driver left there.
 *
 * All programs of both halves are SEC("tc"): a program array takes only programs
 * of one type and one expected attach type, and that one also loads where there
 * is no tcx. The array has __u32 keys and values, no flags, and is pinned as
 * `mesh_hooks`.
 */
#ifndef MESH_HOOK_H
#define MESH_HOOK_H

/* Slots of mesh_hooks (BPF_MAP_TYPE_PROG_ARRAY, 8 entries, pinned by name). */
enum mesh_slot {
	MESH_BALANCE_CONTAINER = 0, /* a packet a local container sent */
	MESH_BALANCE_TUNNEL    = 1, /* a packet a peer sent; cb[1..4] = that peer */
	MESH_BALANCE_UNDERLAY  = 2, /* a packet that came in on the node's own device */
	MESH_BALANCE_LOCAL     = 3, /* a packet of the node itself, on lo */
	MESH_FORWARD_CONTAINER = 4,
	MESH_FORWARD_TUNNEL    = 5,
	MESH_FORWARD_UNDERLAY  = 6,
	MESH_FORWARD_LOCAL     = 7,
	MESH_SLOTS             = 8,
};

/*
 * cb[0] = VNI << 8 | verdict. The guard sets the VNI the packet is on (container:
 * that of its interface; tunnel: that of the tunnel; underlay, local: 0) and
 * MESH_NEXT; the balancer may replace both.
 */
enum mesh_verdict {
	MESH_NEXT    = 0, /* forward by destination address; underlay, local: not ours, let it pass */
	MESH_DELIVER = 1, /* the destination address is an endpoint on the VNI in cb[0]: forward there */
	MESH_TO_NODE = 2, /* tunnel on the VNI in cb[0] to the node whose address is cb[1..4] */
	MESH_RETURN  = 3, /* container: an answer of the node whose address is cb[1..4], in its name: to the client itself if
	                   * this node and that one send each other direct frames, and the way there is the link; else as MESH_TO_NODE */
};

/*
 * With MESH_DELIVER, a packet of the node itself may bear a note to the node that it is
 * tunnelled to: cb[1], which becomes the last four bytes of the frame's source MAC there.
 * This one says that answers may return directly, from the port in its lower half
 * (network byte order: the last two bytes).
 */
#define MESH_NOTE_RETURN bpf_htonl(0xd5000000)
#define MESH_NOTE_MASK bpf_htonl(0xffff0000)
#define MESH_NOTE_AT 8 /* offset in the frame */

#define MESH_CB(vni, verdict) (((__u32)(vni) << 8) | (verdict))
#define MESH_CB_VNI(cb0) ((cb0) >> 8)
#define MESH_CB_VERDICT(cb0) ((cb0) & 0xff)

/* Addresses are 16 bytes everywhere; IPv4 as ::ffff:a.b.c.d, network byte order. */
struct mesh_addr {
	__u32 w[4];
};

#define MESH_V4_PREFIX bpf_htonl(0xffff)

#endif
