package ebpf

import (
	"fmt"
	"testing"
	"time"

	"github.com/meshd/meshd/ipvs"
)

func (r *rig) setService(change func(*ipvs.Service), backends ...ipvs.Backend) {
	r.t.Helper()
	s := vipState(backends...)
	change(&s.Services[0])
	r.set(s)
}

func by(a ipvs.Algorithm) func(*ipvs.Service) { return func(s *ipvs.Service) { s.Algorithm = a } }

func weighted(s string, w uint16) ipvs.Backend {
	b := backend(s)
	b.Weight = w
	return b
}

// spread opens connections from one client's ports and counts who got them.
func (r *rig) spread(client string, from, n int) map[string]int {
	r.t.Helper()
	got := map[string]int{}
	for i := range n {
		got[r.container(net1, tcp(fmt.Sprintf("%s:%d", client, from+i), vip+":80", syn)).dst.Addr().String()]++
	}
	return got
}

func TestRoundRobinIsExact(t *testing.T) {
	r := newRig(t)
	r.setService(by(ipvs.RoundRobin), weighted("10.1.0.2", 4), weighted("10.1.0.3", 2), weighted("10.1.0.4", 2))
	if got := r.spread("10.1.0.9", 20000, 40); got["10.1.0.2"] != 20 || got["10.1.0.3"] != 10 || got["10.1.0.4"] != 10 {
		t.Errorf("got %v, want 20, 10, 10", got)
	}
}

func TestLeastConnKeepsTheLevel(t *testing.T) {
	r := newRig(t)
	r.setService(by(ipvs.LeastConn), weighted("10.1.0.2", 2), backend("10.1.0.3"))
	if got := r.spread("10.1.0.9", 20000, 30); got["10.1.0.2"] != 20 || got["10.1.0.3"] != 10 {
		t.Errorf("got %v, want 20 and 10", got)
	}
	// The ends of connections count, from either side and once.
	ended := 0
	for i := range 30 {
		client := fmt.Sprintf("10.1.0.9:%d", 20000+i)
		if got := r.container(net1, tcp(client, vip+":80", ack)); got.dst.Addr().String() == "10.1.0.3" {
			r.tunnel(net1, nodeB, tcp("10.1.0.3:80", client, fin|ack))
			r.container(net1, tcp(client, vip+":80", fin|ack))
			ended++
		}
	}
	if got := r.spread("10.1.0.9", 30000, 10); ended != 10 || got["10.1.0.3"] != 10 {
		t.Errorf("after %d ended: %v, want all 10 there", ended, got)
	}
}

func TestRandom2IsEvenerThanChance(t *testing.T) {
	r := newRig(t)
	r.setService(by(ipvs.Random2), backend("10.1.0.2"), backend("10.1.0.3"), weighted("10.1.0.4", 2))
	got := r.spread("10.1.0.9", 20000, 400)
	for b, want := range map[string]int{"10.1.0.2": 100, "10.1.0.3": 100, "10.1.0.4": 200} {
		if got[b] < want-15 || got[b] > want+15 {
			t.Errorf("%s got %d of 400, want about %d", b, got[b], want)
		}
	}
}

func TestConnectionsAreCountedAgain(t *testing.T) {
	r := newRig(t)
	change := by(ipvs.LeastConn)
	r.setService(change, backend("10.1.0.2"), backend("10.1.0.3"))
	r.spread("10.1.0.9", 20000, 20)
	var err error
	var wrong backendKey
	for k := range all[backendKey, int32](r.b.objects.Loads, &err) {
		wrong = k
	}
	if err := r.b.objects.Loads.Put(wrong, int32(1000)); err != nil {
		t.Fatal(err)
	}
	r.restart()
	r.setService(change, backend("10.1.0.2"), backend("10.1.0.3"))
	if got := r.spread("10.1.0.9", 30000, 20); got["10.1.0.2"] != 10 || got["10.1.0.3"] != 10 {
		t.Errorf("got %v, want 10 each", got)
	}
}

// Three quarters for who weighs three times as much, whatever the algorithm: exactly
// where it counts, and by chance within ten standard deviations where it does not.
func TestWeightsCountInAllAlgorithms(t *testing.T) {
	r := newRig(t)
	for n, algorithm := range ipvs.Algorithms() {
		r.setService(by(algorithm), backend("10.1.0.9"))
		r.setService(by(algorithm), weighted("10.1.0.2", 3), backend("10.1.0.3"))
		const all = 800
		got, off := r.spread("10.1.0.9", 10000*(n+1), all)["10.1.0.2"], 120
		if algorithm == ipvs.RoundRobin || algorithm == ipvs.LeastConn {
			off = 1
		}
		if got < all*3/4-off || got > all*3/4+off {
			t.Errorf("%s: %d of %d, want %d, give or take %d", algorithm, got, all, all*3/4, off)
		}
	}
}

// TestUnansweredConnectionsAreNone: clients gave up on a backend that was cut off.
func TestUnansweredConnectionsAreNone(t *testing.T) {
	r := newRig(t)
	change := by(ipvs.LeastConn)
	r.setService(change, backend("10.1.0.2"), backend("10.1.0.3"))
	answered := 0
	for i := range 20 {
		client := fmt.Sprintf("10.1.0.9:%d", 20000+i)
		if r.container(net1, tcp(client, vip+":80", syn)).dst.Addr().String() == "10.1.0.3" {
			r.tunnel(net1, nodeB, tcp("10.1.0.3:80", client, syn|ack))
			answered++
		}
	}
	r.restart()
	r.setService(change, backend("10.1.0.2"), backend("10.1.0.3"))
	if got := r.spread("10.1.0.9", 30000, 10); answered != 10 || got["10.1.0.2"] != 10 {
		t.Errorf("%d were answered by one; then the other got %d of 10, want 10", answered, got["10.1.0.2"])
	}
}

// All nodes lead a connection to the same backend, and go on doing so without memory.
func TestMaglevAgrees(t *testing.T) {
	a, b := newRig(t), newRig(t)
	backends := []ipvs.Backend{backend("10.1.0.2"), backend("10.1.0.3"), backend("10.1.0.4")}
	for _, r := range []*rig{a, b} {
		r.setService(by(ipvs.Maglev), backends...)
	}
	seen := map[string]int{}
	for i := range 90 {
		f := tcp(fmt.Sprintf("10.1.0.%d:%d", 9+i%5, 20000+i), vip+":80", syn)
		x, y := a.container(net1, f), b.container(net1, f)
		if x.dst != y.dst {
			t.Errorf("%v: %v and %v", f.src, x.dst, y.dst)
		}
		seen[x.dst.String()]++
	}
	if len(seen) != 3 {
		t.Errorf("used: %v", seen)
	}
}

func TestAffinity(t *testing.T) {
	for _, algorithm := range ipvs.Algorithms() {
		t.Run(string(algorithm), func(t *testing.T) {
			r := newRig(t)
			change := func(s *ipvs.Service) { s.Algorithm, s.Affinity = algorithm, time.Hour }
			b2, b3, b4 := backend("10.1.0.2"), backend("10.1.0.3"), backend("10.1.0.4")
			r.setService(change, b2, b3, b4)
			used := map[string]bool{}
			for client := range 20 {
				got := r.spread(fmt.Sprintf("10.1.0.%d", 20+client), 20000, 5)
				if len(got) != 1 {
					t.Fatalf("one client was led to %v", got)
				}
				for b := range got {
					used[b] = true
				}
			}
			if len(used) < 2 {
				t.Errorf("all clients went to %v", used)
			}
			// Away from who drains or is gone, and still all together.
			b2.Draining = true
			r.setService(change, b2, b4)
			if got := r.spread("10.1.0.20", 30000, 5); got["10.1.0.4"] != 5 {
				t.Errorf("got %v, want the one that serves", got)
			}
		})
	}
}

func TestAffinityEnds(t *testing.T) {
	r := newRig(t)
	r.setService(func(s *ipvs.Service) { s.Algorithm, s.Affinity = ipvs.RoundRobin, 10*time.Second }, backend("10.1.0.2"), backend("10.1.0.3"))
	type entry struct {
		Addr addr
		Port port
		_    uint16
		Seen uint32
	}
	got := map[string]int{}
	for i := range 10 {
		for b, n := range r.spread("10.1.0.9", 20000+i, 1) {
			got[b] += n
		}
		var err error
		for k, v := range all[[20]byte, entry](r.b.objects.Affinities, &err) {
			v.Seen -= 11
			err = r.b.objects.Affinities.Put(k, v)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if got["10.1.0.2"] != 5 || got["10.1.0.3"] != 5 {
		t.Errorf("got %v, want 5 each", got)
	}
}

func TestLocalBackendsFirst(t *testing.T) {
	r := newRig(t)
	here, there := backend("10.1.0.2"), backend("10.1.0.3")
	here.Local = true
	prefer := func(s *ipvs.Service) { s.PreferLocal = true }
	r.setService(prefer, here, there)
	if got := r.spread("10.1.0.9", 20000, 20); got["10.1.0.2"] != 20 {
		t.Errorf("got %v, want all on this node", got)
	}
	here.Draining = true
	r.setService(prefer, here, there)
	if got := r.spread("10.1.0.9", 30000, 20); got["10.1.0.3"] != 20 {
		t.Errorf("got %v, want all on the other node", got)
	}
	here.Draining = false
	r.setService(func(*ipvs.Service) {}, here, there)
	if got := r.spread("10.1.0.9", 40000, 40); len(got) != 2 {
		t.Errorf("got %v, want both", got)
	}
}

func TestPublishedPortsHaveAlgorithmsToo(t *testing.T) {
	r := newRig(t)
	s := publishedState(nodeA, ipvs.TCP, backend(task), backend("10.255.0.3:80"))
	s.Services[0].Algorithm = ipvs.RoundRobin
	r.set(s)
	got := map[string]int{}
	for i := range 10 {
		got[r.underlay(tcp(fmt.Sprintf("198.51.100.7:%d", 20000+i), nodeA+":8080", syn)).dst.String()]++
	}
	if got[task] != 5 {
		t.Errorf("got %v, want 5 each", got)
	}
}
