package dns

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

// clock is a time that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Unix(1000, 0)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// ttlOf is the first answer's time to live, and whether it is said to be stale.
func ttlOf(t *testing.T, addr, name string) (ttl uint32, stale bool) {
	t.Helper()
	m := new(mdns.Msg).SetQuestion(name, mdns.TypeA)
	m.SetEdns0(1232, false)
	c := mdns.Client{Timeout: 8 * time.Second}
	r, _, err := c.Exchange(m, addr)
	if err != nil || len(r.Answer) != 1 {
		t.Fatalf("%s: %v, %v", name, r, err)
	}
	for _, o := range r.IsEdns0().Option {
		if e, ok := o.(*mdns.EDNS0_EDE); ok && e.InfoCode == mdns.ExtendedErrorCodeStaleAnswer {
			stale = true
		}
	}
	return r.Answer[0].Header().Ttl, stale
}

func TestServesStaleWhenUpstreamsFail(t *testing.T) {
	var broken atomic.Bool
	var asked atomic.Int32
	up := upstream(t, func(w mdns.ResponseWriter, r *mdns.Msg) {
		asked.Add(1)
		if broken.Load() {
			w.WriteMsg(new(mdns.Msg).SetRcode(r, mdns.RcodeServerFailure))
			return
		}
		address(w, r, "192.0.2.7")
	})
	clock := newClock()
	_, addr := run(t, Config{Clock: clock.Now, Timeout: 5 * time.Second}, sample(up))
	if ttl, stale := ttlOf(t, addr, "a.test."); ttl != 60 || stale {
		t.Fatalf("TTL %d, stale %v", ttl, stale)
	}
	broken.Store(true)
	clock.add(time.Hour)
	for range 3 {
		if ttl, stale := ttlOf(t, addr, "a.test."); ttl != staleTTL || !stale {
			t.Errorf("of a broken upstream: TTL %d, stale %v", ttl, stale)
		}
	}
	if n := asked.Load(); n != 1+forwardRounds {
		t.Errorf("asked %d times: a failure is not remembered", n)
	}
	if got := describe(exchange(t, "udp", addr, "b.test.", mdns.TypeA)); got != "SERVFAIL []" {
		t.Errorf("what was never known: %s", got)
	}
	broken.Store(false)
	clock.add(failureRest)
	if ttl, stale := ttlOf(t, addr, "a.test."); ttl != 60 || stale {
		t.Errorf("of a mended upstream: TTL %d, stale %v", ttl, stale)
	}
	broken.Store(true)
	clock.add(maxStale + time.Hour)
	if got := describe(exchange(t, "udp", addr, "a.test.", mdns.TypeA)); got != "SERVFAIL []" {
		t.Errorf("what is too old: %s", got)
	}
}

func TestServesStaleWhenUpstreamsAreSilent(t *testing.T) {
	var silent atomic.Bool
	up := upstream(t, func(w mdns.ResponseWriter, r *mdns.Msg) {
		if !silent.Load() {
			address(w, r, "192.0.2.7")
		}
	})
	clock := newClock()
	_, addr := run(t, Config{Clock: clock.Now, Timeout: 200 * time.Millisecond}, sample(up))
	ttlOf(t, addr, "a.test.")
	silent.Store(true)
	clock.add(time.Hour)
	began := time.Now()
	for range 20 {
		if _, stale := ttlOf(t, addr, "a.test."); !stale {
			t.Error("not stale")
		}
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("20 answers took %v: each waits for the silent upstream", took)
	}
}

// TestDeadUpstreamCostsOnce: the first query waits for it, later ones do not.
func TestDeadUpstreamCostsOnce(t *testing.T) {
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	good := upstream(t, func(w mdns.ResponseWriter, r *mdns.Msg) { address(w, r, "192.0.2.9") })
	_, addr := run(t, Config{}, sample(netip.MustParseAddrPort(silent.LocalAddr().String()), good))
	exchange(t, "udp", addr, "first.test.", mdns.TypeA)
	began := time.Now()
	for _, name := range []string{"a.test.", "b.test.", "c.test.", "d.test.", "e.test."} {
		if got := describe(exchange(t, "udp", addr, name, mdns.TypeA)); got != "NOERROR [192.0.2.9]" {
			t.Errorf("%s: %s", name, got)
		}
	}
	if took := time.Since(began); took > 4*maxPatience {
		t.Errorf("five answers took %v: the dead upstream is asked first again and again", took)
	}
}
