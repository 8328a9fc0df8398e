package overlay

import (
	"testing"
)

// direct says whether a ping and its answer went without the tunnel.
func (l *lab) direct(ns, to string) bool {
	l.t.Helper()
	sum := func() (n int) {
		for _, node := range l.nodes {
			n += node.tunnelled()
		}
		return n
	}
	before := sum()
	l.pings(ns, to)
	return sum() == before
}

func (l *lab) becomesDirect(ns, to string) {
	l.t.Helper()
	l.eventually("direct", func() bool { return l.direct(ns, to) })
}

// assigned has the network between the nodes drop what addresses it did not
// assign, as clouds do, or not any more.
func (l *lab) assigned(only bool) {
	l.t.Helper()
	rules := "add table bridge cloud; delete table bridge cloud;"
	if only {
		rules += `add table bridge cloud; add chain bridge cloud frames { type filter hook forward priority 0; };
			add rule bridge cloud frames ip saddr != 192.0.2.0/24 drop; add rule bridge cloud frames ip daddr != 192.0.2.0/24 drop`
	}
	l.sh("ip", "netns", "exec", l.hub, "nft", rules)
}

func TestANetworkThatDropsForeignAddressesGetsTheTunnel(t *testing.T) {
	l := directLab(t, false)
	l.assigned(true)
	a := l.nodes[0].container().process().join(userNetwork(1), "10.0.1.2").join(meshNetwork(), "10.255.0.2")
	b := l.nodes[1].container().process().join(userNetwork(1), "10.0.1.3")
	l.settle(a, b)
	l.echo(b.ns)
	across := l.stream(a.ns, "10.0.1.3")
	for range 10 {
		across.progress(l, 50)
		if l.direct(a.ns, "10.0.1.3") {
			t.Fatal("direct where it cannot arrive")
		}
	}
	l.assigned(false)
	l.becomesDirect(a.ns, "10.0.1.3")
	across.progress(l, 50)
	across.end()
	if lost := across.lost.Load(); lost > 0 {
		t.Errorf("%d of %d datagrams lost", lost, across.sent.Load())
	}

	l.assigned(true)
	l.eventually("back to the tunnel", func() bool { return ping(a.ns, "10.0.1.3", 56, absence) == nil })
	l.eventually("and its MTU", func() bool { return b.hasMTU(1450) })
	if _, err := tcp(a.ns, "10.0.1.3", 1<<20); err != nil {
		t.Error(err)
	}
}

func TestSwitchingDirectRoutingLosesNothing(t *testing.T) {
	for name, six := range map[string]bool{"IPv4": false, "IPv6": true} {
		t.Run(name, func(t *testing.T) {
			l := directLab(t, six)
			a := l.nodes[0].container().process().join(userNetwork(1), "10.0.1.2").join(meshNetwork(), "10.255.0.2")
			b := l.nodes[1].container().process().join(userNetwork(1), "10.0.1.3")
			l.settle(a, b)
			l.echo(a.ns)
			l.echo(b.ns)
			// An IPv6 underlay's first packet is lost now and then, with and without us.
			l.eventually("reached", func() bool { return ping(a.ns, "10.0.1.3", 56, absence) == nil })
			there, back := l.stream(a.ns, "10.0.1.3"), l.stream(b.ns, "10.0.1.2")
			run := func() {
				there.progress(l, 50)
				back.progress(l, 50)
			}
			l.becomesDirect(a.ns, "10.0.1.3")
			for _, n := range l.nodes {
				for _, env := range [][]string{{"OVERLAY_TEST_NODIRECT=1"}, nil} {
					n.kill()
					n.env, n.tunnelOnly = env, env != nil
					n.start()
					run()
					l.settle(a, b)
					run()
					if env != nil && l.direct(a.ns, "10.0.1.3") {
						t.Fatal("direct to or from a node that is not to have it")
					}
				}
				l.becomesDirect(a.ns, "10.0.1.3")
				run()
			}
			for what, s := range map[string]*stream{"there": there, "back": back} {
				s.end()
				if lost := s.lost.Load(); lost > 0 {
					t.Errorf("%s: %d of %d datagrams lost", what, lost, s.sent.Load())
				}
			}
		})
	}
}
