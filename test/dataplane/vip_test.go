package dataplane

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
)

// each runs a test with both ways of attaching programs, and with both ways of
// leading connections to VIPs.
func each(t *testing.T, test func(t *testing.T, l *lab)) {
	for name, env := range map[string][]string{
		"tcx, sockets": {"DATAPLANE_TEST_MODE=socket"}, "clsact, packets": {"DATAPLANE_TEST_NOTCX=1", "DATAPLANE_TEST_MODE=packet"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, env...)
			test(t, l)
			l.blame()
		})
	}
}

func TestVIP(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		client := l.task(l.nodes[0])
		near, far := l.task(l.nodes[0]), l.task(l.nodes[1])
		l.out[client] = true
		l.settle()
		l.serve(near.ns, taskPort)
		l.serve(far.ns, taskPort)
		vipSpreads(l, client, near, far)
		l.out[far] = true
		l.settle()
		vipRefuses(l, client, near)
		l.out = map[*task]bool{client: true}
		l.settle()
		l.offloadsOff()
		vipSpreads(l, client, near, far)
		l.out[far] = true
		l.settle()
		for range 20 {
			if s, err := call(client.ns, "tcp4", fmt.Sprintf("%s:%d", vip, taskPort), 16); err != nil || s.server != near.ns {
				t.Fatalf("after the other is gone: %+v, %v", s, err)
			}
		}
		vipRefuses(l, client, near)
		if err := ping(client.ns, vip); err != nil {
			t.Errorf("ping the VIP: %v", err)
		}
	})
}

// vipRefuses takes the last backend away: connections to it end at once, and new
// ones are refused at once.
func vipRefuses(l *lab, client, last *task) {
	l.t.Helper()
	to := fmt.Sprintf("%s:%d", vip, taskPort)
	open, err := dial(client.ns, "tcp4", "", to)
	l.check(err)
	defer open.Close()
	l.out[last] = true
	l.settle()
	if err := open.echo("tcp4", 5000); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		l.t.Errorf("open connection: %v, want it reset", err)
	}
	for _, network := range []string{"tcp4", "udp4"} {
		if _, err := call(client.ns, network, to, 16); !errors.Is(err, syscall.ECONNREFUSED) {
			l.t.Errorf("%s without a backend: %v, want it refused", network, err)
		}
	}
}

func vipSpreads(l *lab, client, near, far *task) {
	l.t.Helper()
	to := fmt.Sprintf("%s:%d", vip, taskPort)
	for _, network := range []string{"tcp4", "udp4"} {
		got := map[string]int{}
		for i := range 40 {
			s, err := call(client.ns, network, to, 1+i*61)
			l.check(err)
			if s.seen.Addr() != client.user {
				l.t.Fatalf("%s: the task sees %v, not the client's %v", network, s.seen, client.user)
			}
			got[s.server]++
		}
		if got[near.ns] < 5 || got[far.ns] < 5 {
			l.t.Errorf("%s: uneven: %v", network, got)
		}
		for _, size := range []int{1450, 8000, 60000} {
			for range 4 {
				_, err := call(client.ns, network, to, size)
				l.check(err)
			}
		}
	}
	_, err := call(client.ns, "tcp4", to, 4<<20)
	l.check(err)
}

func TestVIPHairpin(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		only := l.task(l.nodes[0])
		l.settle()
		l.serve(only.ns, taskPort)
		for _, network := range []string{"tcp4", "udp4"} {
			for _, size := range []int{16, 8000} {
				s, err := call(only.ns, network, fmt.Sprintf("%s:%d", vip, taskPort), size)
				// A socket that was led talks to itself without leaving the container.
				if err != nil || s.server != only.ns || (s.seen.Addr().String() != vip && s.seen.Addr() != only.user) {
					t.Errorf("%s: %+v, %v", network, s, err)
				}
			}
		}
	})
}

func TestVIPConnectionsOutliveProcessAndDraining(t *testing.T) {
	l := newLab(t)
	client := l.task(l.nodes[0])
	l.out[client] = true
	a, b := l.task(l.nodes[0]), l.task(l.nodes[1])
	l.settle()
	for _, c := range []*task{a, b} {
		l.serve(c.ns, taskPort)
	}
	to := fmt.Sprintf("%s:%d", vip, taskPort)
	var streams []*stream
	for range 6 {
		streams = append(streams, l.stream(client.ns, "tcp4", to), l.stream(client.ns, "udp4", to),
			l.stream(l.client, "tcp4", fmt.Sprintf("%s:%d", l.nodes[0].addr, published)),
			l.stream(l.client, "udp4", fmt.Sprintf("%s:%d", l.nodes[1].addr, published)))
	}
	progress := func() {
		t.Helper()
		for i, s := range streams {
			from := s.rounds.Load()
			l.eventually(fmt.Sprintf("stream %d goes on", i), func() bool { return s.failed.Load() > 0 || s.rounds.Load() > from+3 })
		}
	}
	for range 2 {
		for _, n := range l.nodes {
			n.kill()
		}
		progress()
		for _, n := range l.nodes {
			l.start(n)
		}
		progress()
		l.settle()
		progress()
	}
	a.draining = true
	l.settle()
	progress()
	for range 10 {
		if s, err := call(client.ns, "tcp4", to, 16); err != nil || s.server != b.ns {
			t.Errorf("while the other drains: %+v, %v", s, err)
		}
	}
	for i, s := range streams {
		s.end()
		if s.failed.Load() > 0 {
			t.Errorf("stream %d broke", i)
		}
	}
	l.blame()
}

// A task that has nobody listening says so itself, through VIP and published port alike.
func TestClosedPortsAreRefusedByTheTask(t *testing.T) {
	l := newLab(t)
	client := l.task(l.nodes[0])
	only := l.task(l.nodes[1])
	for _, home := range []*task{only, l.task(l.nodes[0])} {
		l.out = map[*task]bool{}
		for _, c := range l.tasks {
			l.out[c] = c != home
		}
		l.settle()
		for from, to := range map[string]string{
			client.ns: fmt.Sprintf("%s:%d", vip, taskPort),
			l.client:  l.nodes[0].published(),
		} {
			for _, network := range []string{"tcp4", "udp4"} {
				if _, err := call(from, network, to, 16); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("%s %s to a task on %s: %v, want it refused", network, to, home.node.addr, err)
				}
			}
		}
	}
	l.blame()
}
