package dataplane

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
)

func (n *node) published() string { return fmt.Sprintf("%s:%d", n.addr, published) }

// A published port answers on every node, wherever the tasks are, and the task sees
// the client's own address.
func TestPublishedPortShowsTheClient(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		near, far := l.task(l.nodes[0]), l.task(l.nodes[1])
		l.settle()
		l.serve(near.ns, taskPort)
		l.serve(far.ns, taskPort)
		allNodesAnswer(l, near, far)
		l.offloadsOff()
		allNodesAnswer(l, near, far)
		if _, err := call(l.client, "tcp4", net.JoinHostPort(l.nodes[0].addr.String(), "8081"), 1); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a port that is not published: %v", err)
		}
		l.out[near], l.out[far] = true, true
		l.settle()
		if _, err := call(l.client, "tcp4", l.nodes[0].published(), 1); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("without a task: %v", err)
		}
	})
}

func allNodesAnswer(l *lab, near, far *task) {
	l.t.Helper()
	want := netip.MustParseAddr(clientAddr)
	for _, n := range l.nodes {
		for _, network := range []string{"tcp4", "udp4"} {
			got := map[string]int{}
			for i := range 30 {
				s, err := call(l.client, network, n.published(), 1+i*61)
				l.check(err)
				if s.seen.Addr() != want {
					l.t.Fatalf("%s: the task sees %v, not the client's %v", network, s.seen, want)
				}
				got[s.server]++
			}
			if got[near.ns] < 3 || got[far.ns] < 3 {
				l.t.Errorf("%s: uneven: %v", network, got)
			}
			for _, size := range []int{1450, 8000, 60000} {
				for range 4 {
					_, err := call(l.client, network, n.published(), size)
					l.check(err)
				}
			}
		}
		_, err := call(l.client, "tcp4", n.published(), 4<<20)
		l.check(err)
	}
}

// The same client port through both nodes at once, to one task on either.
func TestPublishedPortSameClientPortThroughBothNodes(t *testing.T) {
	for _, home := range []int{0, 1} {
		t.Run(fmt.Sprintf("task on node %d", home+1), func(t *testing.T) {
			l := newLab(t)
			only := l.task(l.nodes[home])
			l.settle()
			l.serve(only.ns, taskPort)
			for _, network := range []string{"tcp4", "udp4"} {
				sameClientPort(l, network)
			}
			l.blame()
		})
	}
}

func sameClientPort(l *lab, network string) {
	l.t.Helper()
	var sessions []*session
	for _, n := range l.nodes {
		s, err := dial(l.client, network, clientAddr+":45000", n.published())
		if err != nil {
			l.t.Fatalf("%s through %s: %v", network, n.addr, err)
		}
		defer s.Close()
		sessions = append(sessions, s)
	}
	for range 3 {
		for i, s := range sessions {
			if err := s.echo(network, 3000); err != nil {
				l.t.Errorf("%s, session %d: %v", network, i, err)
			}
		}
	}
	if a, b := sessions[0].seen, sessions[1].seen; a == b || a.Addr() != b.Addr() {
		l.t.Errorf("%s: seen as %v and %v", network, a, b)
	}
}

// From the node itself: by its address, by loopback, and by names of loopback.
func TestPublishedPortFromTheNodeItself(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		far := l.task(l.nodes[1])
		near := l.task(l.nodes[0])
		l.settle()
		l.serve(far.ns, taskPort)
		l.serve(near.ns, taskPort)
		for _, out := range []*task{near, far} {
			l.out = map[*task]bool{out: true}
			l.settle()
			for _, network := range []string{"tcp", "udp"} {
				for to, peer := range map[string]string{
					l.nodes[0].published():    l.nodes[0].published(),
					"127.0.0.1:8080":          "127.0.0.1:8080",
					"[::ffff:127.0.0.1]:8080": "127.0.0.1:8080",
					"[::1]:8080":              "[::1]:8080",
				} {
					s, err := call(l.nodes[0].ns, network, to, 8000)
					if err != nil {
						t.Errorf("%s %s: %v", network, to, err)
						continue
					}
					if s.seen.Addr() != l.nodes[0].addr || s.RemoteAddr().String() != peer {
						t.Errorf("%s %s: task sees %v, client sees %v", network, to, s.seen, s.RemoteAddr())
					}
				}
				if err := unconnected(l.nodes[0].ns, "127.0.0.1:8080"); err != nil {
					t.Errorf("sendto: %v", err)
				}
			}
		}
		s, err := call(l.nodes[1].ns, "tcp4", l.nodes[0].published(), 100)
		if err != nil || s.seen.Addr() != l.nodes[1].addr {
			t.Errorf("from the task's own node through the other: %+v, %v", s, err)
		}
		if _, err := call(far.ns, "tcp4", "127.0.0.1:8080", 1); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a container's loopback is its own: %v", err)
		}
	})
}

// unconnected sends a datagram without connecting; the answer must come from whom it was sent to.
func unconnected(ns, to string) error {
	var c net.PacketConn
	err := in(ns, func() (err error) {
		c, err = net.ListenPacket("udp4", ":0")
		return err
	})
	if err != nil {
		return err
	}
	defer c.Close()
	s := &session{Conn: c.(*net.UDPConn)}
	if err := s.SetDeadline(deadline()); err != nil {
		return err
	}
	if _, err := c.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to))); err != nil {
		return err
	}
	_, from, err := c.ReadFrom(make([]byte, 100))
	if err == nil && from.String() != to {
		err = fmt.Errorf("answer from %s", from)
	}
	return err
}

func TestPublishedPortFromContainers(t *testing.T) {
	l := newLab(t)
	client, near, far := l.task(l.nodes[0]), l.task(l.nodes[0]), l.task(l.nodes[1])
	l.settle()
	for _, c := range []*task{client, near, far} {
		l.serve(c.ns, taskPort)
	}
	for _, only := range []*task{client, near, far} {
		l.out = map[*task]bool{client: true, near: true, far: true}
		delete(l.out, only)
		l.settle()
		for _, network := range []string{"tcp4", "udp4"} {
			for _, n := range l.nodes {
				s, err := call(client.ns, network, n.published(), 3000)
				if err != nil || s.server != only.ns {
					t.Errorf("%s through %s to %s: %+v, %v", network, n.addr, only.mesh, s, err)
				}
			}
		}
	}
	l.blame()
}

// Loopback is led by the kernel, whether the process lives or not.
func TestLoopbackOutlivesTheProcess(t *testing.T) {
	l := newLab(t)
	far := l.task(l.nodes[1])
	l.settle()
	l.serve(far.ns, taskPort)
	n := l.nodes[0]
	works := func(when string) {
		t.Helper()
		if s, err := call(n.ns, "tcp4", "127.0.0.1:8080", 100); err != nil || s.server != far.ns {
			t.Errorf("%s: %+v, %v", when, s, err)
		}
	}
	works("at first")
	n.kill()
	works("without a process")
	l.start(n)
	works("with a new process")
	l.settle()
	works("after it took over")
	if links := l.sh("sh", "-c", "ls "+n.dir+"/bpf/ipvs/v*/links"); len(strings.Fields(links)) != 8 {
		t.Errorf("links: %s", links)
	}
	l.blame()
}
