package overlay

import (
	"strings"
	"testing"
)

// addressed waits until duplicate address detection has found nobody.
func (l *lab) addressed(containers ...*container) {
	l.t.Helper()
	for _, c := range containers {
		l.eventually("addresses are the container's own", func() bool {
			out := l.ip(c.ns, "-6", "addr")
			if strings.Contains(out, "dadfailed") {
				l.t.Fatalf("somebody else has the address:\n%s", out)
			}
			return !strings.Contains(out, "tentative")
		})
	}
}

func TestContainersReachEachOtherByIPv6(t *testing.T) {
	onEachDriver(t, testContainersReachEachOtherByIPv6)
}

func testContainersReachEachOtherByIPv6(t *testing.T, d Driver, env ...string) {
	for name, six := range map[string]bool{"over IPv4": false, "over IPv6": true} {
		t.Run(name, func(t *testing.T) {
			l := newLabOn(t, six, 2, env...)
			a := l.nodes[0].container().process().join(userNetwork(1), "10.0.1.2", "fd00:0:0:1::2")
			b := l.nodes[0].container().process().join(userNetwork(1), "10.0.1.3", "fd00:0:0:1::3")
			c := l.nodes[1].container().process().join(userNetwork(1), "10.0.1.4", "fd00:0:0:1::4")
			only := l.nodes[1].container().process().join(userNetwork(1), "fd00:0:0:1::5")
			l.settle(a, b, c, only)
			l.addressed(a, b, c, only)
			for _, x := range []*container{b, c, only} {
				l.echo(x.ns)
			}
			for what, to := range map[string]string{
				"same node": "fd00:0:0:1::3", "other node": "fd00:0:0:1::4", "other node, IPv6 only": "fd00:0:0:1::5",
				"other node, IPv4": "10.0.1.4",
			} {
				l.pings(a.ns, to)
				if err := ping(a.ns, to, 20000, patience); err != nil {
					t.Errorf("%s: ping in fragments: %v", what, err)
				}
				if seen, err := tcp(a.ns, to, 1<<20); err != nil || seen != "10.0.1.2" && seen != "fd00:0:0:1::2" {
					t.Errorf("%s: TCP: seen as %s, %v", what, seen, err)
				}
				for _, size := range []int{1, 1400, 1472, 60000} {
					if err := udp(a.ns, to, size); err != nil {
						t.Errorf("%s: UDP with %d bytes: %v", what, size, err)
					}
				}
			}
			if neighbours := l.ip(a.ns, "-6", "neigh"); strings.Count(neighbours, "02:6d:65:73:68:01") < 3 && d == DriverEBPF {
				t.Errorf("neighbours:\n%s", neighbours)
			}
			if t.Failed() {
				for _, n := range l.nodes {
					t.Log(n.ns, n.ask(request{Op: "drops"}).Drops)
				}
			}
		})
	}
}

func TestIPv6UnderlaysCarryLargeTransfers(t *testing.T) {
	onEachDriver(t, testIPv6UnderlaysCarryLargeTransfers)
}

func testIPv6UnderlaysCarryLargeTransfers(t *testing.T, d Driver, env ...string) {
	l := newLabOn(t, true, 2, env...)
	a := l.nodes[0].container().process().join(userNetwork(1), "10.0.1.2")
	b := l.nodes[1].container().process().join(userNetwork(1), "10.0.1.3")
	l.settle(a, b)
	l.echo(a.ns)
	l.echo(b.ns)
	for _, mtu := range []int{9000, 1420, 1280, 1500} {
		l.underlayMTU(mtu)
		l.eventually("the containers follow", func() bool { return a.hasMTU(mtu-70) && b.hasMTU(mtu-70) })
		for ns, to := range map[string]string{a.ns: "10.0.1.3", b.ns: "10.0.1.2"} {
			if _, err := tcp(ns, to, transfer); err != nil {
				t.Errorf("underlay %d: to %s: %v", mtu, to, err)
			}
		}
	}
}

// IPv6 needs 1280 bytes inside, also where the underlay has no more: over IPv4 packets
// travel in parts, over IPv6 TCP has smaller ones from its beginning.
func TestIPv6PassesANarrowUnderlay(t *testing.T) {
	for name, six := range map[string]bool{"over IPv4": false, "over IPv6": true} {
		t.Run(name, func(t *testing.T) {
			l := newLabOn(t, six, 2)
			a := l.nodes[0].container().process().join(userNetwork(1), "fd00:0:0:1::2")
			b := l.nodes[1].container().process().join(userNetwork(1), "fd00:0:0:1::3")
			l.underlayMTU(1280)
			l.settle(a, b)
			l.addressed(a, b)
			l.echo(b.ns)
			l.eventually("the least that IPv6 takes", func() bool { return a.hasMTU(1280) && b.hasMTU(1280) })
			l.eventually("10 MB each way", func() bool { _, err := tcp(a.ns, "fd00:0:0:1::3", transfer); return err == nil })
			if err := udp(a.ns, "fd00:0:0:1::3", 1100); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestForgedIPv6SendersAreDropped(t *testing.T) { onEachDriver(t, testForgedIPv6SendersAreDropped) }

func testForgedIPv6SendersAreDropped(t *testing.T, d Driver, env ...string) {
	l := newLab(t, 2, env...)
	a := l.nodes[0].container().join(userNetwork(1), "10.0.1.2", "fd00:0:0:1::2")
	b := l.nodes[0].container().join(userNetwork(1), "10.0.1.3", "fd00:0:0:1::3")
	other := l.nodes[0].container().join(userNetwork(2), "10.0.2.4", "fd00:0:0:2::4")
	far := l.nodes[1].container().join(userNetwork(2), "10.0.2.5", "fd00:0:0:2::5")
	l.settle(a, b, other, far)
	l.addressed(a, b, other, far)
	l.pings(a.ns, "fd00:0:0:1::3")
	l.pings(other.ns, "fd00:0:0:2::5")

	l.ip(a.ns, "route", "add", "fd00::/16", "dev", "eth0")
	for what, to := range map[string]string{
		"another network here": "fd00:0:0:2::4", "another network elsewhere": "fd00:0:0:2::5", "nobody's address": "fd00:0:0:1::99",
	} {
		if err := ping(a.ns, to, 8, absence); err == nil {
			t.Errorf("%s answers", what)
		}
	}
	// a takes an address that is another's: its own test must not warn it (nobody
	// answers for others), but no packet from it may pass.
	l.ip(a.ns, "addr", "add", "fd00:0:0:1::77/64", "dev", "eth0", "nodad")
	l.ip(a.ns, "addr", "change", "fd00:0:0:1::2/64", "dev", "eth0", "preferred_lft", "0")
	l.pingsNot(a.ns, "fd00:0:0:1::3")
	link := strings.Fields(l.ip(b.ns, "-6", "-br", "addr", "show", "dev", "eth0", "scope", "link"))
	if err := ping(a.ns, strings.TrimSuffix(link[2], "/64")+"%eth0", 8, absence); err == nil {
		t.Error("a link-local address answers")
	}
	drops := l.nodes[0].ask(request{Op: "drops"}).Drops
	if drops["forged-address"] == 0 || drops["no-endpoint"] == 0 && d == DriverEBPF {
		t.Errorf("not counted: %v", drops)
	}
}

func TestMeshNetworkLeadsToTheWorldByIPv6(t *testing.T) {
	onEachDriver(t, testMeshNetworkLeadsToTheWorldByIPv6)
}

func testMeshNetworkLeadsToTheWorldByIPv6(t *testing.T, d Driver, env ...string) {
	l := newLab(t, 2, env...)
	n := l.nodes[0]
	a := n.container().process().join(userNetwork(1), "fd00:0:0:1::2").join(meshNetwork(), "10.255.0.2", "fd00:255::2")
	near := n.container().join(meshNetwork(), "10.255.0.3", "fd00:255::3")
	lonely := n.container().join(userNetwork(1), "fd00:0:0:1::3")
	l.settle(a, near, lonely)
	l.addressed(a, near, lonely)
	l.echo(l.world)
	l.echo(n.ns)
	l.echo(a.ns)
	if seen, err := tcp(a.ns, worldAddr6, 1<<16); err != nil || seen != "2001:db8::1" {
		t.Errorf("TCP to the world: seen as %q, %v", seen, err)
	}
	// Routers do not fragment IPv6: the first answer only tells the world our MTU.
	l.eventually("UDP with the world", func() bool { return udpWithin(a.ns, worldAddr6, 8000, absence) == nil })
	if seen, err := tcp(a.ns, "fd00:255::1", 1<<16); err != nil || seen != "fd00:255::2" {
		t.Errorf("TCP to the gateway: seen as %q, %v", seen, err)
	}
	if seen, err := tcp(n.ns, "fd00:255::2", 1<<16); err != nil || seen != "fd00:255::1" {
		t.Errorf("TCP from the node to the container: seen as %q, %v", seen, err)
	}
	if seen, err := tcp(a.ns, worldAddr, 1<<16); err != nil || seen != "192.0.2.1" {
		t.Errorf("TCP to the world by IPv4: seen as %q, %v", seen, err)
	}
	l.pingsNot(a.ns, "fd00:255::3")
	l.ip(lonely.ns, "route", "add", "default", "via", "fd00:0:0:1::1")
	l.pingsNot(lonely.ns, worldAddr6)

	for what, harm := range map[string]func(){
		"gateway address": func() { l.ip(n.ns, "addr", "del", "fd00:255::1/128", "dev", "mesh0") },
		"route":           func() { l.ip(n.ns, "-6", "route", "del", "fd00:255::2", "table", d.table()) },
		"masquerading":    func() { l.within(n.ns, func() error { l.sh("nft", "delete", "table", "ip6", "meshd"); return nil }) },
		"IPv6 on the container's interface": func() {
			l.within(n.ns, func() error {
				l.sh("sh", "-c", "for f in /proc/sys/net/ipv6/conf/mv*/disable_ipv6; do echo 1 > $f; done")
				return nil
			})
		},
	} {
		harm()
		l.eventually("repaired: "+what, func() bool {
			return ping(a.ns, worldAddr6, 8, absence) == nil && ping(a.ns, "fd00:255::1", 8, absence) == nil
		})
	}
	n.ask(request{Op: "detach", ID: a.attach[1].ID})
	if routes := l.ip(n.ns, "-6", "route", "show", "table", d.table()); strings.Contains(routes, "fd00:255::2") || !strings.Contains(routes, "fd00:255::3") {
		t.Errorf("routes:\n%s", routes)
	}
}

func TestForwardingNodesStillListenToRouters(t *testing.T) {
	l := newLab(t, 1)
	l.settle()
	l.within(l.nodes[0].ns, func() error {
		if got := strings.TrimSpace(l.sh("cat", "/proc/sys/net/ipv6/conf/all/forwarding", "/proc/sys/net/ipv6/conf/eth0/accept_ra")); got != "1\n2" {
			t.Errorf("forwarding, accept_ra: %q", got)
		}
		return nil
	})
}
