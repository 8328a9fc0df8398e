package dns

import (
	"net/netip"
	"strings"
	"sync"
	"time"

	mdns "github.com/miekg/dns"
)

// Bounds of how long answers of upstreams are kept, whatever they say.
const (
	maxPositive = time.Hour
	maxNegative = 5 * time.Minute
	// maxStale is how long after its end an answer may stand in for a better one.
	maxStale = 24 * time.Hour
	// staleTTL is the time to live of such an answer, in seconds (RFC 8767, 4).
	staleTTL = 30
	// failureRest is how long upstreams are left alone that failed to renew an answer.
	failureRest = 5 * time.Second
	// failureKept is how long a failure stands (RFC 9520, 3.2: at least a second).
	failureKept = time.Second
)

// question is what an upstream's answer depends on.
type question struct {
	name      string // lower case
	qtype     uint16
	do, cd    bool
	upstreams string
}

// cache keeps answers of upstreams, and for a while those that have run out, for
// when no upstream answers. When full it drops one of the client's that has most, so
// that nobody's many names push out what others need: what runs out first of a few
// that it happens to see, since Go's maps are walked in random order.
type cache struct {
	size int
	mu   sync.Mutex
	rows map[question]cached
	// owned are the rows by who asked for them first.
	owned map[netip.Addr]map[question]struct{}
}

// cached is an answer or, without one, a failure.
type cached struct {
	owner  netip.Addr
	msg    *mdns.Msg // never modified
	stored time.Time
	until  time.Time
	// rest is when upstreams may be asked again after they failed to renew it.
	rest time.Time
}

// freshness says what a cache holds.
type freshness int

const (
	absent freshness = iota
	fresh
	// outdated: to be used only if it cannot be renewed.
	outdated
	// staleForNow: it could not be renewed a moment ago.
	staleForNow
	// failing: there is nothing, and a moment ago there was no answer.
	failing
)

func newCache(size int) *cache {
	return &cache{size: size, rows: map[question]cached{}, owned: map[netip.Addr]map[question]struct{}{}}
}

// gone is when a row is of no use any more.
func (r cached) gone() time.Time {
	if r.msg == nil {
		return r.until
	}
	return r.until.Add(maxStale)
}

// get returns a copy of an answer with its times to live run down.
func (c *cache) get(k question, now time.Time) (*mdns.Msg, freshness) {
	c.mu.Lock()
	row, ok := c.rows[k]
	if ok && !now.Before(row.gone()) {
		c.drop(k)
		ok = false
	}
	c.mu.Unlock()
	switch {
	case !ok:
		return nil, absent
	case row.msg == nil:
		return nil, failing
	case now.Before(row.until):
		age := uint32(max(now.Sub(row.stored), 0) / time.Second)
		return aged(row.msg, func(ttl uint32) uint32 { return ttl - min(ttl, age) }), fresh
	}
	m := aged(row.msg, func(uint32) uint32 { return staleTTL })
	if now.Before(row.rest) {
		return m, staleForNow
	}
	return m, outdated
}

func aged(m *mdns.Msg, age func(uint32) uint32) *mdns.Msg {
	m = m.Copy()
	for _, section := range [][]mdns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			if h := rr.Header(); h.Rrtype != mdns.TypeOPT {
				h.Ttl = age(h.Ttl)
			}
		}
	}
	return m
}

// put keeps an answer that a client asked for.
func (c *cache) put(k question, m *mdns.Msg, owner netip.Addr, now time.Time) {
	life := lifetime(m)
	c.mu.Lock()
	defer c.mu.Unlock()
	if life <= 0 {
		c.drop(k) // also an old answer, which this one has overtaken
		return
	}
	c.store(k, cached{owner: owner, msg: m.Copy(), stored: now, until: now.Add(life)}, now)
}

// fail remembers that there was no answer, so that many who ask do not all wait for
// the same (RFC 9520).
func (c *cache) fail(k question, owner netip.Addr, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, ok := c.rows[k]; ok && old.msg != nil {
		old.rest = now.Add(failureRest)
		c.rows[k] = old
		return
	}
	c.store(k, cached{owner: owner, until: now.Add(failureKept)}, now)
}

// store keeps a row; who had it before goes on to own it. c.mu is held.
func (c *cache) store(k question, row cached, now time.Time) {
	if c.size <= 0 {
		return
	}
	if old, ok := c.rows[k]; ok {
		row.owner = old.owner
	} else if len(c.rows) >= c.size {
		c.evict(now)
	}
	c.rows[k] = row
	if c.owned[row.owner] == nil {
		c.owned[row.owner] = map[question]struct{}{}
	}
	c.owned[row.owner][k] = struct{}{}
}

// drop forgets a row, if there is one. c.mu is held.
func (c *cache) drop(k question) {
	row, ok := c.rows[k]
	if !ok {
		return
	}
	delete(c.rows, k)
	if delete(c.owned[row.owner], k); len(c.owned[row.owner]) == 0 {
		delete(c.owned, row.owner)
	}
}

// evict makes room for one row, at least. c.mu is held.
func (c *cache) evict(now time.Time) {
	const look = 5
	var most map[question]struct{}
	for _, own := range c.owned {
		if len(own) > len(most) {
			most = own
		}
	}
	var first question
	var until time.Time
	seen := 0
	for k := range most {
		row := c.rows[k]
		if !now.Before(row.gone()) {
			c.drop(k)
		} else if until.IsZero() || row.until.Before(until) {
			first, until = k, row.until
		}
		if seen++; seen >= look {
			break
		}
	}
	if len(c.rows) >= c.size {
		c.drop(first)
	}
}

// lifetime is how long an answer may be kept; negative ones as long as their SOA
// says, not at all without one (RFC 2308, 5).
func lifetime(m *mdns.Msg) time.Duration {
	if m.Truncated || m.Rcode != mdns.RcodeSuccess && m.Rcode != mdns.RcodeNameError {
		return 0
	}
	if m.Rcode == mdns.RcodeNameError || len(m.Answer) == 0 {
		for _, rr := range m.Ns {
			if soa, ok := rr.(*mdns.SOA); ok {
				return min(time.Duration(min(soa.Hdr.Ttl, soa.Minttl))*time.Second, maxNegative)
			}
		}
		return 0
	}
	life := maxPositive
	for _, rr := range m.Answer {
		life = min(life, time.Duration(rr.Header().Ttl)*time.Second)
	}
	return life
}

// adopt makes an answer one to this very question: its letters' case is the asker's.
func adopt(m *mdns.Msg, asked *mdns.Msg) {
	m.Id, m.RecursionDesired, m.RecursionAvailable = asked.Id, asked.RecursionDesired, true
	m.CheckingDisabled = asked.CheckingDisabled
	m.Question = asked.Question
	name := asked.Question[0].Name
	for _, rr := range m.Answer {
		if h := rr.Header(); strings.EqualFold(h.Name, name) {
			h.Name = name
		}
	}
}
