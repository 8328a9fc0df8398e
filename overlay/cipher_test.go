package overlay

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshd/meshd/overlay/datapath"
	"github.com/meshd/meshd/overlay/link"
	"github.com/meshd/meshd/overlay/wireguard"
)

// wireGuardPeer is a node with keys of some epochs.
func wireGuardPeer(addr string, epochs ...uint64) Peer {
	p := Peer{Addr: netip.MustParseAddr(addr)}
	for _, e := range epochs {
		p.Keys = append(p.Keys, wireguard.PublicKey{Epoch: e, Key: wireguard.Key{byte(e), p.Addr.As4()[3]}, Port: 51820})
	}
	return p
}

func secretNetwork(i byte) Network {
	n := userNetwork(i)
	n.Transport = TransportWireGuard
	return n
}

func TestPacketsTakeTheNewestKeysThatBothHave(t *testing.T) {
	us := []wireguard.PublicKey{{Epoch: 3}, {Epoch: 2}}
	for what, c := range map[string]struct {
		peer       Peer
		handshakes []uint64
		want       int
	}{
		"it has the old one":                {wireGuardPeer("192.0.2.2", 2), []uint64{2}, 102},
		"it has both, the new one unproved": {wireGuardPeer("192.0.2.2", 3, 2), []uint64{2}, 102},
		"it has proved the new one":         {wireGuardPeer("192.0.2.2", 3, 2), []uint64{3, 2}, 103},
		"it has but the new one":            {wireGuardPeer("192.0.2.2", 3), nil, 103},
		"it has nothing of ours":            {wireGuardPeer("192.0.2.2", 7), nil, 0},
		"it has none":                       {wireGuardPeer("192.0.2.2"), nil, 0},
	} {
		f := facts{keys: us, ciphers: map[string]cipher{}}
		for _, k := range us {
			f.ciphers[wireguard.DeviceName(k.Epoch)] = cipher{ifindex: 100 + int(k.Epoch), peers: map[wireguard.Key]wireguard.Status{}}
		}
		for _, e := range c.handshakes {
			key, _ := c.peer.key(e)
			f.ciphers[wireguard.DeviceName(e)].peers[key.Key] = wireguard.Status{Handshake: time.Now()}
		}
		if got := f.cipherTo(c.peer); got != c.want {
			t.Errorf("%s: device %d, want %d", what, got, c.want)
		}
		if all, want := moved(State{KeyEpoch: 3, Peers: []Peer{c.peer}, Networks: []Network{secretNetwork(1)},
			Endpoints: []Endpoint{{VNI: secretNetwork(1).VNI, Node: c.peer.Addr}}}, f), len(c.handshakes) == 2; all != want {
			t.Errorf("%s: the rotation is over: %v", what, all)
		}
	}
}

func TestOnlyEncryptedNetworksWantDevices(t *testing.T) {
	a, b := wireGuardPeer("192.0.2.2", 1), wireGuardPeer("192.0.2.3", 1)
	s := State{Local: netip.MustParseAddr("192.0.2.1"), KeyEpoch: 1, Peers: []Peer{a, b}, Networks: []Network{meshNetwork(), secretNetwork(1), userNetwork(2)}, Endpoints: []Endpoint{
		{VNI: 4097, Addr: netip.MustParseAddr("10.0.1.9"), Node: a.Addr}, {VNI: 4098, Addr: netip.MustParseAddr("10.0.2.9"), Node: a.Addr},
		{VNI: 4098, Addr: netip.MustParseAddr("10.0.2.8"), Node: b.Addr}, {VNI: 4096, Addr: netip.MustParseAddr("10.255.0.9"), Node: b.Addr},
	}}
	k := newFake()
	o := overlayOn(k)
	if err := o.Set(s); err != nil {
		t.Fatal(err)
	}
	d := o.wantCipherDevices(s)
	if len(d) != 1 || len(d[0].Peers) != 1 || len(d[0].Peers[a.Keys[0].Key].Allowed) != 1 {
		t.Errorf("devices: %+v", d)
	}
	if k.held[endpointObject{datapath.EndpointKey{VNI: 4097, Addr: datapath.AddrOf(netip.MustParseAddr("10.0.1.9"))}}] != datapath.EncryptedEndpoint(a.Addr) ||
		k.held[encryptedObject{4097}] == nil || k.held[encryptedObject{4098}] != nil || k.held[cipherObject{datapath.AddrOf(b.Addr)}] != nil {
		t.Errorf("held: %v", k.held)
	}
	if keys, _ := o.Keys(); len(keys) != 1 || keys[0].Epoch != 1 {
		t.Errorf("keys: %v", keys)
	}
	s.Networks = s.Networks[:1]
	if err := o.Set(s); err != nil || len(o.wantCipherDevices(s)) != 0 {
		t.Errorf("without an encrypted network: %v, %v", o.wantCipherDevices(s), err)
	}
	if err := o.Set(State{}); err != nil {
		t.Fatal(err)
	}
	if keys, _ := o.Keys(); len(keys) != 0 {
		t.Errorf("keys of a node that has left: %v", keys)
	}
}

// The mesh network's packets bear clients' addresses: they are tunnelled, inside of WireGuard, to an address of the peer's own.
func TestAnEncryptedMeshNetworkIsTunnelledInside(t *testing.T) {
	peer := wireGuardPeer("192.0.2.2", 1)
	peer.ID = "b"
	mesh := meshNetwork()
	mesh.Transport = TransportWireGuard
	task := netip.MustParseAddr("10.255.0.9")
	s := State{ID: "a", Local: netip.MustParseAddr("192.0.2.1"), KeyEpoch: 1, Peers: []Peer{peer}, Networks: []Network{mesh},
		Endpoints: []Endpoint{{VNI: mesh.VNI, Addr: task, Node: peer.Addr}}}
	k := newFake()
	o := overlayOn(k)
	if err := o.Set(s); err != nil {
		t.Fatal(err)
	}
	at := insideAddr("b")
	if at == insideAddr("a") || !insidePrefix().Contains(at) {
		t.Errorf("addresses inside: %s, %s", at, insideAddr("a"))
	}
	d := o.wantCipherDevices(s)
	if len(d) != 1 || d[0].Addr != insideAddr("a") || !slices.Equal(d[0].Peers[peer.Keys[0].Key].Allowed, []netip.Addr{at}) {
		t.Errorf("devices: %+v", d)
	}
	for object, want := range map[object]any{
		cipherObject{datapath.AddrOf(peer.Addr)}: datapath.Cipher{Ifindex: 101, Inside: datapath.AddrOf(at)},
		insideObject{datapath.AddrOf(at)}:        datapath.AddrOf(peer.Addr),
		insideRoute{at}:                          link.Route{Ifindex: 101, Source: insideAddr("a")},
		encryptedObject{mesh.VNI}:                present{},
		endpointObject{datapath.EndpointKey{VNI: mesh.VNI, Addr: datapath.AddrOf(task)}}: datapath.TunnelEndpoint(peer.Addr),
	} {
		if k.held[object] != want {
			t.Errorf("%T: %v, want %v", object, k.held[object], want)
		}
	}
	f := facts{mtu: 1500, paths: map[netip.Addr]link.Path{peer.Addr: {MTU: 1500}}}
	if got, limit := innerMTU(s, f, mesh), tunnelLimit(s, f); got != 1500-60-70 || limit != got {
		t.Errorf("MTU %d, limit %d", got, limit)
	}
}

// twoSecret are two nodes with a container each on an encrypted network.
func twoSecret(t *testing.T) (l *lab, a, b *container) {
	l = encryptedLab(t, false, 2)
	a = l.nodes[0].container().process().join(userNetwork(1), "10.0.1.2")
	b = l.nodes[1].container().process().join(userNetwork(1), "10.0.1.3")
	l.settle(a, b)
	l.echo(b.ns)
	l.talk(a.ns, "10.0.1.3")
	return l, a, b
}

// The keys change twice under a conversation in which every answer is waited for.
func TestAChangeOfKeysLosesNothing(t *testing.T) {
	l, a, b := twoSecret(t)
	s := l.stream(a.ns, "10.0.1.3")
	s.progress(l, 10)
	for l.epoch = 1; l.epoch <= 2; l.epoch++ {
		l.settle(a, b)
		for i, n := range l.nodes {
			l.eventually("both nodes have but the new key", func() bool {
				l.spreadKeys(a, b)
				return len(n.keys) == 1 && n.keys[0].Epoch == l.epoch && strings.Contains(l.ip(n.ns, "link"), wireguard.DeviceName(l.epoch)) &&
					!strings.Contains(l.ip(n.ns, "link"), wireguard.DeviceName(l.epoch+1))
			})
			t.Logf("epoch %d: node %d", l.epoch, i+1)
		}
		s.progress(l, 10)
	}
	s.end()
	if lost := s.lost.Load(); lost != 0 {
		t.Errorf("%d of %d were lost", lost, s.sent.Load())
	}
}

func TestEncryptedFlowsOutliveTheDaemon(t *testing.T) {
	l, a, b := twoSecret(t)
	s := l.stream(a.ns, "10.0.1.3")
	s.progress(l, 10)
	helper := l.helper(l.nodes[0])
	for _, n := range l.nodes {
		n.kill()
		s.progress(l, 10)
		n.start()
		s.progress(l, 10)
		n.ask(request{Op: "set", State: l.stateOf(n, []*container{a, b})})
	}
	s.progress(l, 10)
	s.end()
	if lost := s.lost.Load(); lost != 0 {
		t.Errorf("%d of %d were lost", lost, s.sent.Load())
	}
	if now := l.helper(l.nodes[0]); now != helper {
		t.Errorf("process of the device: %s, was %s", now, helper)
	}
	// Whoever ends the device's process, or deletes the device, ends nothing for long.
	l.ip(l.nodes[0].ns, "link", "del", wireguard.DeviceName(0))
	l.talk(a.ns, "10.0.1.3")
}

// helper is the process behind a node's WireGuard device; "" where it is the kernel's.
func (l *lab) helper(n *node) string {
	l.t.Helper()
	out, err := exec.Command("sh", "-c", fmt.Sprintf(`for p in $(ip netns pids %s); do tr '\0' ' ' </proc/$p/cmdline | grep -q ' wireguard mesh-wg' && echo $p; done; true`, n.ns)).Output()
	l.check(err)
	return strings.TrimSpace(string(out))
}

func TestARemovedNodeIsCutOff(t *testing.T) {
	l, a, b := twoSecret(t)
	s := l.stateOf(l.nodes[0], []*container{a, b})
	s.Peers, s.Endpoints = nil, nil
	l.nodes[0].ask(request{Op: "set", State: s})
	l.pingsNot(b.ns, "10.0.1.2")
	l.pingsNot(a.ns, "10.0.1.3")
	l.settle(a, b)
	l.talk(a.ns, "10.0.1.3")
}

// What comes in the clear for a container on an encrypted network goes no further, from whomever.
func TestClearPacketsAreNotTaken(t *testing.T) {
	l, a, b := twoSecret(t)
	l.transport = TransportDirect
	l.settle(a, b)
	n, peer := l.nodes[0], l.nodes[1]
	packets := l.receive(a.ns)
	forged := datagram("10.0.1.3", "10.0.1.2")
	frame := append(append(append([]byte{}, make([]byte, 12)...), 0x08, 0x00), forged...)
	vxlan := append([]byte{8, 0, 0, 0, 0, 0x10, 0x01, 0}, frame...)
	send := func() {
		l.within(peer.ns, func() error {
			c, err := net.Dial("udp", n.addr.String()+":4789")
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write(vxlan)
			return err
		})
		l.inject(l.world, l.mac(peer.ns), l.mac(n.ns), forged)
	}
	before := n.ask(request{Op: "drops"}).Drops
	l.eventually("both are dropped and counted", func() bool {
		send()
		now := n.ask(request{Op: "drops"}).Drops
		return now["not-encrypted"] > before["not-encrypted"] && now["forged-address"] > before["forged-address"]
	})
	if packets.arrives() {
		t.Error("it arrives")
	}
	// Both ways are good where the network is not encrypted.
	l.encrypted = false
	l.settle(a, b)
	l.becomesDirect(a.ns, "10.0.1.3")
	l.eventually("the test's packets are good", func() bool { send(); return packets.arrives() })
}

// A peer without a key in common is not sent to.
func TestNothingIsSentInTheClearInstead(t *testing.T) {
	l := encryptedLab(t, false, 2)
	a := l.nodes[0].container().process().join(userNetwork(1), "10.0.1.2")
	b := l.nodes[1].container().process().join(userNetwork(1), "10.0.1.3")
	wire := l.capture(l.nodes[0].ns, [2]string{"10.0.1.2", "10.0.1.3"})
	for _, n := range l.nodes { // which know no keys of each other
		n.ask(request{Op: "set", State: l.stateOf(n, []*container{a, b})})
	}
	l.eventually("packets are dropped and counted", func() bool {
		l.pingsNot(a.ns, "10.0.1.3")
		return l.nodes[0].ask(request{Op: "drops"}).Drops["not-encrypted"] > 0
	})
	if n := wire.Clear(); n != 0 {
		t.Errorf("%d packets that say something", n)
	}
	l.settle(a, b)
	l.pings(a.ns, "10.0.1.3")
}

// behindNAT puts a router that masquerades between the node and the others.
func (l *lab) behindNAT(n *node) {
	l.t.Helper()
	router := l.namespace("nat")
	l.plug(router, "192.0.2.77/24")
	l.ip(n.ns, "link", "del", "eth0")
	l.ip(router, "link", "add", "inside", "type", "veth", "peer", "name", "eth0", "netns", n.ns)
	l.ip(router, "addr", "add", "198.51.100.1/24", "dev", "inside")
	l.ip(router, "link", "set", "inside", "up")
	n.addr = netip.MustParseAddr("198.51.100.9")
	l.ip(n.ns, "addr", "add", n.addr.String()+"/24", "dev", "eth0")
	l.ip(n.ns, "link", "set", "eth0", "up")
	l.ip(n.ns, "route", "add", "default", "via", "198.51.100.1")
	l.within(router, func() error {
		l.sh("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
		l.sh("nft", "add table ip nat; add chain ip nat post { type nat hook postrouting priority 100; }; add rule ip nat post oifname eth0 masquerade")
		return nil
	})
	for _, other := range l.nodes {
		if other != n { // as to a host that is somewhere beyond; it never answers at its own address
			l.ip(other.ns, "route", "add", "default", "via", worldAddr)
		}
	}
}

func TestANodeBehindNATTakesPart(t *testing.T) {
	l := encryptedLab(t, false, 2)
	inside, outside := l.nodes[1], l.nodes[0]
	l.behindNAT(inside)
	a := outside.container().process().join(userNetwork(1), "10.0.1.2")
	b := inside.container().process().join(userNetwork(1), "10.0.1.3")
	l.settle(a, b)
	l.echo(a.ns)
	l.echo(b.ns)
	wire := l.capture(outside.ns, [2]string{"10.0.1.2", "10.0.1.3"})
	l.talk(a.ns, "10.0.1.3")
	l.talk(b.ns, "10.0.1.2")
	l.tellsNothing(wire)
	l.epoch++ // and takes part in a change of keys
	l.settle(a, b)
	l.eventually("both have but the new key", func() bool {
		l.spreadKeys(a, b)
		return len(inside.keys) == 1 && len(outside.keys) == 1
	})
	l.talk(a.ns, "10.0.1.3")
}
