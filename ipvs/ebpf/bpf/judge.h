/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What is counted of backends, and which of them fail: those that refuse, are
 * silent or reset, again and again and without a success between, while another
 * backend of the service does what they do not. Such a one is told to user space,
 * which decides (../../eject.go). Nothing here is per packet but the counting.
 */
#ifndef MESH_IPVS_JUDGE_H
#define MESH_IPVS_JUDGE_H

#include "flow.h"
#include "related.h"

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 16);
} suspects SEC(".maps");

/* refused counts what a service could not be given to anybody. */
static __always_inline void refused(__u32 service, enum drop_reason reason)
{
	struct refusal_key k = { .service = service, .reason = reason };
	__u64 *n, one = 1;

	if (!service)
		return;
	n = bpf_map_lookup_elem(&refusals, &k);
	if (n)
		(*n)++;
	else
		bpf_map_update_elem(&refusals, &k, &one, BPF_NOEXIST);
}

/*
 * count_begin counts the first packet of a connection: s->flow. It makes the entry, so
 * that backends that this node leads nobody to cost nothing.
 */
static __always_inline void count_begin(const struct scratch *s)
{
	struct backend_key who = { .service = s->flow.service, .addr = s->flow.dst, .port = s->flow.backend_port };
	struct counters *c = bpf_map_lookup_elem(&counters, &who);

	if (!c) {
		struct counters none = {};

		bpf_map_update_elem(&counters, &who, &none, BPF_NOEXIST);
		c = bpf_map_lookup_elem(&counters, &who);
		if (!c)
			return;
	}
	c->connections++;
	c->packets++;
	c->bytes += s->p.length;
}

static __always_inline int works_elsewhere(const struct worker_key *k, const struct backend_key *who, __u32 window)
{
	struct worker *w = bpf_map_lookup_elem(&workers, k);

	return w && now() - w->seen <= window && (w->port != who->port || !same_addr(&w->addr, &who->addr));
}

/* failed notes a failure of a backend at a port of its own. */
static __always_inline void failed(const struct backend_key *who, enum failure failure, __be16 port, __u8 proto)
{
	struct worker_key k = { .service = who->service, .port = port, .proto = proto, .failure = failure };
	struct suspect suspect = { .backend = *who, .failure = failure, .port = port, .proto = proto };
	struct health *h = bpf_map_lookup_elem(&health, who);
	struct streak *streak;
	__u32 t = now();

	if (!h || !h->limit)
		return;
	streak = &h->streaks[failure];
	if (t - streak->since > h->window) {
		streak->since = t;
		streak->count = 0;
	}
	__sync_fetch_and_add(&streak->count, 1);
	suspect.count = streak->count;
	if (suspect.count < h->limit || h->told == t || !works_elsewhere(&k, who, h->window))
		return;
	h->told = t; /* once a second is enough */
	bpf_ringbuf_output(&suspects, &suspect, sizeof(suspect), 0);
}

/* worked notes that a backend did what another may fail to do. */
static __always_inline void worked(const struct backend_key *who, enum failure failure, __be16 port, __u8 proto)
{
	struct worker_key k = { .service = who->service, .port = port, .proto = proto, .failure = failure };
	struct health *h = bpf_map_lookup_elem(&health, who);
	struct worker now_it = { .addr = who->addr, .port = who->port, .seen = now() };
	struct worker *w;

	if (!h || !h->limit)
		return;
	if (h->streaks[failure].count)
		h->streaks[failure].count = 0;
	w = bpf_map_lookup_elem(&workers, &k);
	if (!w)
		bpf_map_update_elem(&workers, &k, &now_it, BPF_ANY);
	else if (w->seen != now_it.seen || w->port != now_it.port || !same_addr(&w->addr, &now_it.addr))
		*w = now_it;
}

/* mark sets flags of a REVERSE flow, and of its other half. */
static __always_inline void mark(struct scratch *s, struct flow *f, __u16 set, __u16 clear)
{
	struct flow *g;

	f->flags = (f->flags | set) & ~clear;
	answer_of(&s->other, f, &s->key, FORWARD);
	g = bpf_map_lookup_elem(&flows, &s->other);
	if (g)
		g->flags = (g->flags | set) & ~clear;
}

/* asked_on counts a client's packet of a known FORWARD flow. A SYN that comes again was not answered. */
static __always_inline void asked_on(struct scratch *s, struct flow *f)
{
	struct backend_key who = { .service = f->service, .addr = f->dst, .port = f->backend_port };
	struct counters *c;

	if (!f->service)
		return;
	c = bpf_map_lookup_elem(&counters, &who);
	if (c) {
		c->packets++;
		c->bytes += s->p.length;
	}
	/* The first one is repeated after a second (RFC 6298 2.1). */
	if (!opens(&s->p) || f->flags & (FLOW_ACCEPTED | FLOW_CLOSING | FLOW_LATE) || f->seen == now())
		return;
	f->flags |= FLOW_LATE;
	if (c)
		c->timeouts++;
	failed(&who, NO_ANSWER, f->dport, IPPROTO_TCP);
}

static __always_inline int has_payload(struct __sk_buff *skb, const struct packet *p)
{
	__u8 offset;

	if (p->later || bpf_skb_load_bytes(skb, p->l4 + 12, &offset, 1))
		return 0;
	return p->length + L3 > p->l4 + (offset >> 4) * 4;
}

/* reset_by judges a connection that its backend resets. */
static __always_inline void reset_by(struct scratch *s, const struct backend_key *who, const struct flow *f, struct counters *c)
{
	if (f->flags & FLOW_CLOSING)
		return;
	if (!(f->flags & FLOW_ACCEPTED)) {
		if (c)
			c->refusals++;
		failed(who, NO_ANSWER, s->key.sport, IPPROTO_TCP);
		return;
	}
	if (c)
		c->resets++;
	if (!(f->flags & FLOW_SERVED))
		failed(who, CUT_SHORT, s->key.sport, IPPROTO_TCP);
}

/* answers_on counts a backend's packet of a known REVERSE flow, and judges it. */
static __always_inline void answers_on(struct __sk_buff *skb, struct scratch *s, struct flow *f)
{
	struct backend_key who = { .service = f->service, .addr = s->key.src, .port = f->backend_port };
	struct counters *c;

	if (!f->service)
		return;
	c = bpf_map_lookup_elem(&counters, &who);
	if (c) {
		c->answer_packets++;
		c->answer_bytes += s->p.length;
	}
	if (s->p.proto == IPPROTO_TCP && s->p.tcp_flags & TCP_RST) {
		reset_by(s, &who, f, c);
		return;
	}
	if (!(f->flags & FLOW_ACCEPTED)) {
		mark(s, f, FLOW_ACCEPTED, 0);
		worked(&who, NO_ANSWER, s->key.sport, s->p.proto);
	}
	if (s->p.proto == IPPROTO_TCP && !(f->flags & FLOW_SERVED) && (s->p.tcp_flags & TCP_FIN || has_payload(skb, &s->p))) {
		mark(s, f, FLOW_SERVED, 0);
		worked(&who, CUT_SHORT, s->key.sport, IPPROTO_TCP);
	}
}

/* refused_by judges an ICMP error about what a client sent; f is the REVERSE flow of the quoted packet. */
static __always_inline void refused_by(struct __sk_buff *skb, struct scratch *s, struct flow *f)
{
	struct backend_key who = { .service = f->service, .addr = s->key.src, .port = f->backend_port };
	struct counters *c;
	__u8 kind[2];

	if (!f->service || bpf_skb_load_bytes(skb, s->p.l4, kind, sizeof(kind)))
		return;
	if (s->p.v6 ? kind[0] != ICMP6_UNREACHABLE : kind[0] != ICMP_UNREACHABLE || kind[1] == ICMP_TOO_BIG)
		return;
	/* TCP goes on trying once it has been answered (RFC 1122 4.2.3.9). */
	if (s->key.proto == IPPROTO_TCP && f->flags & FLOW_ACCEPTED)
		return;
	c = bpf_map_lookup_elem(&counters, &who);
	if (c)
		c->refusals++;
	if (f->flags & FLOW_ACCEPTED)
		mark(s, f, 0, FLOW_ACCEPTED);
	failed(&who, NO_ANSWER, s->key.sport, s->key.proto);
}

#endif
