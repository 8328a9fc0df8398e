package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

// me is the client that asks where there is no other.
var me = netip.MustParseAddr("10.255.0.2")

func positive(name string, ttl uint32) *mdns.Msg {
	m := new(mdns.Msg).SetQuestion(name, mdns.TypeA)
	m.Answer = []mdns.RR{&mdns.A{Hdr: mdns.RR_Header{Name: name, Rrtype: mdns.TypeA, Class: mdns.ClassINET, Ttl: ttl}}}
	return m
}

func TestCacheAges(t *testing.T) {
	now := time.Unix(1000, 0)
	c := newCache(3)
	k := question{name: "a."}
	c.put(k, positive("a.", 60), me, now)
	for _, step := range []struct {
		after time.Duration
		want  freshness
		ttl   uint32
	}{
		{0, fresh, 60}, {20 * time.Second, fresh, 40}, {59 * time.Second, fresh, 1}, {time.Minute, outdated, staleTTL},
		{maxStale, outdated, staleTTL}, {maxStale + time.Minute, absent, 0}, {0, absent, 0},
	} {
		m, got := c.get(k, now.Add(step.after))
		if got != step.want || m != nil && m.Answer[0].Header().Ttl != step.ttl {
			t.Errorf("after %v: %v, %v", step.after, got, m)
		}
	}
}

func TestCacheKeepsNothingThatItMustNot(t *testing.T) {
	now := time.Unix(1000, 0)
	c := newCache(3)
	k := question{name: "a."}
	c.put(k, positive("a.", 1), me, now)
	now = now.Add(time.Minute)
	c.put(k, positive("a.", 0), me, now)
	if m, state := c.get(k, now); state != absent {
		t.Errorf("after an answer that must not be kept: %v", m)
	}
	failed := new(mdns.Msg).SetRcode(positive("f.", 1), mdns.RcodeServerFailure)
	if lifetime(failed) != 0 || lifetime(new(mdns.Msg).SetRcode(positive("f.", 1), mdns.RcodeNameError)) != 0 {
		t.Error("a failure, or an absence without an SOA, would be kept")
	}
}

// TestAbsenceIsKeptAsItsSOASays: as long as the smaller of its two times (RFC 2308, 5).
func TestAbsenceIsKeptAsItsSOASays(t *testing.T) {
	for _, c := range []struct {
		rcode        int
		ttl, minimum uint32
		want         time.Duration
	}{
		{mdns.RcodeNameError, 60, 30, 30 * time.Second},
		{mdns.RcodeNameError, 30, 60, 30 * time.Second},
		{mdns.RcodeSuccess, 60, 30, 30 * time.Second},
		{mdns.RcodeNameError, 86400, 86400, maxNegative},
		{mdns.RcodeNameError, 60, 0, 0},
		{mdns.RcodeRefused, 60, 30, 0},
	} {
		m := new(mdns.Msg).SetQuestion("a.", mdns.TypeA)
		m.Rcode = c.rcode
		m.Ns = []mdns.RR{&mdns.SOA{Hdr: mdns.RR_Header{Name: "a.", Rrtype: mdns.TypeSOA, Class: mdns.ClassINET, Ttl: c.ttl}, Minttl: c.minimum}}
		if got := lifetime(m); got != c.want {
			t.Errorf("%s, TTL %d, minimum %d: kept for %v, want %v", mdns.RcodeToString[c.rcode], c.ttl, c.minimum, got, c.want)
		}
	}
}

func TestCacheRemembersFailures(t *testing.T) {
	now := time.Unix(1000, 0)
	c := newCache(3)
	k, old := question{name: "a."}, question{name: "old."}
	c.put(old, positive("old.", 1), me, now)
	now = now.Add(time.Minute)
	c.fail(k, me, now)
	c.fail(old, me, now)
	for _, step := range []struct {
		k     question
		after time.Duration
		want  freshness
	}{
		{k, 0, failing}, {k, failureKept, absent}, {old, 0, staleForNow}, {old, failureRest, outdated},
	} {
		if _, got := c.get(step.k, now.Add(step.after)); got != step.want {
			t.Errorf("%s after %v: %v, want %v", step.k.name, step.after, got, step.want)
		}
	}
	c.put(old, positive("old.", 10), me, now)
	if _, got := c.get(old, now); got != fresh {
		t.Errorf("renewed: %v", got)
	}
}

func TestCacheIsBounded(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, size := range []int{-1, 1, 3, 100} {
		c := newCache(size)
		for i := range 1000 {
			k := question{name: fmt.Sprint(i, ".")}
			if i%3 == 0 {
				c.fail(k, me, now)
			} else {
				c.put(k, positive(k.name, 60), me, now)
			}
			if _, got := c.get(k, now); size > 0 && got == absent || len(c.rows) > max(size, 0) {
				t.Fatalf("size %d: %v after it was stored, %d rows", size, got, len(c.rows))
			}
			now = now.Add(10 * time.Millisecond)
		}
	}
}

// TestOneClientDoesNotEvictOthers: many names of one client push out its own.
func TestOneClientDoesNotEvictOthers(t *testing.T) {
	now := time.Unix(1000, 0)
	c := newCache(100)
	var needed []question
	for i := range 40 {
		k := question{name: fmt.Sprint("needed", i, ".")}
		c.put(k, positive(k.name, 1), netip.AddrFrom4([4]byte{10, 255, 1, byte(i % 4)}), now)
		needed = append(needed, k)
	}
	for i := range 10000 {
		k := question{name: fmt.Sprint("random", i, ".")}
		if i%2 == 0 {
			c.fail(k, me, now)
		} else {
			c.put(k, positive(k.name, 3600), me, now)
		}
	}
	for _, k := range needed {
		if _, got := c.get(k, now); got != fresh {
			t.Errorf("%s is pushed out: %v", k.name, got)
		}
	}
	// It may have all that nobody else needs, and no more than its part when others come.
	if got := len(c.owned[me]); got != 60 {
		t.Errorf("it has %d of 60 rows", got)
	}
	for i := range 50 {
		k := question{name: fmt.Sprint("later", i, ".")}
		c.put(k, positive(k.name, 60), netip.MustParseAddr("10.255.2.1"), now)
	}
	if mine, later := len(c.owned[me]), len(c.owned[netip.MustParseAddr("10.255.2.1")]); len(c.rows) != 100 || mine+later != 60 || mine < 29 || later < 29 {
		t.Errorf("of %d rows it has %d, who came later %d", len(c.rows), mine, later)
	}
}

func TestMemoryOrders(t *testing.T) {
	now := time.Unix(1000, 0)
	u := func(n byte) netip.AddrPort { return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, n}), 53) }
	list := []netip.AddrPort{u(1), u(2), u(3)}
	for name, c := range map[string]struct {
		before func(*memory)
		first  []netip.AddrPort
	}{
		"nothing known":     {func(*memory) {}, list},
		"all near":          {func(m *memory) { m.answered(u(1), 20*time.Millisecond, now); m.answered(u(2), time.Millisecond, now) }, list},
		"first far":         {func(m *memory) { m.answered(u(1), 90*time.Millisecond, now); m.answered(u(2), time.Millisecond, now) }, []netip.AddrPort{u(2), u(3), u(1)}},
		"first overtaken":   {func(m *memory) { m.slower(u(1), 201*time.Millisecond, now) }, []netip.AddrPort{u(2), u(3), u(1)}},
		"two failed":        {func(m *memory) { m.failed(u(1), now); m.failed(u(2), now) }, []netip.AddrPort{u(3), u(1), u(2)}},
		"failed, then fine": {func(m *memory) { m.failed(u(1), now); m.answered(u(1), time.Millisecond, now) }, list},
		"failed long ago":   {func(m *memory) { m.failed(u(1), now.Add(-failureLasts)) }, list},
		"far, but long ago": {func(m *memory) { m.answered(u(1), time.Second, now.Add(-latencyLasts)) }, list},
		"far once, then not": {func(m *memory) {
			m.slower(u(1), 200*time.Millisecond, now)
			for range 5 {
				m.answered(u(1), time.Millisecond, now)
			}
		}, list},
	} {
		m := newMemory()
		c.before(m)
		if got := m.order(list, now); !slices.Equal(got, c.first) {
			t.Errorf("%s: %v, want %v", name, got, c.first)
		}
	}
}

func TestPatience(t *testing.T) {
	now := time.Unix(1000, 0)
	m := newMemory()
	u := netip.MustParseAddrPort("192.0.2.1:53")
	if got := m.patience(u, now); got != maxPatience {
		t.Errorf("with one unknown: %v", got)
	}
	for took, want := range map[time.Duration]time.Duration{0: minPatience, 20 * time.Millisecond: 60 * time.Millisecond, time.Second: maxPatience} {
		m := newMemory()
		m.answered(u, took, now)
		if got := m.patience(u, now); got != want {
			t.Errorf("with one that takes %v: %v, want %v", took, got, want)
		}
	}
	m.failed(u, now)
	if got := m.patience(u, now.Add(time.Hour)); got != minPatience {
		t.Errorf("with one that failed: %v", got)
	}
	for i := range maxStandings + 10 {
		m.failed(netip.AddrPortFrom(u.Addr(), uint16(i)), now)
	}
	if len(m.rows) > maxStandings {
		t.Errorf("%d servers are remembered", len(m.rows))
	}
}
