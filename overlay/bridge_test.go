package overlay

import (
	"net/netip"
	"os"
	"testing"

	"github.com/meshd/meshd/overlay/link"
	"github.com/meshd/meshd/overlay/nft"
)

// restart ends a node's process and begins one in another environment.
func (n *node) restart(env ...string) {
	n.lab.t.Helper()
	n.kill()
	n.env = env
	n.start()
}

func TestBothDriversWorkTogether(t *testing.T) {
	for name, six := range map[string]bool{"over IPv4": false, "over IPv6": true} {
		t.Run(name, func(t *testing.T) {
			l := newLabOn(t, six, 2)
			l.nodes[1].restart(onBridge)
			a := l.nodes[0].container().process().join(userNetwork(1), "10.0.1.2", "fd00:0:0:1::2")
			b := l.nodes[1].container().process().join(userNetwork(1), "10.0.1.3", "fd00:0:0:1::3")
			other := l.nodes[1].container().join(userNetwork(2), "10.0.2.4")
			l.settle(a, b, other)
			l.addressed(a, b)
			for from, to := range map[*container]*container{a: b, b: a} {
				l.echo(to.ns)
				for _, p := range to.attach[0].Addrs {
					l.pings(from.ns, p.Addr().String())
					if _, err := tcp(from.ns, p.Addr().String(), 1<<20); err != nil {
						t.Errorf("TCP to %s: %v", p, err)
					}
					if err := udp(from.ns, p.Addr().String(), 20000); err != nil {
						t.Errorf("UDP to %s: %v", p, err)
					}
				}
			}
			l.pingsNot(a.ns, "10.0.2.4")
			l.pingsNot(other.ns, "10.0.1.2")
		})
	}
}

// A node that is started with another driver takes over from the one before: its containers
// notice a pause, no more, and nothing of the other's is left.
func TestADriverTakesOverFromTheOther(t *testing.T) {
	l := newLab(t, 2)
	n := l.nodes[0]
	a := n.container().process().join(userNetwork(1), "10.0.1.2", "fd00:0:0:1::2").join(meshNetwork(), "10.255.0.2")
	b := l.nodes[1].container().join(userNetwork(1), "10.0.1.3", "fd00:0:0:1::3")
	works := func(way string) {
		l.settle(a, b)
		for _, to := range []string{"10.0.1.3", "fd00:0:0:1::3", "10.255.0.1", worldAddr} {
			l.eventually(way+": "+to+" answers", func() bool { return ping(a.ns, to, 8, absence) == nil })
		}
		l.eventually(way+": the node reaches its container", func() bool { return ping(n.ns, "10.255.0.2", 8, absence) == nil })
	}
	l.addressed(a, b)
	works("as begun")
	n.restart(onBridge)
	works("without eBPF")
	if hooks := n.hooks("*"); len(hooks) > 0 {
		t.Errorf("programs are left: %v", hooks)
	}
	n.restart()
	works("with eBPF again")
	if left := n.hasEdge(); left {
		t.Error("the packet filter's rules are left")
	}
}

// hasEdge says whether DriverBridge's rules are there.
func (n *node) hasEdge() (there bool) {
	n.lab.t.Helper()
	n.lab.within(n.ns, func() (err error) { _, _, there, err = nft.EdgeOf(); return err })
	return there
}

func TestDriftIsRepairedWithoutPrograms(t *testing.T) {
	l := newLab(t, 2, onBridge)
	n := l.nodes[0]
	a := n.container().process().join(meshNetwork(), "10.255.0.2").join(userNetwork(1), "10.0.1.2")
	b := l.nodes[1].container().join(userNetwork(1), "10.0.1.3")
	l.settle(a, b)
	l.pings(a.ns, "10.0.1.3")
	host := "mv" + a.attach[1].ID[:12]
	works := func() bool { return ping(a.ns, "10.0.1.3", 8, absence) == nil }
	for what, d := range map[string]drift{
		"tunnel deleted":            {"tunnel", func() { l.ip(n.ns, "link", "del", "mesh-vx0") }, works},
		"route to a peer deleted":   {"route", func() { l.ip(n.ns, "route", "del", "10.0.1.3", "table", "109") }, works},
		"route turned elsewhere":    {"route", func() { l.ip(n.ns, "route", "replace", "10.0.1.3", "dev", "eth0", "proto", "109", "table", "109") }, works},
		"route to a container":      {"route", func() { l.ip(n.ns, "route", "del", "10.0.1.2", "table", "109") }, works},
		"rule deleted":              {"route", func() { l.ip(n.ns, "rule", "del", "pref", "109") }, works},
		"container's MAC changed":   {"interface", func() { l.ip(n.ns, "link", "set", host, "address", "02:42:00:00:00:99") }, works},
		"interface deleted":         {"interface", func() { l.ip(n.ns, "link", "del", host) }, works},
		"rules flushed":             {"rules", func() { l.nft(n, "flush ruleset") }, works},
		"chain flushed":             {"rules", func() { l.nft(n, "flush chain inet meshd_edge arrive") }, works},
		"frames refused":            {"rules", func() { l.nft(n, "delete table netdev meshd_arrive") }, works},
		"container may not speak":   {"interface", func() { l.nft(n, "flush set inet meshd_edge addrs4") }, works},
		"peers forgotten":           {"peer", func() { l.nft(n, "flush set inet meshd_edge peers4") }, works},
		"neighbour deleted":         {"neighbour", func() { l.ip(n.ns, "neigh", "del", "10.0.1.2", "dev", host) }, works},
		"entry nodes' marks forgot": {"peer", func() { l.nft(n, "flush map inet meshd_edge entries") }, works},
	} {
		if !n.repairs(what, d) {
			break
		}
	}
}

func TestABridgeNodesPeersAreTold(t *testing.T) {
	peer := netip.MustParseAddr("192.0.2.7")
	s := State{
		Local: netip.MustParseAddr("192.0.2.1"), Peers: []Peer{{ID: "p", Addr: peer, Transport: TransportDirect}}, Networks: []Network{meshNetwork(), userNetwork(1)},
		Endpoints: []Endpoint{{VNI: 4097, Addr: netip.MustParseAddr("10.0.1.9"), Node: peer}},
	}
	w := wantBridge(s, facts{live: true, tunnel: 3, ports: []port{testPort(false)}}, 4789)
	for what, ok := range map[string]bool{
		"the peer":                     w[nodeObject{nft.EdgePeer{Addr: peer, MAC: [6]byte{2, 0x6e, 192, 0, 2, 7}, Mark: 0x6d000207}}] != nil,
		"the way to its container":     w[hopTo(netip.MustParseAddr("10.0.1.9"))] == link.Hop{Ifindex: 3, Node: peer, VNI: 4097},
		"the way to ours":              w[hopTo(netip.MustParseAddr("10.0.1.2"))] == link.Hop{Ifindex: 7},
		"nobody's addresses":           w[hopObject{link.HopKey{Table: link.Table, To: netip.MustParsePrefix("10.0.1.0/24")}}] == link.Hop{},
		"the way back to an entry":     w[hopObject{link.HopKey{Table: 0x6d000207, To: netip.MustParsePrefix("0.0.0.0/0")}}] == link.Hop{Ifindex: 3, Node: peer, VNI: 4096},
		"who answers at that entry":    w[ruleObject{link.Rule{Mark: 0x6d000207}}] != nil,
		"nothing goes without tunnel":  w[onLinkObject{}] == nil,
		"an untold node has no tunnel": wantBridge(s, facts{live: true}, 4789)[arriveObject{}] == nil,
	} {
		if !ok {
			t.Errorf("%s: not wanted: %v", what, w)
		}
	}
}

func TestNodesAreToldApart(t *testing.T) {
	marks, macs := map[uint32]netip.Addr{}, map[[6]byte]netip.Addr{}
	for _, s := range []string{"192.0.2.1", "192.0.2.2", "192.0.3.1", "10.1.0.5", "10.2.0.5", "2001:db8:0:1::1", "2001:db8:0:2::1", "2001:db8:0:100::1", "fd00::1"} {
		a := netip.MustParseAddr(s)
		mark, mac := nodeMark(a), nodeMAC(a)
		if other, taken := marks[mark]; taken || mark&^0xffffff != nft.MarkPrefix {
			t.Errorf("%s has mark %x, and so has %s", a, mark, other)
		}
		if other, taken := macs[mac]; taken {
			t.Errorf("%s has MAC %x, and so has %s", a, mac, other)
		}
		marks[mark], macs[mac] = a, a
	}
}

func TestTheDriverIsChosenByWhatTheKernelHas(t *testing.T) {
	if _, _, err := Choose("fast"); err == nil {
		t.Error("an unknown driver is taken")
	}
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: needs root to try the kernel")
	}
	for mode, want := range map[Driver]Driver{"": DriverEBPF, DriverAuto: DriverEBPF, DriverEBPF: DriverEBPF, DriverBridge: DriverBridge} {
		d, why, err := Choose(mode)
		if err != nil || d != want || why == "" {
			t.Errorf("%q: %s because %q, %v", mode, d, why, err)
		}
	}
}
