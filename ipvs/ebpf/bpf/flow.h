/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Connections. Each has two entries where the client's side is: FORWARD leads what
 * the client sends to its backend, REVERSE leads the answer back. The backend may
 * see another source port than the client's own, when that one is taken.
 */
#ifndef MESH_IPVS_FLOW_H
#define MESH_IPVS_FLOW_H

#include "choose.h"
#include "packet.h"

#define IDLE_SECONDS 120 /* a UDP flow silent for so long gives up its ports (RFC 4787 REQ-5) */
#define PAUSE_SECONDS 5  /* ... and is over for a backend that drains */
#define TIME_WAIT_SECONDS 60 /* Linux: TCP_TIMEWAIT_LEN */
#define PORT_TRIES 8
#define PORT_LOWEST 1024

/* Room for what does not fit on the stack: programs on ingress are not interrupted by each other. */
struct scratch {
	struct packet p;
	struct flow_key key;
	struct flow_key other;
	struct flow flow;
	struct flow back;
	struct entered_key entered;
	struct service_key service; /* what choose looks for */
	__u32 ifindex;  /* where the packet came in */
	__u32 admitted; /* it has passed the host's packet filter */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratch SEC(".maps");

static __always_inline struct scratch *room(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&scratch, &zero);
}

static __always_inline void key_of(struct flow_key *k, const struct packet *p, __u32 vni, enum direction d)
{
	__builtin_memset(k, 0, sizeof(*k));
	k->src = p->src;
	k->dst = p->dst;
	k->sport = p->sport;
	k->dport = p->dport;
	k->proto = p->proto;
	k->direction = d;
	k->vni = vni;
}

/* answer_to gives the key of what answers a packet. */
static __always_inline void answer_to(struct flow_key *k, const struct packet *p, __u32 vni, enum direction d)
{
	__builtin_memset(k, 0, sizeof(*k));
	k->src = p->dst;
	k->dst = p->src;
	k->sport = p->dport;
	k->dport = p->sport;
	k->proto = p->proto;
	k->direction = d;
	k->vni = vni;
}

/* answer_of gives the key of what answers a packet once it has the flow's addresses. */
static __always_inline void answer_of(struct flow_key *k, const struct flow *f, const struct flow_key *from, enum direction d)
{
	__builtin_memset(k, 0, sizeof(*k));
	k->src = f->dst;
	k->dst = f->src;
	k->sport = f->dport;
	k->dport = f->sport;
	k->proto = from->proto;
	k->direction = d;
	k->vni = from->vni;
}

/*
 * over tells whether a flow's ports may be given to another. An ended TCP connection
 * keeps them for as long as the backend may still know it: in TIME-WAIT it takes a SYN
 * from the same ports for a stray one unless sequence number or timestamp are higher,
 * and those of a client that called another address are not (RFC 6191). One that was
 * reset has no TIME-WAIT.
 */
static __always_inline int over(const struct flow *f, __u8 proto)
{
	__u32 idle = now() - f->seen;

	if (proto == IPPROTO_UDP)
		return f->flags & FLOW_CLOSING || idle > IDLE_SECONDS;
	return f->flags & FLOW_RESET || (f->flags & FLOW_CLOSING && idle > TIME_WAIT_SECONDS);
}

/* Ports of an ended connection, for want of free ones: the task that it was with may still know it. */
struct ended {
	__be16 port;
	__u32 seen;
};

/* longest_ended keeps the one that ended first: a live connection's ports are nobody else's. */
static __always_inline void longest_ended(struct ended *best, const struct flow *f, __be16 port)
{
	if (!(f->flags & FLOW_CLOSING) || (best->port && best->seen <= f->seen))
		return;
	best->port = port;
	best->seen = f->seen;
}

static __always_inline __be16 random_port(void)
{
	return bpf_htons(PORT_LOWEST + bpf_get_prandom_u32() % (65536 - PORT_LOWEST));
}

/* back_of makes the REVERSE entry that belongs to s->key and s->flow: s->other, s->back. */
static __always_inline void back_of(struct scratch *s)
{
	answer_of(&s->other, &s->flow, &s->key, REVERSE);
	__builtin_memset(&s->back, 0, sizeof(s->back));
	s->back.src = s->key.dst;
	s->back.sport = s->key.dport;
	s->back.dst = s->key.src;
	s->back.dport = s->key.sport;
	s->back.backend_port = s->flow.backend_port;
	s->back.flags = s->flow.flags;
	s->back.ifindex = s->flow.ifindex;
	s->back.service = s->flow.service;
	s->back.seen = s->flow.seen;
}

static __always_inline int is_back_of(const struct flow *have, const struct scratch *s)
{
	return is_zero(&have->entry) && same_addr(&have->src, &s->back.src) && same_addr(&have->dst, &s->back.dst) &&
	       have->sport == s->back.sport && have->dport == s->back.dport;
}

/* loaded counts a TCP connection of a backend. */
static __always_inline void loaded(__u32 service, const struct mesh_addr *addr, __be16 port, __s32 by)
{
	__s32 *n = service ? load_of(service, addr, port) : NULL;

	if (n)
		__sync_fetch_and_add(n, by);
}

/* forget takes a FORWARD flow that is to be replaced out of the count. */
static __always_inline void forget(const struct scratch *s, const struct flow *f)
{
	if (s->p.proto == IPPROTO_TCP && !(f->flags & FLOW_CLOSING))
		loaded(f->service, &f->dst, f->backend_port, -1);
}

/*
 * keep remembers s->key -> s->flow both ways. If the backend would see the same
 * addresses and ports as those of another live connection, it sees another source
 * port instead.
 */
__noinline int keep(void)
{
	struct scratch *s = room();
	struct ended ended = {};
	__be16 own;

	if (!s)
		return -1;
	own = s->flow.sport;
	s->flow.seen = now();
	back_of(s);
	for (int i = 0; i < PORT_TRIES; i++) {
		struct flow *taken = bpf_map_lookup_elem(&flows, &s->other);

		if (!taken || over(taken, s->key.proto) || is_back_of(taken, s))
			break;
		longest_ended(&ended, taken, s->other.dport);
		if (i < PORT_TRIES - 1)
			s->flow.sport = random_port();
		else
			s->flow.sport = ended.port ? ended.port : own;
		s->other.dport = s->flow.sport;
	}
	bpf_map_update_elem(&flows, &s->other, &s->back, BPF_ANY);
	bpf_map_update_elem(&flows, &s->key, &s->flow, BPF_ANY);
	if (s->key.proto == IPPROTO_TCP)
		loaded(s->flow.service, &s->flow.dst, s->flow.backend_port, 1);
	return 0;
}

/* closing notes in both entries that a connection ends. Half-closed ones go on: only a new SYN takes the ports. */
static __always_inline void closing(struct scratch *s, struct flow *f, enum direction other)
{
	__u16 end = s->p.tcp_flags & TCP_RST ? FLOW_CLOSING | FLOW_RESET : FLOW_CLOSING;
	struct flow *g;

	if (!(f->flags & FLOW_CLOSING))
		loaded(f->service, other == REVERSE ? &f->dst : &s->key.src, f->backend_port, -1);
	f->flags |= end;
	answer_of(&s->other, f, &s->key, other);
	g = bpf_map_lookup_elem(&flows, &s->other);
	if (g)
		g->flags |= end;
}

/* restore puts the REVERSE entry back if it was pushed out: the client still sends. */
static __always_inline void restore(struct scratch *s, const struct flow *f)
{
	s->flow = *f;
	back_of(s);
	if (!bpf_map_lookup_elem(&flows, &s->other))
		bpf_map_update_elem(&flows, &s->other, &s->back, BPF_NOEXIST);
}

static __always_inline void touch(struct scratch *s, struct flow *f, enum direction other)
{
	__u32 t = now();

	/* A shared cache line is written once a second, not once a packet. */
	if (f->seen != t) {
		f->seen = t;
		if (other == REVERSE)
			restore(s, f);
	}
	if (s->p.proto == IPPROTO_TCP && s->p.tcp_flags & (TCP_FIN | TCP_RST))
		closing(s, f, other);
}

/*
 * choose fills in a backend of scratch's service for its flow; non-zero: there is
 * none, and the flow has the service nonetheless.
 *
 * This function and keep are verified by themselves
 * (Documentation/bpf/verifier.rst, global functions): inlined, they would be walked
 * through anew for every state that can lead to them, which the verifier bounds.
 */
__noinline int choose(void)
{
	struct scratch *s = room();
	struct client_id who;
	struct choice c;

	if (!s)
		return -1;
	who.addr = s->key.src;
	who.hash = hash_of(hash_of(mixed(s->key.proto, (__u32)s->key.sport << 16 | s->key.dport), &s->key.src), &s->key.dst);
	if (pick(&s->service, &who, &c)) {
		s->flow.service = c.service;
		return -1;
	}
	s->flow.dst = c.slot.addr;
	s->flow.dport = c.slot.port ? c.slot.port : s->key.dport;
	s->flow.backend_port = c.slot.port;
	s->flow.service = c.service;
	return 0;
}

enum fitness {
	FIT = 0,   /* follow the flow */
	AGAIN = 1, /* choose anew */
	GONE = 2,  /* the connection cannot go on */
};

/* fitness says whether a known flow may be followed by this packet. */
static __always_inline enum fitness fitness(const struct scratch *s, const struct flow *f)
{
	struct backend_key k = { .service = f->service, .addr = f->dst, .port = f->backend_port };
	int first = opens(&s->p);
	__u32 *state;

	if (first && f->flags & FLOW_CLOSING)
		return AGAIN;
	if (!f->service)
		return FIT;
	state = bpf_map_lookup_elem(&backends, &k);
	if (!state)
		return first || s->p.proto == IPPROTO_UDP ? AGAIN : GONE;
	if (s->p.proto == IPPROTO_UDP && *state & BACKEND_AWAY)
		return AGAIN;
	/*
	 * Datagrams have no end that one sees: from these ports another socket may speak by now, or the backend refuse, which
	 * takes FLOW_ACCEPTED away. One that is to stop keeps only who is in the middle of something.
	 */
	if (s->p.proto == IPPROTO_UDP)
		return *state & BACKEND_OUT && (!(f->flags & FLOW_ACCEPTED) || now() - f->seen > PAUSE_SECONDS) ? AGAIN : FIT;
	return first && *state & BACKEND_OUT ? AGAIN : FIT;
}

#endif
