package overlay

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meshd/meshd/overlay/datapath"
	"github.com/meshd/meshd/overlay/link"
)

func TestOnlyPeersOnTheLinkAreDirect(t *testing.T) {
	near, far, tunnelled, silent, six, unknown := netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("198.51.100.1"),
		netip.MustParseAddr("192.0.2.3"), netip.MustParseAddr("192.0.2.4"), netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("2001:db8::3")
	s := State{Local: netip.MustParseAddr("192.0.2.1"), Networks: []Network{meshNetwork(), userNetwork(1), userNetwork(2)}, Endpoints: []Endpoint{
		{VNI: 4096, Addr: netip.MustParseAddr("10.255.0.9"), Node: near}, {VNI: 4097, Addr: netip.MustParseAddr("10.0.1.9"), Node: near},
		{VNI: 4098, Addr: netip.MustParseAddr("10.0.2.9"), Node: near},
	}}
	s.Networks[2].Transport = TransportVXLAN
	onLink := link.Path{Ifindex: 5, MTU: 1500, OnLink: true, MAC: [6]byte{2}}
	f := facts{
		mtu: 1500, asking: true, macs: map[netip.Addr]datapath.MAC{six: {4}},
		paths:   map[netip.Addr]link.Path{near: onLink, far: {Ifindex: 5, MTU: 1500}, tunnelled: onLink, silent: onLink, six: onLink, unknown: onLink},
		reached: map[netip.Addr]reach{},
	}
	for _, a := range []netip.Addr{near, far, tunnelled, six, unknown} {
		f.reached[a] = reach{direct: true}
	}
	for _, a := range []netip.Addr{near, far, silent, six, unknown} {
		s.Peers = append(s.Peers, Peer{Addr: a, Transport: TransportDirect})
	}
	s.Peers = append(s.Peers, Peer{Addr: tunnelled, Transport: TransportVXLAN})
	w := want(s, f, 4789)
	for a, c := range map[netip.Addr]struct{ taken, sent any }{
		near: {datapath.OnLink{Ifindex: 5}, uint32(5)}, far: {}, tunnelled: {}, unknown: {},
		silent: {taken: datapath.OnLink{Ifindex: 5}}, six: {datapath.OnLink{Ifindex: 5, MAC: datapath.MAC{4}, Own: datapath.MAC{2}}, uint32(5)},
	} {
		if taken, sent := w[onLinkObject{datapath.AddrOf(a)}], w[directObject{datapath.AddrOf(a)}]; taken != c.taken || sent != c.sent {
			t.Errorf("%s: taken %v, sent %v", a, taken, sent)
		}
	}
	if w[switchesObject{}] != datapath.SwitchDirect|datapath.SwitchAnswer {
		t.Errorf("switches %v", w[switchesObject{}])
	}
	key := func(vni uint32, addr string) object {
		return endpointObject{datapath.EndpointKey{VNI: vni, Addr: datapath.AddrOf(netip.MustParseAddr(addr))}}
	}
	if w[key(4096, "10.255.0.9")] != datapath.TunnelEndpoint(near) || w[key(4097, "10.0.1.9")] != datapath.RemoteEndpoint(near) ||
		w[key(4098, "10.0.2.9")] != datapath.TunnelEndpoint(near) {
		t.Error("the mesh network and one that says so are to have the tunnel, and no other")
	}
	// A node that sends nothing directly takes what comes, and answers nothing.
	f.asking = false
	w = want(s, f, 4789)
	if w[switchesObject{}] != datapath.SwitchDirect || w[onLinkObject{datapath.AddrOf(near)}] == nil || w[directObject{datapath.AddrOf(near)}] != nil {
		t.Errorf("not asking: %v", w)
	}
	f.asking, s.Peers = true, s.Peers[:1]
	for _, c := range []struct {
		a    Attachment
		want int
	}{{Attachment{VNI: 4097}, 1500}, {Attachment{VNI: 4096, Mesh: true}, 1450}, {Attachment{VNI: 4098}, 1450}} {
		if got := attachmentMTU(s, f, c.a); got != c.want {
			t.Errorf("MTU on %d: %d", c.a.VNI, got)
		}
	}
	s.Peers = []Peer{{Addr: near}}
	if w := want(s, f, 4789); w[switchesObject{}] != nil {
		t.Error("switched on for nobody")
	}
}

// tunnelled says how many packets a node has sent through its tunnel.
func (n *node) tunnelled() (packets int) {
	n.lab.t.Helper()
	n.lab.within(n.ns, func() error {
		out := n.lab.sh("sh", "-c", "grep mesh-vx0: /proc/thread-self/net/dev")
		_, err := fmt.Sscanf(strings.Fields(out)[10], "%d", &packets)
		return err
	})
	return packets
}

func directLab(t *testing.T, six bool, env ...string) *lab {
	l := newLabOn(t, six, 2, env...)
	l.transport = TransportDirect
	return l
}

func TestNeighboursNeedNoTunnel(t *testing.T) {
	for name, env := range map[string][]string{"tcx": nil, "clsact": {"OVERLAY_TEST_NOTCX=1"}} {
		t.Run(name, func(t *testing.T) {
			l := directLab(t, false, env...)
			a := l.nodes[0].container().process().join(userNetwork(1), "10.0.1.2")
			b := l.nodes[1].container().process().join(userNetwork(1), "10.0.1.3").join(meshNetwork(), "10.255.0.3")
			l.settle(a, b)
			l.echo(b.ns)
			l.eventually("full packets fit", func() bool { return a.hasMTU(1500) && b.hasMTU(1500) })
			l.eventually("no tunnel", func() bool {
				before := l.nodes[0].tunnelled() + l.nodes[1].tunnelled()
				l.pings(a.ns, "10.0.1.3")
				return l.nodes[0].tunnelled()+l.nodes[1].tunnelled() == before
			})
			before := l.nodes[0].tunnelled() + l.nodes[1].tunnelled()
			if seen, err := tcp(a.ns, "10.0.1.3", transfer); err != nil || seen != "10.0.1.2" {
				t.Errorf("TCP: seen as %s, %v", seen, err)
			}
			for _, size := range []int{1, 1472, 1473, 60000} {
				if err := udp(a.ns, "10.0.1.3", size); err != nil {
					t.Errorf("UDP with %d bytes: %v", size, err)
				}
			}
			if got := l.nodes[0].tunnelled() + l.nodes[1].tunnelled(); got != before {
				t.Errorf("%d packets took the tunnel", got-before)
			}
			l.pings(b.ns, worldAddr)

			// The link grows a router between: back to the tunnel, and its MTU.
			for i, n := range l.nodes {
				l.ip(n.ns, "route", "add", l.nodes[1-i].addr.String(), "via", worldAddr)
			}
			l.within(l.world, func() error { l.sh("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"); return nil })
			l.eventually("the tunnel's MTU", func() bool { return a.hasMTU(1450) && b.hasMTU(1450) })
			l.pings(a.ns, "10.0.1.3")
			if _, err := tcp(a.ns, "10.0.1.3", 1<<20); err != nil {
				t.Errorf("TCP by the router: %v", err)
			}
		})
	}
}

// inject sends a frame into a link from a machine on it.
func (l *lab) inject(ns string, source, dest net.HardwareAddr, packet []byte) {
	l.t.Helper()
	frame := append(append(append([]byte{}, dest...), source...), 0x08, 0x00)
	l.injectFrame(ns, append(frame, packet...))
}

// datagram is a UDP packet to port 7 without a checksum.
func datagram(from, to string) []byte {
	p := []byte{0x45, 0, 0, 29, 0, 0, 0, 0, 64, 17, 0, 0}
	source, dest := netip.MustParseAddr(from).As4(), netip.MustParseAddr(to).As4()
	p = append(append(p, source[:]...), dest[:]...)
	var sum uint32
	for i := 0; i < len(p); i += 2 {
		sum += uint32(p[i])<<8 | uint32(p[i+1])
	}
	sum = ^(sum>>16 + sum&0xffff)
	p[10], p[11] = byte(sum>>8), byte(sum)
	return append(p, 0, 9, 0, 7, 0, 9, 0, 0, 'x')
}

func (l *lab) mac(ns string) net.HardwareAddr {
	l.t.Helper()
	var mac net.HardwareAddr
	l.within(ns, func() error {
		dev, err := net.InterfaceByName("eth0")
		mac = dev.HardwareAddr
		return err
	})
	return mac
}

func TestDirectFramesAreTakenFromPeersOnly(t *testing.T) {
	for name, six := range map[string]bool{"IPv4": false, "IPv6": true} {
		t.Run(name, func(t *testing.T) { testDirectFramesAreTakenFromPeersOnly(t, six) })
	}
}

func testDirectFramesAreTakenFromPeersOnly(t *testing.T, six bool) {
	l := directLab(t, six)
	n, peer := l.nodes[0], l.nodes[1]
	a := n.container().process().join(userNetwork(1), "10.0.1.2").join(meshNetwork(), "10.255.0.2")
	b := peer.container().process().join(userNetwork(1), "10.0.1.3")
	other := peer.container().join(userNetwork(2), "10.0.2.3")
	l.settle(a, b, other)
	l.becomesDirect(a.ns, "10.0.1.3")
	packets := l.receive(a.ns)
	us, peerMAC, stranger := l.mac(n.ns), l.mac(peer.ns), l.mac(l.world)
	l.inject(l.world, peerMAC, us, datagram("10.0.1.3", "10.0.1.2")) // as good as the peer's own: whoever is on the link can forge
	if !packets.arrives() {
		t.Fatal("the test's frames are no good")
	}
	l.settle(a, b, other)
	for what, c := range map[string]struct {
		source   net.HardwareAddr
		from, to string
	}{
		"a machine that is no node":               {stranger, "10.0.1.3", "10.0.1.2"},
		"the address of a container here":         {peerMAC, "10.0.1.2", "10.0.1.2"},
		"an address that nobody has":              {peerMAC, "10.0.1.77", "10.0.1.2"},
		"a container on another network":          {peerMAC, "10.0.2.3", "10.0.1.2"},
		"a machine beyond":                        {peerMAC, worldAddr, "10.0.1.2"},
		"the peer itself":                         {peerMAC, "192.0.2.2", "10.0.1.2"},
		"the mesh network, from outside":          {stranger, worldAddr, "10.255.0.2"},
		"the mesh network, from a peer's address": {peerMAC, "192.0.2.2", "10.255.0.2"},
	} {
		l.inject(l.world, c.source, us, datagram(c.from, c.to))
		if packets.arrives() {
			t.Errorf("%s got through", what)
		}
	}
	drops := n.ask(request{Op: "drops"}).Drops
	if drops["unknown-peer"] == 0 || drops["forged-address"] == 0 {
		t.Errorf("not counted: %v", drops)
	}
}

// receiver counts datagrams on port 7.
type receiver struct{ c net.PacketConn }

func (l *lab) receive(ns string) receiver {
	l.t.Helper()
	var c net.PacketConn
	l.within(ns, func() (err error) { c, err = net.ListenPacket("udp4", ":7"); return err })
	l.t.Cleanup(func() { _ = c.Close() })
	return receiver{c}
}

func (r receiver) arrives() bool {
	_ = r.c.SetReadDeadline(time.Now().Add(absence))
	_, _, err := r.c.ReadFrom(make([]byte, 64))
	return err == nil
}
