package dns

import (
	"strings"
	"sync"
	"time"

	mdns "github.com/miekg/dns"
)

// Bounds of how long answers of upstreams are kept, whatever they say.
const (
	maxPositive = time.Hour
	maxNegative = 5 * time.Minute
)

// question is what an upstream's answer depends on.
type question struct {
	name      string // lower case
	qtype     uint16
	do, cd    bool
	upstreams string
}

// cache keeps answers of upstreams. When full it drops what it meets first: Go's
// maps are walked in random order, and a resolver's cache need not do better.
type cache struct {
	size int
	mu   sync.Mutex
	rows map[question]cached
}

type cached struct {
	msg    *mdns.Msg // never modified
	stored time.Time
	until  time.Time
}

func newCache(size int) *cache { return &cache{size: size, rows: map[question]cached{}} }

// get returns a copy of an answer with its times to live run down.
func (c *cache) get(k question, now time.Time) *mdns.Msg {
	c.mu.Lock()
	row, ok := c.rows[k]
	if ok && !now.Before(row.until) {
		delete(c.rows, k)
		ok = false
	}
	c.mu.Unlock()
	if !ok {
		return nil
	}
	m := row.msg.Copy()
	age := uint32(max(now.Sub(row.stored), 0) / time.Second)
	for _, section := range [][]mdns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			if h := rr.Header(); h.Rrtype != mdns.TypeOPT {
				h.Ttl -= min(h.Ttl, age)
			}
		}
	}
	return m
}

func (c *cache) put(k question, m *mdns.Msg, now time.Time) {
	life := lifetime(m)
	if life <= 0 || c.size <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for old, row := range c.rows {
		if len(c.rows) < c.size && now.Before(row.until) {
			break
		}
		delete(c.rows, old)
	}
	c.rows[k] = cached{msg: m.Copy(), stored: now, until: now.Add(life)}
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
