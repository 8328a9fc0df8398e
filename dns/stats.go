package dns

import (
	"sync/atomic"
	"time"

	mdns "github.com/miekg/dns"
)

// source says who knew an answer.
type source int

const (
	fromTables source = iota
	fromUpstream
	sources
)

func (s source) String() string {
	if s == fromUpstream {
		return "upstream"
	}
	return "tables"
}

// rcodes is how many codes a header can hold (RFC 1035, 4.1.1).
const rcodes = 16

// latencyBounds are the upper ends of the histogram's buckets.
func latencyBounds() []time.Duration {
	return []time.Duration{
		50 * time.Microsecond, 100 * time.Microsecond, 250 * time.Microsecond, time.Millisecond,
		5 * time.Millisecond, 25 * time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second,
	}
}

// counters are what the server counts as it answers; each is atomic by itself.
type counters struct {
	bounds  []time.Duration
	answers [sources][rcodes]atomic.Uint64
	// buckets hold one more than bounds: what took longer than all of them.
	buckets [sources][]atomic.Uint64
	sum     [sources]atomic.Int64
	shed    atomic.Uint64
}

func newCounters() *counters {
	c := &counters{bounds: latencyBounds()}
	for i := range c.buckets {
		c.buckets[i] = make([]atomic.Uint64, len(c.bounds)+1)
	}
	return c
}

// count takes down an answer that is about to be sent.
func (c *counters) count(answer []byte, s source, took time.Duration) {
	if len(answer) < headerSize {
		return
	}
	c.answers[s][answer[3]&(rcodes-1)].Add(1)
	c.sum[s].Add(int64(took))
	i := 0
	for i < len(c.bounds) && took > c.bounds[i] {
		i++
	}
	c.buckets[s][i].Add(1)
}

// AnswerCount is how many answers had a code.
type AnswerCount struct {
	// Source is "tables" for what zones know and refuse, "upstream" for the rest.
	Source string
	// Rcode in the words of RFC 1035 and IANA, e.g. NOERROR.
	Rcode string
	Count uint64
}

// Latency is how long answers took, from the query's arrival until they were sent.
type Latency struct {
	Source string
	Count  uint64
	Sum    time.Duration
	// Buckets count the answers that took at most the key: each includes those below it.
	Buckets map[time.Duration]uint64
}

// Stats are all counters since the server was made.
type Stats struct {
	Answers []AnswerCount
	Latency []Latency
	// Shed are queries that were not answered, because others waited behind them and
	// their client had its share.
	Shed uint64
}

// Stats reads the counters. Codes that never occurred are left out.
func (s *Server) Stats() Stats {
	out := Stats{Shed: s.counters.shed.Load()}
	for src := range sources {
		l := Latency{Source: src.String(), Sum: time.Duration(s.counters.sum[src].Load()), Buckets: map[time.Duration]uint64{}}
		for code := range s.counters.answers[src] {
			if n := s.counters.answers[src][code].Load(); n > 0 {
				out.Answers = append(out.Answers, AnswerCount{l.Source, mdns.RcodeToString[code], n})
			}
		}
		for i := range s.counters.buckets[src] {
			l.Count += s.counters.buckets[src][i].Load()
			if i < len(s.counters.bounds) {
				l.Buckets[s.counters.bounds[i]] = l.Count
			}
		}
		out.Latency = append(out.Latency, l)
	}
	return out
}
