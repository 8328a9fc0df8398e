// SPDX-License-Identifier: GPL-2.0
/*
 * What is decided when a socket connects or sends: VIPs for containers (socket.h),
 * and here published ports on 127.0.0.1: a process of the node that connects to loopback is
 * led to the node's own address at connect() time, where balance_local sees its
 * packets, and goes on believing that it talks to 127.0.0.1. A packet of 127.0.0.1
 * itself could not leave the machine.
 *
 * Attached to the root of the cgroup tree, hence asked by every process of the
 * machine: only sockets of the node's own network namespace are led to its address,
 * so that containers keep their loopback, and only those of its own containers to
 * backends, so that several nodes fit on one machine.
 *
 * ::1 leads to the node's IPv6 address; where it has none, or the port answers IPv4 only,
 * to its IPv4 address. Not possible then: sendto() on an unconnected socket (the kernel
 * does not let a program lead from IPv6 to IPv4 there), and IPV6_V6ONLY sockets.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "socket.h"

#define ALLOW 1

struct led_key {
	__u64 socket; /* cookie */
	__be16 port;
	__u16 pad[3];
};

/* What the process asked for, by socket. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct led_key);
	__type(value, struct mesh_addr);
	PINNED;
} led SEC(".maps");

static __always_inline struct led_key key_of(struct bpf_sock_addr *ctx)
{
	struct led_key k = { .socket = bpf_get_socket_cookie(ctx), .port = (__be16)ctx->user_port };

	return k;
}

static __always_inline int is_ours(struct bpf_sock_addr *ctx, const struct node *n)
{
	return n && bpf_get_netns_cookie(ctx) == n->netns;
}

/* on_loopback says that a published port answers the node's own processes on a loopback address. */
static __always_inline int on_loopback(struct bpf_sock_addr *ctx, const struct node *n, const struct mesh_addr *loopback, int v6)
{
	struct service_key k = { .vni = n->mesh_vni, .port = (__be16)ctx->user_port, .proto = ctx->protocol };

	if (v6)
		__builtin_memset(&k.addr, 0xff, sizeof(k.addr));
	if (bpf_map_lookup_elem(&services, &k))
		return 1;
	k.addr = *loopback;
	return bpf_map_lookup_elem(&services, &k) != NULL;
}

/* leads says whether a socket that asks for loopback is led elsewhere at all. */
static __always_inline int leads(struct bpf_sock_addr *ctx, const struct node *n)
{
	return is_published((__be16)ctx->user_port, ctx->protocol) && is_ours(ctx, n);
}

static __always_inline void note_asked(struct bpf_sock_addr *ctx, const struct mesh_addr *asked)
{
	struct led_key k = key_of(ctx);

	bpf_map_update_elem(&led, &k, asked, BPF_ANY);
}

/* lead gives the IPv4 address to connect to instead; zero: leave it. */
static __always_inline __be32 lead(struct bpf_sock_addr *ctx, const struct mesh_addr *asked)
{
	struct mesh_addr loopback = v4_mapped(LOOPBACK4);
	struct node *n = this_node();

	if (!leads(ctx, n) || !n->addr4 || !on_loopback(ctx, n, &loopback, 0))
		return 0;
	note_asked(ctx, asked);
	return n->addr4;
}

/* asked gives what the process believes that it talks to. */
static __always_inline struct mesh_addr *asked(struct bpf_sock_addr *ctx, const struct mesh_addr *peer)
{
	struct node *n = this_node();
	struct led_key k;

	if (!leads(ctx, n) || !(is_v4(peer) ? peer->w[3] == n->addr4 : same_addr(peer, &n->addr6)))
		return NULL;
	k = key_of(ctx);
	return bpf_map_lookup_elem(&led, &k);
}

static __always_inline struct mesh_addr addr4_of(struct bpf_sock_addr *ctx)
{
	return v4_mapped(ctx->user_ip4);
}

static __always_inline struct mesh_addr addr6_of(struct bpf_sock_addr *ctx)
{
	struct mesh_addr a;

	a.w[0] = ctx->user_ip6[0];
	a.w[1] = ctx->user_ip6[1];
	a.w[2] = ctx->user_ip6[2];
	a.w[3] = ctx->user_ip6[3];
	return a;
}

static __always_inline void set_peer4(struct bpf_sock_addr *ctx, const struct socket_peer *p)
{
	ctx->user_ip4 = p->addr.w[3];
	ctx->user_port = p->port;
}

static __always_inline void set_addr6(struct bpf_sock_addr *ctx, const struct mesh_addr *a)
{
	ctx->user_ip6[0] = a->w[0];
	ctx->user_ip6[1] = a->w[1];
	ctx->user_ip6[2] = a->w[2];
	ctx->user_ip6[3] = a->w[3];
}

static __always_inline void set_peer6(struct bpf_sock_addr *ctx, const struct socket_peer *p)
{
	set_addr6(ctx, &p->addr);
	ctx->user_port = p->port;
}

static __always_inline int lead4(struct bpf_sock_addr *ctx)
{
	struct mesh_addr want = addr4_of(ctx);
	__be32 to = lead(ctx, &want);

	if (to)
		ctx->user_ip4 = to;
	return ALLOW;
}

static __always_inline int back4(struct bpf_sock_addr *ctx)
{
	struct mesh_addr peer = addr4_of(ctx);
	struct mesh_addr *a = asked(ctx, &peer);
	struct socket_peer *p;

	/* An IPv6 socket cannot be told ::1 here; 127.0.0.1 is as true. */
	if (a) {
		ctx->user_ip4 = LOOPBACK4;
		return ALLOW;
	}
	p = asked_for(ctx, &peer);
	if (p)
		set_peer4(ctx, p);
	return ALLOW;
}

static __always_inline int is_loopback6(const struct mesh_addr *a)
{
	return a->w[0] == 0 && a->w[1] == 0 && a->w[2] == 0 && a->w[3] == bpf_htonl(1);
}

/* to_addr6 leads a socket that asks for ::1 to the node's IPv6 address; non-zero: it does not. */
static __always_inline int to_addr6(struct bpf_sock_addr *ctx, const struct mesh_addr *want)
{
	struct node *n = this_node();

	if (!leads(ctx, n) || is_zero(&n->addr6) || !on_loopback(ctx, n, want, 1))
		return -1;
	note_asked(ctx, want);
	set_addr6(ctx, &n->addr6);
	return 0;
}

static __always_inline int lead6(struct bpf_sock_addr *ctx, const struct mesh_addr *want)
{
	__be32 to;

	if (is_loopback6(want) && !to_addr6(ctx, want))
		return ALLOW;
	to = lead(ctx, want);
	if (!to)
		return ALLOW;
	ctx->user_ip6[2] = MESH_V4_PREFIX;
	ctx->user_ip6[3] = to;
	return ALLOW;
}

static __always_inline int back6(struct bpf_sock_addr *ctx)
{
	struct mesh_addr peer = addr6_of(ctx);
	struct mesh_addr *a = asked(ctx, &peer);
	struct socket_peer *p;

	if (a) {
		set_addr6(ctx, a);
		return ALLOW;
	}
	p = asked_for(ctx, &peer);
	if (p)
		set_peer6(ctx, p);
	return ALLOW;
}

SEC("cgroup/connect4")
int local_connect4(struct bpf_sock_addr *ctx)
{
	struct mesh_addr want = addr4_of(ctx);
	struct socket_peer to;

	if (want.w[3] == LOOPBACK4)
		return lead4(ctx);
	if (!connects(ctx, &want, &to))
		set_peer4(ctx, &to);
	return ALLOW;
}

SEC("cgroup/sendmsg4")
int local_sendmsg4(struct bpf_sock_addr *ctx)
{
	struct mesh_addr want = addr4_of(ctx);
	struct socket_peer to;

	if (want.w[3] == LOOPBACK4)
		return lead4(ctx);
	if (!to_backend(ctx, &want, &to))
		set_peer4(ctx, &to);
	return ALLOW;
}

SEC("cgroup/recvmsg4")
int local_recvmsg4(struct bpf_sock_addr *ctx)
{
	return back4(ctx);
}

SEC("cgroup/getpeername4")
int local_getpeername4(struct bpf_sock_addr *ctx)
{
	return back4(ctx);
}

SEC("cgroup/connect6")
int local_connect6(struct bpf_sock_addr *ctx)
{
	struct mesh_addr want = addr6_of(ctx);
	struct socket_peer to;

	if ((is_v4(&want) && want.w[3] == LOOPBACK4) || is_loopback6(&want))
		return lead6(ctx, &want);
	if (!connects(ctx, &want, &to))
		set_peer6(ctx, &to);
	return ALLOW;
}

SEC("cgroup/sendmsg6")
int local_sendmsg6(struct bpf_sock_addr *ctx)
{
	struct mesh_addr want = addr6_of(ctx);
	struct socket_peer to;

	if (is_loopback6(&want)) {
		to_addr6(ctx, &want);
		return ALLOW;
	}
	if (!to_backend(ctx, &want, &to))
		set_peer6(ctx, &to);
	return ALLOW;
}

SEC("cgroup/recvmsg6")
int local_recvmsg6(struct bpf_sock_addr *ctx)
{
	return back6(ctx);
}

SEC("cgroup/getpeername6")
int local_getpeername6(struct bpf_sock_addr *ctx)
{
	return back6(ctx);
}

char _license[] SEC("license") = "GPL";
