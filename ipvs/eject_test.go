package ipvs

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

var (
	testKey   = Key{VNI: 4097, VIP: netip.MustParseAddr("10.1.0.100")}
	testEject = Ejection{After: 5, Within: 30 * time.Second, First: 10 * time.Second, Longest: time.Minute}
)

func taskAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}) }

func serviceOf(backends ...int) State {
	s := Service{Key: testKey, Name: "web", Ejection: testEject}
	for _, i := range backends {
		s.Backends = append(s.Backends, Backend{Addr: taskAddr(i)})
	}
	return State{Services: []Service{s}}
}

func guilty(i int) Suspect {
	return Suspect{Key: testKey, Addr: taskAddr(i), Failure: NoAnswer, Count: 5}
}

func outOf(s State) string {
	text := ""
	for _, b := range s.Services[0].Backends {
		if b.Ejected {
			text += fmt.Sprint(b.Addr.As4()[3], " ")
		}
	}
	return text
}

func TestAtMostHalfAreEjected(t *testing.T) {
	now := time.Unix(1000, 0)
	for n, most := range []int{0, 0, 1, 1, 2, 2, 3} {
		var e ejector
		var all []int
		for i := range n {
			all = append(all, i)
		}
		want := serviceOf(all...)
		for range 3 {
			for i := range n {
				e.accuse(want, guilty(i), now)
			}
		}
		if got := len(e.list()); got != most {
			t.Errorf("of %d backends %d are ejected, want %d", n, got, most)
		}
	}
}

func TestOnlyWhoMayBeEjectedIs(t *testing.T) {
	now := time.Unix(1000, 0)
	var e ejector
	want := serviceOf(1, 2, 3)
	off := serviceOf(1, 2, 3)
	off.Services[0].Ejection = Ejection{}
	drains := serviceOf(1, 2, 3)
	drains.Services[0].Backends[0].Draining = true
	stranger := guilty(1)
	stranger.Key.VNI++
	for what, c := range map[string]struct {
		want State
		s    Suspect
	}{"switched off": {off, guilty(1)}, "draining": {drains, guilty(1)}, "another service": {want, stranger}, "no backend": {want, guilty(9)}} {
		if _, ok := e.accuse(c.want, c.s, now); ok {
			t.Errorf("%s: ejected", what)
		}
	}
	if _, ok := e.accuse(want, guilty(1), now); !ok {
		t.Fatal("not ejected")
	}
	if got := outOf(e.apply(want)); got != "1 " || outOf(want) != "" {
		t.Errorf("marked: %q, and in the desired state %q", got, outOf(want))
	}
}

func TestEjectionLastsLongerEachTime(t *testing.T) {
	now := time.Unix(1000, 0)
	var e ejector
	want := serviceOf(1, 2)
	for i, lasts := range []time.Duration{10, 20, 40, 60, 60} {
		out, ok := e.accuse(want, guilty(1), now)
		if !ok || out.Until.Sub(now) != lasts*time.Second || out.Times != i+1 {
			t.Fatalf("time %d: %v, for %v, times %d", i, ok, out.Until.Sub(now), out.Times)
		}
		if _, again := e.accuse(want, guilty(1), now); again {
			t.Fatal("ejected while it was")
		}
		if at, ok := e.next(); !ok || !at.Equal(out.Until) {
			t.Fatalf("next is %v, %v", at, ok)
		}
		if back := e.expire(now.Add(lasts*time.Second - 1)); len(back) != 0 {
			t.Fatalf("too early: %v", back)
		}
		now = out.Until.Add(time.Second)
		if back := e.expire(now); len(back) != 1 || outOf(e.apply(want)) != "" {
			t.Fatalf("returned: %v", back)
		}
	}
	now = now.Add(10 * time.Minute)
	e.expire(now)
	if out, _ := e.accuse(want, guilty(1), now); out.Until.Sub(now) != 10*time.Second || out.Times != 1 {
		t.Errorf("after a long good time: %+v", out)
	}
}

func TestEjectedFollowTheDesiredState(t *testing.T) {
	now := time.Unix(1000, 0)
	var e ejector
	want := serviceOf(1, 2, 3, 4)
	e.accuse(want, guilty(1), now)
	e.accuse(want, guilty(2), now.Add(time.Second))
	e.keep(serviceOf(1, 2, 3))
	if got := outOf(e.apply(serviceOf(1, 2, 3))); got != "2 " {
		t.Errorf("of three are out: %q, want the newer one", got)
	}
	e.keep(serviceOf(1, 3))
	if got := e.list(); len(got) != 0 {
		t.Errorf("of backends that are gone: %v", got)
	}
	e.accuse(serviceOf(1, 3), guilty(3), now)
	off := serviceOf(1, 3)
	off.Services[0].Ejection = Ejection{}
	if e.keep(off); len(e.list()) != 0 {
		t.Error("switched off, and still out")
	}
}

// Whatever happens, half serve.
func TestHalfServeWhateverHappens(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	var e ejector
	now := time.Unix(1000, 0)
	want := serviceOf(0, 1, 2, 3, 4)
	for range 3000 {
		now = now.Add(time.Duration(r.IntN(4000)) * time.Millisecond)
		switch r.IntN(4) {
		case 0:
			var backends []int
			for i := range 8 {
				if r.IntN(2) == 0 {
					backends = append(backends, i)
				}
			}
			want = serviceOf(backends...)
			for i := range want.Services[0].Backends {
				want.Services[0].Backends[i].Draining = r.IntN(4) == 0
			}
			e.keep(want)
		case 1:
			e.expire(now)
		default:
			e.accuse(want, guilty(r.IntN(8)), now)
		}
		out, serving := 0, 0
		for _, b := range e.apply(want).Services[0].Backends {
			if b.Ejected {
				out++
			}
			if !b.Draining {
				serving++
			}
		}
		if out > serving/2 {
			t.Fatalf("%d of %d are out", out, serving)
		}
		if at, any := e.next(); any && len(e.records) == 0 {
			t.Fatalf("next is %v without a record", at)
		}
	}
}
