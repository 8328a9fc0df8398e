package dataplane

import (
	"fmt"
	"testing"
	"time"

	"github.com/meshd/meshd/ipvs"
)

// Services' algorithms hold for sockets and for packets alike, for TCP and UDP.
func TestAlgorithms(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		client, near, far := l.task(l.nodes[0]), l.task(l.nodes[0]), l.task(l.nodes[1])
		l.out[client] = true
		l.settle()
		l.serve(near.ns, taskPort)
		l.serve(far.ns, taskPort)
		l.lookUp(client)
		to := fmt.Sprintf("%s:%d", vip, taskPort)
		calls := func(network string, n int) map[string]int {
			t.Helper()
			got := map[string]int{}
			for range n {
				s, err := call(client.ns, network, to, 16)
				l.check(err)
				got[s.server]++
			}
			return got
		}
		for _, network := range []string{"tcp4", "udp4"} {
			l.spread = func(s *ipvs.Service) { s.Algorithm = ipvs.RoundRobin }
			l.settle()
			if got := calls(network, 10); got[near.ns] != 5 || got[far.ns] != 5 {
				t.Errorf("%s, rr: %v, want 5 each", network, got)
			}
			l.spread = func(s *ipvs.Service) { s.Affinity = time.Hour }
			l.settle()
			if got := calls(network, 10); len(got) != 1 {
				t.Errorf("%s, affinity: %v, want one of them", network, got)
			}
			l.spread = func(s *ipvs.Service) {
				s.PreferLocal = true
				s.Backends[1].Local = true
			}
			l.settle()
			if got := calls(network, 10); got[far.ns] != 10 {
				t.Errorf("%s, local first: %v, want only %s", network, got, far.ns)
			}
		}
		l.spread = func(s *ipvs.Service) { s.Algorithm = ipvs.LeastConn }
		l.settle()
		got := map[string]int{}
		for range 10 {
			s, err := dial(client.ns, "tcp4", "", to)
			l.check(err)
			defer s.Close()
			got[s.server]++
		}
		if got[near.ns] != 5 || got[far.ns] != 5 {
			t.Errorf("leastconn: %v open, want 5 each", got)
		}
	})
}
