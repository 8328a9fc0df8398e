package ebpf

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/meshd/meshd/ipvs"
)

// watched reads what the balancer notices, in the background.
type watched struct {
	mu  sync.Mutex
	all []ipvs.Suspect
}

func (r *rig) watch() *watched {
	r.t.Helper()
	w := &watched{}
	ctx, cancel := context.WithCancel(r.t.Context())
	done := make(chan error, 1)
	b := r.b
	go func() {
		done <- b.Suspects(ctx, func(s ipvs.Suspect) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.all = append(w.all, s)
		})
	}()
	r.t.Cleanup(func() {
		cancel()
		<-done
	})
	return w
}

func (w *watched) suspects() []ipvs.Suspect {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]ipvs.Suspect{}, w.all...)
}

func (w *watched) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = nil
}

// await waits until something is noticed.
func (w *watched) await(t *testing.T, what string) ipvs.Suspect {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if all := w.suspects(); len(all) > 0 {
			return all[0]
		}
	}
	t.Fatalf("%s: nothing is noticed", what)
	return ipvs.Suspect{}
}

// ejecting is round-robin, so that each backend gets every other connection. The window
// is long: machines that test are slow. Another number forgets former failures.
func ejecting(after int) func(s *ipvs.Service) {
	return func(s *ipvs.Service) {
		s.Algorithm = ipvs.RoundRobin
		s.Ejection = ipvs.Ejection{After: after, Within: time.Hour, First: time.Second, Longest: time.Second}
	}
}

const bad, good = "10.1.0.2", "10.1.0.3"

// call opens a connection whose backend answers as it is told to: by flags, and ICMP for 0.
func (r *rig) call(port int, answer func(backend string) uint8) string {
	r.t.Helper()
	client := fmt.Sprintf("10.1.0.9:%d", port)
	got := r.container(net1, tcp(client, vip+":80", syn))
	to := got.dst.Addr().String()
	if flags := answer(to); flags != 0 {
		r.tunnel(net1, nodeB, tcp(to+":80", client, flags))
	} else {
		r.tunnel(net1, nodeB, icmpError(to, got.frame))
	}
	return to
}

func accepts(string) uint8 { return syn | ack }

func refuses(how uint8) func(string) uint8 {
	return func(to string) uint8 {
		if to == bad {
			return how
		}
		return syn | ack
	}
}

func TestFailingBackendsAreNoticed(t *testing.T) {
	r := newRig(t)
	w := r.watch()
	from := 20000
	for name, c := range map[string]struct {
		fail  func(t *testing.T, from int)
		why   ipvs.Failure
		asked uint16
	}{
		"reset": {func(_ *testing.T, from int) {
			for i := range 10 {
				r.call(from+i, refuses(rst|ack))
			}
		}, ipvs.NoAnswer, 80},
		"unreachable": {func(_ *testing.T, from int) {
			for i := range 10 {
				r.call(from+i, refuses(0))
			}
		}, ipvs.NoAnswer, 80},
		"silent":    {func(_ *testing.T, from int) { r.callTheSilent(from) }, ipvs.NoAnswer, 80},
		"cut short": {func(_ *testing.T, from int) { r.callThoseThatCutShort(from) }, ipvs.CutShort, 80},
		"datagrams": {func(_ *testing.T, from int) { r.sendToTheDeaf(from) }, ipvs.NoAnswer, 53},
	} {
		t.Run(name, func(t *testing.T) {
			w.forget()
			r.setService(ejecting(3), backend("10.1.0.4"), backend("10.1.0.5"))
			r.setService(ejecting(3), backend(bad), backend(good)) // both as new
			c.fail(t, from)
			from += 100
			s := w.await(t, name)
			if s.Addr.String() != bad || s.Failure != c.why || s.Count < 3 || s.Asked != c.asked || s.Key.VIP.String() != vip {
				t.Errorf("noticed %+v", s)
			}
		})
	}
}

func (r *rig) callTheSilent(from int) {
	var asked []string
	for i := range 8 {
		client := fmt.Sprintf("10.1.0.9:%d", from+i)
		if to := r.container(net1, tcp(client, vip+":80", syn)).dst.Addr().String(); to == good {
			r.tunnel(net1, nodeB, tcp(good+":80", client, syn|ack))
		} else {
			asked = append(asked, client)
		}
	}
	r.pass(3)
	for _, client := range asked {
		r.container(net1, tcp(client, vip+":80", syn))
	}
}

func (r *rig) callThoseThatCutShort(from int) {
	for i := range 10 {
		to := r.call(from+i, accepts)
		client := fmt.Sprintf("10.1.0.9:%d", from+i)
		if to == good {
			r.tunnel(net1, nodeB, withPayload(tcp(good+":80", client, ack), "hello"))
		} else {
			r.tunnel(net1, nodeB, tcp(bad+":80", client, rst))
		}
	}
}

func (r *rig) sendToTheDeaf(from int) {
	for i := range 10 {
		client := fmt.Sprintf("10.1.0.9:%d", from+i)
		got := r.container(net1, udp(client, vip+":53", "x"))
		if to := got.dst.Addr().String(); to == good {
			r.tunnel(net1, nodeB, udp(good+":53", client, "an answer"))
		} else {
			r.tunnel(net1, nodeB, icmpError(bad, got.frame))
		}
	}
}

// Nothing is held against a backend that now and then works, or where nobody does better.
func TestNobodyIsSuspectedWithoutReason(t *testing.T) {
	r := newRig(t)
	r.setService(ejecting(3), backend(bad), backend(good))
	w := r.watch()
	for i := range 20 {
		r.call(20000+i, func(string) uint8 { return rst | ack }) // a port that no task has
	}
	for i := range 20 {
		r.call(30000+i, func(to string) uint8 {
			if to == bad && i%4 < 2 {
				return rst | ack
			}
			return syn | ack
		})
	}
	r.setService(func(s *ipvs.Service) { s.Algorithm = ipvs.RoundRobin }, backend(bad), backend(good))
	for i := range 20 {
		r.call(40000+i, refuses(rst|ack))
	}
	// What is noticed afterwards shows that the rest was read.
	r.setService(ejecting(3), backend(bad), backend("10.1.0.4"))
	for i := range 20 {
		r.call(50000+i, func(to string) uint8 {
			if to == "10.1.0.4" {
				return rst | ack
			}
			return syn | ack
		})
	}
	if s := w.await(t, "refusals"); s.Addr.String() != "10.1.0.4" {
		t.Errorf("noticed %+v", w.suspects())
	}
}

func ejectedBackend(s string) ipvs.Backend {
	b := backend(s)
	b.Ejected = true
	return b
}

func TestEjectedGetsNothingNewAndKeepsTheRest(t *testing.T) {
	r := newRig(t)
	for n, algorithm := range ipvs.Algorithms() {
		t.Run(string(algorithm), func(t *testing.T) {
			from := 10000 * (n + 1)
			change := func(s *ipvs.Service) { ejecting(3)(s); s.Algorithm = algorithm }
			r.setService(change, backend("10.1.0.4"))
			r.setService(change, backend(bad), backend(good)) // both as new
			var old []string
			for i := range 40 {
				client := fmt.Sprintf("10.1.0.9:%d", from+i)
				if r.container(net1, tcp(client, vip+":80", syn)).dst.Addr().String() == bad {
					old = append(old, client)
				}
			}
			r.setService(change, ejectedBackend(bad), backend(good))
			if got := r.spread("10.1.0.9", from+1000, 30); got[bad] != 0 {
				t.Errorf("new ones: %v", got)
			}
			for _, client := range old {
				is(t, "an old one", r.container(net1, tcp(client, vip+":80", ack)), container, client, bad+":80")
			}
			// A first packet that comes again has another chance.
			if len(old) == 0 {
				t.Fatal("it never got any")
			}
			is(t, "again", r.container(net1, tcp(old[0], vip+":80", syn)), container, old[0], good+":80")
			r.setService(change, ejectedBackend(bad))
			if got := r.spread("10.1.0.9", from+2000, 5); got[bad] != 5 {
				t.Errorf("as the only one: %v", got)
			}
		})
	}
}

// Who returns is on trial: one failure is enough, unless a success comes before.
func TestReturnedBackendIsOnTrial(t *testing.T) {
	for name, first := range map[string]uint8{"fails": rst | ack, "works": syn | ack} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.setService(ejecting(3), ejectedBackend(bad), backend(good))
			r.call(20000, accepts)
			r.setService(ejecting(3), backend(bad), backend(good))
			w := r.watch()
			r.call(20001, refuses(first))
			r.call(20002, refuses(first))
			want := 3 // failures in a row that it takes
			if first == syn|ack {
				for i := range 10 {
					r.call(20010+i, refuses(rst|ack))
				}
			}
			if s := w.await(t, "a failure"); s.Addr.String() != bad || s.Count != want {
				t.Errorf("noticed %+v, want count %d", s, want)
			}
		})
	}
}
