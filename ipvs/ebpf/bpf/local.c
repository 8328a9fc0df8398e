// SPDX-License-Identifier: GPL-2.0
/*
 * Published ports on 127.0.0.1: a process of the node that connects to loopback is
 * led to the node's own address at connect() time, where balance_local sees its
 * packets, and goes on believing that it talks to 127.0.0.1. A packet of 127.0.0.1
 * itself could not leave the machine.
 *
 * Attached to the root of the cgroup tree, hence asked by every process of the
 * machine: only sockets of the node's own network namespace are touched, so that
 * containers keep their loopback, and so that several nodes fit on one machine.
 *
 * Not possible: sendto() on an unconnected socket to ::1 (the kernel does not let a
 * program lead from IPv6 to IPv4 there), and ::1 on an IPV6_V6ONLY socket.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "maps.h"

#define ALLOW 1
#define LOOPBACK bpf_htonl(0x7f000001)

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
	return n && n->addr4 && bpf_get_netns_cookie(ctx) == n->netns;
}

/* lead gives the address to connect to instead; zero: leave it. */
static __always_inline __be32 lead(struct bpf_sock_addr *ctx, const struct mesh_addr *asked)
{
	struct node *n = this_node();
	struct led_key k;

	if (!is_published((__be16)ctx->user_port, ctx->protocol) || !is_ours(ctx, n))
		return 0;
	k = key_of(ctx);
	bpf_map_update_elem(&led, &k, asked, BPF_ANY);
	return n->addr4;
}

/* asked gives what the process believes that it talks to. */
static __always_inline struct mesh_addr *asked(struct bpf_sock_addr *ctx, __be32 peer)
{
	struct node *n = this_node();
	struct led_key k;

	if (!n || peer != n->addr4 || !is_published((__be16)ctx->user_port, ctx->protocol) || !is_ours(ctx, n))
		return NULL;
	k = key_of(ctx);
	return bpf_map_lookup_elem(&led, &k);
}

static __always_inline int lead4(struct bpf_sock_addr *ctx)
{
	struct mesh_addr want = {{0, 0, MESH_V4_PREFIX, LOOPBACK}};
	__be32 to;

	if (ctx->user_ip4 != LOOPBACK)
		return ALLOW;
	to = lead(ctx, &want);
	if (to)
		ctx->user_ip4 = to;
	return ALLOW;
}

static __always_inline int back4(struct bpf_sock_addr *ctx)
{
	struct mesh_addr *a = asked(ctx, ctx->user_ip4);

	/* An IPv6 socket cannot be told ::1 here; 127.0.0.1 is as true. */
	if (a)
		ctx->user_ip4 = LOOPBACK;
	return ALLOW;
}

static __always_inline int is_mapped(struct bpf_sock_addr *ctx)
{
	return ctx->user_ip6[0] == 0 && ctx->user_ip6[1] == 0 && ctx->user_ip6[2] == MESH_V4_PREFIX;
}

static __always_inline int is_loopback6(struct bpf_sock_addr *ctx)
{
	return ctx->user_ip6[0] == 0 && ctx->user_ip6[1] == 0 && ctx->user_ip6[2] == 0 &&
	       ctx->user_ip6[3] == bpf_htonl(1);
}

static __always_inline int back6(struct bpf_sock_addr *ctx)
{
	struct mesh_addr *a;

	if (!is_mapped(ctx))
		return ALLOW;
	a = asked(ctx, ctx->user_ip6[3]);
	if (!a)
		return ALLOW;
	ctx->user_ip6[2] = a->w[2];
	ctx->user_ip6[3] = a->w[3];
	return ALLOW;
}

SEC("cgroup/connect4")
int local_connect4(struct bpf_sock_addr *ctx)
{
	return lead4(ctx);
}

SEC("cgroup/sendmsg4")
int local_sendmsg4(struct bpf_sock_addr *ctx)
{
	return lead4(ctx);
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
	struct mesh_addr want = {};
	__be32 to;

	if (is_mapped(ctx) && ctx->user_ip6[3] == LOOPBACK)
		want.w[2] = MESH_V4_PREFIX;
	else if (!is_loopback6(ctx))
		return ALLOW;
	want.w[3] = ctx->user_ip6[3];
	to = lead(ctx, &want);
	if (!to)
		return ALLOW;
	ctx->user_ip6[2] = MESH_V4_PREFIX;
	ctx->user_ip6[3] = to;
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
