package dns

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// minPatience and maxPatience bound how long an upstream is alone with a query.
	minPatience = 25 * time.Millisecond
	maxPatience = 200 * time.Millisecond
	// failureLasts is how long a server that did not answer is asked last.
	failureLasts = 10 * time.Second
	// latencyLasts is how long a latency is believed without a new one.
	latencyLasts = time.Minute
	// maxStandings bounds the memory: tasks may name any servers.
	maxStandings = 1024
)

// memory is how upstreams did lately.
type memory struct {
	mu   sync.Mutex
	rows map[netip.AddrPort]standing
}

type standing struct {
	// latency is smoothed; zero: unknown.
	latency time.Duration
	at      time.Time // of the newest latency
	failed  time.Time // zero: it answered since
}

func newMemory() *memory { return &memory{rows: map[netip.AddrPort]standing{}} }

func (m *memory) change(u netip.AddrPort, now time.Time, fn func(*standing)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, known := m.rows[u]
	if !known && len(m.rows) >= maxStandings {
		clear(m.rows)
	}
	if now.Sub(s.at) >= latencyLasts {
		s.latency = 0
	}
	fn(&s)
	m.rows[u] = s
}

func (m *memory) answered(u netip.AddrPort, took time.Duration, now time.Time) {
	m.change(u, now, func(s *standing) {
		if s.latency != 0 {
			took = (s.latency + took) / 2
		}
		*s = standing{latency: max(took, 1), at: now}
	})
}

// slower says that an answer would have taken at least so long.
func (m *memory) slower(u netip.AddrPort, than time.Duration, now time.Time) {
	m.change(u, now, func(s *standing) { s.latency, s.at = max(s.latency, than), now })
}

func (m *memory) failed(u netip.AddrPort, now time.Time) {
	m.change(u, now, func(s *standing) { s.failed = now })
}

// order sorts by class; within one the order is the list's, whose first servers
// may know names that the others do not.
func (m *memory) order(list []netip.AddrPort, now time.Time) []netip.AddrPort {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := slices.Clone(list)
	slices.SortStableFunc(out, func(a, b netip.AddrPort) int {
		return cmp.Compare(m.rows[a].class(now), m.rows[b].class(now))
	})
	return out
}

// class is rough, so that small differences do not count. Who is unknown, or long
// not heard of, is given the chance to show.
func (s standing) class(now time.Time) int {
	switch {
	case !s.failed.IsZero() && now.Sub(s.failed) < failureLasts:
		return 4
	case s.latency == 0 || now.Sub(s.at) >= latencyLasts:
		return 0
	case s.latency <= 30*time.Millisecond:
		return 0
	case s.latency <= 120*time.Millisecond:
		return 1
	case s.latency <= 480*time.Millisecond:
		return 2
	}
	return 3
}

// patience is how long to wait for an upstream before the next is asked as well.
func (m *memory) patience(u netip.AddrPort, now time.Time) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.rows[u]
	switch {
	case !s.failed.IsZero():
		return minPatience // it has to prove itself
	case s.latency == 0 || now.Sub(s.at) >= latencyLasts:
		return maxPatience
	}
	return min(max(3*s.latency, minPatience), maxPatience)
}
