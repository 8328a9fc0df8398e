package ipvstest

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/meshd/meshd/ipvs"
)

// Rig is a Balancer, a client that calls one VIP of it, and backends that tell who they are.
type Rig interface {
	ipvs.Balancer
	// State has the VIP's service alone, led to all backends, four of them, in the order of their addresses.
	State() ipvs.State
	// Restart goes on as another process would.
	Restart(t *testing.T)
	// Call opens a connection to the VIP, or a socket for one datagram, and tells who answered.
	Call(ipvs.Protocol) (netip.Addr, error)
	// Open opens one to be used more than once.
	Open(ipvs.Protocol) (Session, error)
}

// Session is a client's connection, or its socket for datagrams.
type Session interface {
	// Exchange sends and receives, and tells who answered; os.ErrDeadlineExceeded: nobody did.
	Exchange() (netip.Addr, error)
	Close() error
}

// Behave checks how every Balancer leads connections to a VIP. setup gives a rig for each check; it may be the same one.
// With the algorithms byAddress this balancer leads all connections of a client to one backend.
func Behave(t *testing.T, setup func(t *testing.T) Rig, byAddress ...ipvs.Algorithm) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Rig)
	}{
		{"turns", turns},
		{"algorithms", func(t *testing.T, r Rig) { algorithms(t, r, byAddress) }},
		{"weights", weights},
		{"affinity", affinity},
		{"draining", draining},
		{"dead backend", dead},
		{"away", away},
		{"quiet over a restart", quiet},
		{"a thousand services", thousand},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, setup(t)) })
	}
}

func protocols() []ipvs.Protocol { return []ipvs.Protocol{ipvs.TCP, ipvs.UDP} }

// behave sets the rig's state with its service changed.
func behave(t *testing.T, r Rig, change func(*ipvs.Service)) []netip.Addr {
	t.Helper()
	s := r.State()
	change(&s.Services[0])
	set(t, r, s)
	var addrs []netip.Addr
	for _, b := range s.Services[0].Backends {
		addrs = append(addrs, b.Addr)
	}
	return addrs
}

func calls(t *testing.T, r Rig, p ipvs.Protocol, n int) map[netip.Addr]int {
	t.Helper()
	got := map[netip.Addr]int{}
	for range n {
		a, err := r.Call(p)
		if err != nil {
			t.Fatalf("protocol %d: %v", p, err)
		}
		got[a]++
	}
	return got
}

func session(t *testing.T, r Rig, p ipvs.Protocol) (Session, netip.Addr) {
	t.Helper()
	s, err := r.Open(p)
	if err != nil {
		t.Fatalf("protocol %d: %v", p, err)
	}
	t.Cleanup(func() { s.Close() })
	a, err := s.Exchange()
	if err != nil {
		t.Fatalf("protocol %d: %v", p, err)
	}
	return s, a
}

func stays(t *testing.T, s Session, with netip.Addr, why string) {
	t.Helper()
	if a, err := s.Exchange(); err != nil || a != with {
		t.Errorf("%s: %v answered (%v), want %v", why, a, err, with)
	}
}

func turns(t *testing.T, r Rig) {
	backends := behave(t, r, func(s *ipvs.Service) { s.Algorithm = ipvs.RoundRobin })
	for _, p := range protocols() {
		got := calls(t, r, p, 3*len(backends))
		for _, b := range backends {
			if got[b] != 3 {
				t.Errorf("protocol %d: %v, want 3 each", p, got)
			}
		}
	}
}

// Whatever the algorithm, everybody gets some, unless the one client's address decides.
func algorithms(t *testing.T, r Rig, byAddress []ipvs.Algorithm) {
	for _, a := range ipvs.Algorithms() {
		backends := behave(t, r, func(s *ipvs.Service) { s.Algorithm, s.Backends = a, s.Backends[:2] })
		got := calls(t, r, ipvs.TCP, 40)
		if slices.Contains(byAddress, a) {
			if len(got) != 1 {
				t.Errorf("%s: %v, want one", a, got)
			}
		} else if got[backends[0]] < 4 || got[backends[1]] < 4 || len(got) != 2 {
			t.Errorf("%s: %v", a, got)
		}
	}
}

func weights(t *testing.T, r Rig) {
	backends := behave(t, r, func(s *ipvs.Service) {
		s.Algorithm, s.Backends = ipvs.RoundRobin, s.Backends[:2]
		s.Backends[0].Weight = 3
	})
	for _, p := range protocols() {
		if got := calls(t, r, p, 12); got[backends[0]] != 9 || got[backends[1]] != 3 {
			t.Errorf("protocol %d: %v, want 9 and 3", p, got)
		}
	}
}

// With Maglev the client's address decides, with others what is remembered of the client.
func affinity(t *testing.T, r Rig) {
	for _, a := range []ipvs.Algorithm{ipvs.Random2, ipvs.Maglev} {
		for _, p := range protocols() {
			stay := func(s *ipvs.Service) { s.Algorithm, s.Affinity = a, time.Hour }
			behave(t, r, stay)
			got := calls(t, r, p, 6)
			if len(got) != 1 {
				t.Errorf("%s, protocol %d: %v, want one", a, p, got)
			}
			// When that one drains, the client stays with another.
			behave(t, r, func(s *ipvs.Service) {
				stay(s)
				for i := range s.Backends {
					s.Backends[i].Draining = got[s.Backends[i].Addr] > 0
				}
			})
			if after := calls(t, r, p, 6); len(after) != 1 || shared(got, after) {
				t.Errorf("%s, protocol %d: %v after %v drained, want one other", a, p, after, got)
			}
		}
	}
}

func shared(a, b map[netip.Addr]int) bool {
	for k := range a {
		if b[k] > 0 {
			return true
		}
	}
	return false
}

func draining(t *testing.T, r Rig) {
	behave(t, r, func(*ipvs.Service) {})
	open, with := session(t, r, ipvs.TCP)
	drain := func(s *ipvs.Service) {
		for i := range s.Backends {
			s.Backends[i].Draining = s.Backends[i].Addr == with
		}
	}
	behave(t, r, drain)
	for _, p := range protocols() {
		if got := calls(t, r, p, 12); got[with] > 0 {
			t.Errorf("protocol %d: %v, and %v drains", p, got, with)
		}
	}
	stays(t, open, with, "while its backend drains")
	behave(t, r, func(*ipvs.Service) {})
	stays(t, open, with, "when its backend serves again")
}

// without leaves one backend out.
func without(addr netip.Addr) func(*ipvs.Service) {
	return func(s *ipvs.Service) {
		s.Backends = slices.DeleteFunc(s.Backends, func(b ipvs.Backend) bool { return b.Addr == addr })
	}
}

func dead(t *testing.T, r Rig) {
	behave(t, r, func(*ipvs.Service) {})
	open, gone := session(t, r, ipvs.TCP)
	datagrams, silent := session(t, r, ipvs.UDP)
	behave(t, r, without(gone))
	for _, p := range protocols() {
		if got := calls(t, r, p, 12); got[gone] > 0 {
			t.Errorf("protocol %d: %v, and %v is gone", p, got, gone)
		}
	}
	eventually(t, "a connection to a backend that is gone ends", func() bool {
		_, err := open.Exchange()
		return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
	})
	behave(t, r, without(silent))
	moves(t, datagrams, silent)
}

func moves(t *testing.T, s Session, from netip.Addr) {
	t.Helper()
	eventually(t, "datagrams go to another backend", func() bool {
		a, err := s.Exchange()
		return err == nil && a != from
	})
}

func away(t *testing.T, r Rig) {
	behave(t, r, func(*ipvs.Service) {})
	open, hidden := session(t, r, ipvs.TCP)
	var datagrams Session
	for with := (netip.Addr{}); with != hidden; {
		datagrams, with = session(t, r, ipvs.UDP)
	}
	behave(t, r, func(s *ipvs.Service) {
		for i := range s.Backends {
			s.Backends[i].Away = s.Backends[i].Addr == hidden
		}
	})
	moves(t, datagrams, hidden)
	stays(t, open, hidden, "the connection to a backend that is away, and answers yet")
}

func quiet(t *testing.T, r Rig) {
	behave(t, r, func(*ipvs.Service) {})
	open, with := session(t, r, ipvs.TCP)
	for range 2 {
		r.Restart(t)
		stays(t, open, with, "before the new process knows anything")
		behave(t, r, func(s *ipvs.Service) { s.Algorithm = ipvs.LeastConn })
		calls(t, r, ipvs.TCP, 4)
		stays(t, open, with, "afterwards")
	}
}

func thousand(t *testing.T, r Rig) {
	s := r.State()
	real := s.Services[0]
	base := real.VIP.AsSlice()
	for i := range 999 {
		svc := real
		vip := append(base[:len(base)-2:len(base)-2], 100+byte(i>>8), byte(i))
		svc.VIP, _ = netip.AddrFromSlice(vip)
		svc.Name = fmt.Sprint("other", i)
		svc.Backends = real.Backends[i%2 : i%2+2]
		s.Services = append(s.Services, svc)
	}
	set(t, r, s)
	if got := calls(t, r, ipvs.TCP, 16); len(got) < 2 { // all to one of four by chance: once in 1e9
		t.Errorf("among a thousand: %v", got)
	}
	// One of them changes, and all but one go.
	s.Services[0].Backends = real.Backends[:1]
	set(t, r, s)
	if got := calls(t, r, ipvs.TCP, 4); got[real.Backends[0].Addr] != 4 {
		t.Errorf("one backend is left: %v", got)
	}
	set(t, r, r.State())
	calls(t, r, ipvs.UDP, 4)
}

// eventually polls until ok, a minute long.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}
