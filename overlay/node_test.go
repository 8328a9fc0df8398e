package overlay

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
)

func meshNetwork() Network {
	return Network{
		ID: "ingress-id", Name: "ingress", VNI: 4096, Mesh: true,
		Subnets:  []netip.Prefix{netip.MustParsePrefix("10.255.0.0/16"), netip.MustParsePrefix("fd00:255::/64")},
		Gateways: []netip.Addr{netip.MustParseAddr("10.255.0.1"), netip.MustParseAddr("fd00:255::1")},
	}
}

func userNetwork(i byte) Network {
	return Network{
		ID: "net" + string('0'+rune(i)), Name: "user", VNI: 4096 + uint32(i),
		Subnets: []netip.Prefix{
			netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, i, 0}), 24), netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 7: i}), 64),
		},
		Gateways: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, i, 1}), netip.AddrFrom16([16]byte{0xfd, 7: i, 15: 1})},
	}
}

// settle tells every node of every other and of its containers.
func (l *lab) settle(containers ...*container) {
	l.t.Helper()
	for _, n := range l.nodes {
		n.ask(request{Op: "set", State: l.stateOf(n, containers)})
	}
	if l.encrypted {
		l.spreadKeys(containers...)
	}
}

func (l *lab) stateOf(n *node, containers []*container) State {
	s := State{Local: n.addr, KeyEpoch: l.epoch, Networks: []Network{meshNetwork(), userNetwork(1), userNetwork(2)}}
	for i := range s.Networks {
		if l.encrypted && !s.Networks[i].Mesh {
			s.Networks[i].Transport = TransportWireGuard
		}
	}
	for _, peer := range l.nodes {
		if peer == n {
			continue
		}
		p := Peer{ID: peer.ns, Addr: peer.addr, Transport: l.transport, Keys: peer.keys}
		if peer.tunnelOnly {
			p.Transport = TransportVXLAN
		}
		s.Peers = append(s.Peers, p)
	}
	for _, c := range containers {
		if c.node == n {
			continue
		}
		for _, a := range c.attach {
			for _, p := range a.Addrs {
				s.Endpoints = append(s.Endpoints, Endpoint{VNI: a.VNI, Addr: p.Addr(), Node: c.node.addr})
			}
		}
	}
	return s
}

func TestContainersReachEachOther(t *testing.T) {
	for name, env := range everyWay() {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, 2, env...)
			a := l.nodes[0].container().join(userNetwork(1), "10.0.1.2")
			b := l.nodes[0].container().join(userNetwork(1), "10.0.1.3")
			c := l.nodes[1].container().join(userNetwork(1), "10.0.1.4")
			l.settle(a, b, c)
			l.echo(b.ns)
			l.echo(c.ns)
			for what, to := range map[string]string{"same node": "10.0.1.3", "other node": "10.0.1.4"} {
				l.pings(a.ns, to)
				if err := ping(a.ns, to, 20000, patience); err != nil {
					t.Errorf("%s: ping in fragments: %v", what, err)
				}
				if seen, err := tcp(a.ns, to, 1<<20); err != nil || seen != "10.0.1.2" {
					t.Errorf("%s: TCP: seen as %s, %v", what, seen, err)
				}
				for _, size := range []int{1, 1400, 1472, 20000, 60000} {
					if err := udp(a.ns, to, size); err != nil {
						t.Errorf("%s: UDP with %d bytes: %v", what, size, err)
					}
				}
			}
			if t.Failed() {
				for _, n := range l.nodes {
					t.Log(n.ns, n.ask(request{Op: "drops"}).Drops)
				}
			}
		})
	}
}

func TestNetworksAreIsolated(t *testing.T) {
	for name, transport := range map[string]Transport{"through the tunnel": TransportVXLAN, "directly": TransportDirect} {
		t.Run(name, func(t *testing.T) { testNetworksAreIsolated(t, transport) })
	}
	t.Run("without eBPF", func(t *testing.T) { testNetworksAreIsolated(t, TransportVXLAN, onBridge) })
}

func testNetworksAreIsolated(t *testing.T, transport Transport, env ...string) {
	l := newLab(t, 2, env...)
	l.transport = transport
	a := l.nodes[0].container().join(meshNetwork(), "10.255.0.2").join(userNetwork(1), "10.0.1.2")
	near := l.nodes[0].container().join(meshNetwork(), "10.255.0.3").join(userNetwork(2), "10.0.2.3")
	far := l.nodes[1].container().join(meshNetwork(), "10.255.0.4").join(userNetwork(2), "10.0.2.4")
	both := l.nodes[1].container().join(userNetwork(1), "10.0.1.5").join(userNetwork(2), "10.0.2.5")
	l.settle(a, near, far, both)

	l.pings(both.ns, "10.0.1.2")
	l.pings(both.ns, "10.0.2.3")
	l.pings(both.ns, "10.0.2.4")
	if transport == TransportDirect {
		l.becomesDirect(a.ns, "10.0.1.5")
	}
	for what, to := range map[string]string{
		"another network on the same node": "10.0.2.3", "another network on another node": "10.0.2.4",
		"a neighbour on the mesh network": "10.255.0.3", "a far one on the mesh network": "10.255.0.4",
		"an address of its network that nobody has": "10.0.1.99", "another network's gateway": "10.0.2.1",
	} {
		t.Run(what, func(t *testing.T) {
			if err := ping(a.ns, to, 56, absence); err == nil {
				t.Errorf("%s answers", to)
			}
		})
	}
	drops := l.nodes[0].ask(request{Op: "drops"}).Drops
	told := len(env) > 0 // the kernel tells the sender that nobody has an address, and counts nothing
	if drops["isolated"] == 0 || drops["foreign-network"] == 0 || drops["no-endpoint"] == 0 && !told {
		t.Errorf("the reasons are not counted: %v", drops)
	}
}

func TestForgedSendersAreDropped(t *testing.T) { onEachDriver(t, testForgedSendersAreDropped) }

func testForgedSendersAreDropped(t *testing.T, d Driver, env ...string) {
	l := newLab(t, 1, env...)
	a := l.nodes[0].container().join(userNetwork(1), "10.0.1.2")
	b := l.nodes[0].container().join(userNetwork(1), "10.0.1.3")
	victim := l.nodes[0].container().join(userNetwork(1), "10.0.1.4")
	l.settle(a, b, victim)
	l.pings(a.ns, "10.0.1.3")

	// a claims to be the victim: b's answer must not even be asked for.
	l.ip(a.ns, "addr", "add", "10.0.1.4/32", "dev", "eth0")
	l.ip(a.ns, "route", "add", "10.0.1.3", "dev", "eth0", "src", "10.0.1.4")
	l.pingsNot(a.ns, "10.0.1.3")
	drops := l.nodes[0].ask(request{Op: "drops"}).Drops
	if drops["forged-address"] == 0 {
		t.Errorf("forged address is not counted: %v", drops)
	}
	l.ip(a.ns, "route", "del", "10.0.1.3", "dev", "eth0")
	l.pings(a.ns, "10.0.1.3")

	l.ip(a.ns, "link", "set", "eth0", "address", "02:42:0a:00:01:04")
	l.pingsNot(a.ns, "10.0.1.3")
	// Where the kernel forwards, such a frame is not even addressed to it.
	if drops := l.nodes[0].ask(request{Op: "drops"}).Drops; drops["forged-mac"] == 0 && d == DriverEBPF {
		t.Errorf("forged MAC is not counted: %v", drops)
	}
}

func TestTunnelTakesPacketsFromPeersOnly(t *testing.T) {
	onEachDriver(t, testTunnelTakesPacketsFromPeersOnly)
}

func testTunnelTakesPacketsFromPeersOnly(t *testing.T, d Driver, env ...string) {
	l := newLab(t, 2, env...)
	a := l.nodes[0].container().join(userNetwork(1), "10.0.1.2")
	b := l.nodes[1].container().join(userNetwork(1), "10.0.1.3")
	l.settle(a, b)
	l.pings(a.ns, "10.0.1.3")

	s := l.stateOf(l.nodes[0], []*container{a, b})
	s.Peers = nil
	l.nodes[0].ask(request{Op: "set", State: s})
	l.pingsNot(b.ns, "10.0.1.2")
	if drops := l.nodes[0].ask(request{Op: "drops"}).Drops; drops["unknown-peer"] == 0 {
		t.Errorf("not counted: %v", drops)
	}
	l.settle(a, b)
	l.pings(b.ns, "10.0.1.2")
}

func TestMeshNetworkLeadsToTheNodeAndTheWorld(t *testing.T) {
	onEachDriver(t, testMeshNetworkLeadsToTheNodeAndTheWorld)
}

func testMeshNetworkLeadsToTheNodeAndTheWorld(t *testing.T, d Driver, env ...string) {
	l := newLab(t, 2, env...)
	a := l.nodes[0].container().join(userNetwork(1), "10.0.1.2").join(meshNetwork(), "10.255.0.2")
	lonely := l.nodes[0].container().join(userNetwork(1), "10.0.1.3")
	l.settle(a, lonely)
	l.echo(l.world)
	l.echo(l.nodes[0].ns)
	l.echo(a.ns)

	if seen, err := tcp(a.ns, worldAddr, 1<<16); err != nil || seen != l.nodes[0].addr.String() {
		t.Errorf("TCP to the world: seen as %q, %v", seen, err)
	}
	if err := udp(a.ns, worldAddr, 8000); err != nil {
		t.Errorf("UDP to the world: %v", err)
	}
	if seen, err := tcp(a.ns, "10.255.0.1", 1<<16); err != nil || seen != "10.255.0.2" {
		t.Errorf("TCP to the gateway: seen as %q, %v", seen, err)
	}
	if err := udp(a.ns, "10.255.0.1", 512); err != nil {
		t.Errorf("UDP to the gateway: %v", err)
	}
	l.pings(a.ns, l.nodes[1].addr.String())
	if seen, err := tcp(l.nodes[0].ns, "10.255.0.2", 1<<16); err != nil || seen != "10.255.0.1" {
		t.Errorf("TCP from the node to the container: seen as %q, %v", seen, err)
	}
	// Nobody beyond the node gets at a container's address by routing to it.
	l.ip(l.world, "route", "add", "10.255.0.0/16", "via", l.nodes[0].addr.String())
	l.pingsNot(l.world, "10.255.0.2")
	if seen, err := tcp(l.world, "10.255.0.2", 1); err == nil {
		t.Errorf("TCP from the world to the container's own address: seen as %q", seen)
	}
	l.ip(lonely.ns, "route", "add", "default", "via", "10.0.1.1")
	l.pingsNot(lonely.ns, worldAddr)
	l.pingsNot(lonely.ns, l.nodes[0].addr.String())
	l.pingsNot(lonely.ns, "10.0.1.1")
}

func TestDetachedContainersLeaveNothing(t *testing.T) {
	onEachDriver(t, testDetachedContainersLeaveNothing)
}

func testDetachedContainersLeaveNothing(t *testing.T, d Driver, env ...string) {
	l := newLab(t, 1, env...)
	n := l.nodes[0]
	a := n.container().join(meshNetwork(), "10.255.0.2")
	b := n.container().join(meshNetwork(), "10.255.0.3")
	l.settle(a, b)
	l.pings(n.ns, "10.255.0.2")
	n.ask(request{Op: "detach", ID: a.attach[0].ID})
	n.ask(request{Op: "detach", ID: a.attach[0].ID})
	left := n.ask(request{Op: "attachments"}).Attachments
	if len(left) != 1 || left[0].ID != b.attach[0].ID {
		t.Errorf("attachments: %+v", left)
	}
	if routes := l.ip(n.ns, "route", "show", "table", d.table()); strings.Contains(routes, "10.255.0.2") || !strings.Contains(routes, "10.255.0.3") {
		t.Errorf("routes:\n%s", routes)
	}
	if hooks := n.hooks("container"); len(hooks) != 1 && d == DriverEBPF {
		t.Errorf("hooks: %v", hooks)
	}

	// The address comes back on another interface while nobody told us of the old one's end.
	again := n.container().join(meshNetwork(), "10.255.0.3")
	l.pings(n.ns, "10.255.0.3")
	left = n.ask(request{Op: "attachments"}).Attachments
	if len(left) != 1 || left[0].ID != again.attach[0].ID {
		t.Errorf("attachments: %+v", left)
	}
}

// hooks lists the pinned links of a program.
func (n *node) hooks(program string) []string {
	n.lab.t.Helper()
	paths, err := filepath.Glob(filepath.Join(n.dir, "bpf", "links", program+"-*"))
	n.lab.check(err)
	return paths
}

func TestAnEmptyStateLeavesNothingOfOurs(t *testing.T) {
	for name, env := range everyWay() {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, 2, env...)
			n := l.nodes[0]
			look := func() string {
				var rules, filters string
				l.within(n.ns, func() error {
					rules = l.sh("nft", "list", "ruleset")
					filters = l.sh("tc", "filter", "show", "dev", "eth0", "ingress") + l.sh("tc", "filter", "show", "dev", "lo", "ingress")
					return nil
				})
				return l.ip(n.ns, "-o", "-d", "link") + l.ip(n.ns, "-o", "addr") + l.ip(n.ns, "route", "show", "table", "all") + l.ip(n.ns, "rule") + l.ip(n.ns, "neigh", "show", "nud", "permanent") +
					rules + filters + strings.Join(n.hooks("*"), "\n")
			}
			if before := look(); strings.Contains(before, "mesh") {
				t.Errorf("before any state:\n%s", before)
			}
			a := n.container().join(userNetwork(1), "10.0.1.2").join(meshNetwork(), "10.255.0.2")
			b := l.nodes[1].container().join(userNetwork(1), "10.0.1.3")
			l.settle(a, b)
			l.pings(a.ns, "10.0.1.3")
			for _, at := range a.attach {
				n.ask(request{Op: "detach", ID: at.ID})
			}
			n.ask(request{Op: "set", State: State{}})
			if left := look(); strings.Contains(left, "mesh") || strings.Contains(left, "10.255.0.") || strings.Contains(left, "109") {
				t.Errorf("left behind:\n%s", left)
			}
			a = n.container().join(userNetwork(1), "10.0.1.2")
			l.settle(a, b)
			l.pings(a.ns, "10.0.1.3")
		})
	}
}
