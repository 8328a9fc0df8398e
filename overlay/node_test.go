package overlay

import (
	"net/netip"
	"testing"
)

func meshNetwork() Network {
	return Network{
		ID: "ingress-id", Name: "ingress", VNI: 4096, Mesh: true,
		Subnets:  []netip.Prefix{netip.MustParsePrefix("10.255.0.0/16")},
		Gateways: []netip.Addr{netip.MustParseAddr("10.255.0.1")},
	}
}

func userNetwork(i byte) Network {
	return Network{
		ID: "net" + string('0'+rune(i)), Name: "user", VNI: 4096 + uint32(i),
		Subnets:  []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, i, 0}), 24)},
		Gateways: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, i, 1})},
	}
}

// settle tells every node of every other and of its containers.
func (l *lab) settle(containers ...*container) {
	l.t.Helper()
	for _, n := range l.nodes {
		n.ask(request{Op: "set", State: l.stateOf(n, containers)})
	}
}

func (l *lab) stateOf(n *node, containers []*container) State {
	s := State{Local: n.addr, Networks: []Network{meshNetwork(), userNetwork(1), userNetwork(2)}}
	for _, peer := range l.nodes {
		if peer != n {
			s.Peers = append(s.Peers, Peer{ID: peer.ns, Addr: peer.addr, Transport: TransportVXLAN})
		}
	}
	for _, c := range containers {
		if c.node == n {
			continue
		}
		for _, a := range c.attach {
			s.Endpoints = append(s.Endpoints, Endpoint{VNI: a.VNI, Addr: a.Addrs[0].Addr(), Node: c.node.addr})
		}
	}
	return s
}

func TestContainersReachEachOther(t *testing.T) {
	for name, env := range map[string][]string{"tcx": nil, "clsact": {"OVERLAY_TEST_NOTCX=1"}} {
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
