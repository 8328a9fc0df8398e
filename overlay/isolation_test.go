package overlay

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// tunnelled is the payload of a tunnel's packet (RFC 7348): a frame with a datagram, on a network.
func tunnelled(vni uint32, from, to string) []byte {
	p := []byte{0x08, 0, 0, 0, byte(vni >> 16), byte(vni >> 8), byte(vni), 0}
	p = append(p, 2, 'm', 'e', 's', 'h', 1, 2, 'm', 'e', 's', 'h', 1)
	if netip.MustParseAddr(from).Is6() {
		return append(append(p, 0x86, 0xdd), datagram6(from, to)...)
	}
	return append(append(p, 0x08, 0x00), datagram(from, to)...)
}

// datagram6 is an IPv6 packet to UDP port 7.
func datagram6(from, to string) []byte {
	source, dest := netip.MustParseAddr(from).As16(), netip.MustParseAddr(to).As16()
	udp := []byte{0, 9, 0, 7, 0, 9, 0, 0, 'x', 0}
	var sum uint32
	for _, part := range [][]byte{source[:], dest[:], udp, {0, 9}, {0, 17}} {
		for i := 0; i < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(udp[6:], ^uint16(sum))
	p := []byte{0x60, 0, 0, 0, 0, 9, 17, 64}
	return append(append(append(p, source[:]...), dest[:]...), udp[:9]...)
}

// throw sends a datagram from a namespace.
func (l *lab) throw(ns, to string, payload []byte) {
	l.t.Helper()
	l.within(ns, func() error {
		c, err := net.Dial("udp", to)
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err = c.Write(payload); errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ECONNREFUSED) {
			return nil // refused on the spot is as good
		}
		return err
	})
}

// receiveAny counts datagrams of either version on port 7.
func (l *lab) receiveAny(ns string) receiver {
	l.t.Helper()
	var c net.PacketConn
	l.within(ns, func() (err error) { c, err = net.ListenPacket("udp", ":7"); return err })
	l.t.Cleanup(func() { _ = c.Close() })
	return receiver{c}
}

func (r receiver) comes(l *lab, send func()) {
	l.t.Helper()
	l.eventually("the test's packets are good", func() bool { send(); return r.arrives() })
	for r.arrives() {
	}
}

// Tunnelled packets are taken from nodes only: not from a machine outside, and not
// from a container, whose packets leave with its node's own address.
func TestTunnelledPacketsAreTakenFromNodesOnly(t *testing.T) {
	onEachDriver(t, testTunnelledPacketsAreTakenFromNodesOnly)
}

func testTunnelledPacketsAreTakenFromNodesOnly(t *testing.T, d Driver, env ...string) {
	for name, six := range map[string]bool{"IPv4": false, "IPv6": true} {
		t.Run(name, func(t *testing.T) {
			l := newLabOn(t, six, 2, env...)
			a := l.nodes[0].container().process().join(userNetwork(1), "10.0.1.2", "fd00:0:0:1::2").join(meshNetwork(), "10.255.0.2", "fd00:255::2")
			evil := l.nodes[1].container().process().join(meshNetwork(), "10.255.0.3", "fd00:255::3")
			b := l.nodes[1].container().process().join(userNetwork(1), "10.0.1.3")
			l.settle(a, evil, b)
			l.addressed(a, evil)
			packets := l.receiveAny(a.ns)
			to := netip.AddrPortFrom(l.nodes[0].addr, 4789).String()
			forged := [][]byte{tunnelled(4097, "10.0.1.3", "10.0.1.2")}
			if len(a.attach[0].Addrs) > 1 {
				forged = append(forged, tunnelled(4097, "fd00:0:0:1::3", "fd00:0:0:1::2"))
			}
			for _, p := range forged {
				packets.comes(l, func() { l.throw(l.nodes[1].ns, to, p) })
				for who, ns := range map[string]string{"a machine outside": l.world, "a container of another node": evil.ns, "a container of this node": a.ns} {
					l.throw(ns, to, p)
					if packets.arrives() {
						t.Errorf("%s is taken for a node", who)
					}
				}
			}
			// What a container sends to other ports goes through.
			l.echo(l.nodes[0].ns)
			l.eventually("the container reaches the node", func() bool { return udpWithin(evil.ns, l.nodes[0].addr.String(), 8, absence) == nil })
			if six { // nor behind headers that hide the port
				l.throwRaw6(evil.ns, l.nodes[0].addr, forged[0])
				if packets.arrives() {
					t.Error("behind extension headers it is taken for a node's")
				}
			}
			if drops := l.nodes[1].ask(request{Op: "drops"}).Drops; drops["unknown-peer"] == 0 {
				t.Errorf("not counted: %v", drops)
			}
		})
	}
}

// throwRaw6 sends a tunnel's packet behind a header of destination options.
func (l *lab) throwRaw6(ns string, to netip.Addr, payload []byte) {
	l.t.Helper()
	l.within(ns, func() error {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		options := []byte{0, 0, 1, 4, 0, 0, 0, 0} // PadN
		if err := unix.SetsockoptString(fd, unix.IPPROTO_IPV6, unix.IPV6_DSTOPTS, string(options)); err != nil {
			return err
		}
		return unix.Sendto(fd, payload, 0, &unix.SockaddrInet6{Port: 4789, Addr: to.As16()})
	})
}

// Nobody reaches networks that he shares no container with, by addresses of IPv6
// either, nor speaks for others in ARP.
func TestNetworksAreIsolatedByIPv6(t *testing.T) { onEachDriver(t, testNetworksAreIsolatedByIPv6) }

func testNetworksAreIsolatedByIPv6(t *testing.T, d Driver, env ...string) {
	l := newLab(t, 2, env...)
	a := l.nodes[0].container().join(meshNetwork(), "10.255.0.2", "fd00:255::2").join(userNetwork(1), "10.0.1.2", "fd00:0:0:1::2")
	near := l.nodes[0].container().join(meshNetwork(), "10.255.0.3", "fd00:255::3").join(userNetwork(2), "10.0.2.3")
	far := l.nodes[1].container().join(meshNetwork(), "10.255.0.4", "fd00:255::4").join(userNetwork(2), "10.0.2.4")
	l.settle(a, near, far)
	l.addressed(a, near, far)
	for what, c := range map[string][2]string{
		"the mesh network, on this node":    {a.ns, "fd00:255::3"},
		"the mesh network, on another node": {a.ns, "fd00:255::4"},
		"another network":                   {a.ns, second(userNetwork(2), 3)},
		"another network, on another node":  {a.ns, second(userNetwork(2), 4)},
		"a machine outside":                 {l.world, "fd00:255::2"},
	} {
		if err := ping(c[0], c[1], 56, absence); err == nil {
			t.Errorf("%s: %s answers", what, c[1])
		}
	}
}

// second is an address of a network's second subnet.
func second(n Network, i byte) string {
	a := n.Subnets[1].Addr().As16()
	a[15] = i
	return netip.AddrFrom16(a).String()
}

func TestARPOfOthersGoesNowhere(t *testing.T) {
	l := newLab(t, 1)
	n := l.nodes[0]
	victim := n.container().process().join(userNetwork(1), "10.0.1.2")
	evil := n.container().process().join(userNetwork(1), "10.0.1.3")
	other := n.container().process().join(userNetwork(1), "10.0.1.4")
	l.settle(victim, evil, other)
	l.pings(victim.ns, "10.0.1.4")
	claim := []byte{0, 1, 8, 0, 6, 4, 0, 2} // a reply: 10.0.1.4 is at evil's
	evilMAC, victimMAC := l.mac(evil.ns), l.mac(victim.ns)
	claim = append(append(claim, evilMAC...), 10, 0, 1, 4)
	claim = append(append(claim, victimMAC...), 10, 0, 1, 2)
	for _, dest := range []net.HardwareAddr{victimMAC, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff}} {
		l.injectFrame(evil.ns, append(append(append([]byte{}, dest...), evilMAC...), append([]byte{0x08, 0x06}, claim...)...))
	}
	l.eventually("it is dropped and counted", func() bool { return n.ask(request{Op: "drops"}).Drops["arp"] >= 2 })
	if table := l.ip(victim.ns, "neigh"); strings.Contains(table, evilMAC.String()) {
		t.Errorf("the victim believes it:\n%s", table)
	}
	l.pings(victim.ns, "10.0.1.4")
}

// A frame with a VLAN's tag goes nowhere: sent on to a peer it would enter that VLAN of the nodes' link.
func TestTaggedFramesGoNowhere(t *testing.T) {
	l := directLab(t, false)
	a := l.nodes[0].container().process().join(userNetwork(1), "10.0.1.2")
	b := l.nodes[1].container().process().join(userNetwork(1), "10.0.1.3")
	l.settle(a, b)
	l.becomesDirect(a.ns, "10.0.1.3")
	packets := l.receive(b.ns)
	router, own := routerMAC(), l.mac(a.ns)
	macs := append(append([]byte{}, router[:]...), own...)
	packet := append([]byte{0x08, 0x00}, datagram("10.0.1.2", "10.0.1.3")...)
	packets.comes(l, func() { l.injectFrame(a.ns, append(slices.Clone(macs), packet...)) })
	before := l.nodes[0].ask(request{Op: "drops"}).Drops["not-ip"]
	l.eventually("it is dropped and counted", func() bool {
		l.injectFrame(a.ns, append(append(slices.Clone(macs), 0x81, 0x00, 0x00, 0x05), packet...))
		return l.nodes[0].ask(request{Op: "drops"}).Drops["not-ip"] > before
	})
	if packets.arrives() {
		t.Error("it arrives")
	}
}

// injectFrame sends a frame on eth0 of a namespace.
func (l *lab) injectFrame(ns string, frame []byte) {
	l.t.Helper()
	l.within(ns, func() error {
		dev, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: dev.Index})
	})
}
