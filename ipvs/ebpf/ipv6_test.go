package ebpf

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/meshd/meshd/ipvs"
)

const (
	vip6    = "fd00:1::100"
	client6 = "[2001:db8:7::7]:40000"
	node6A  = "2001:db8::1"
	node6B  = "2001:db8::2"
	task6   = "[fd00:ff::2]:80"
)

func vip6State(backends ...ipvs.Backend) ipvs.State {
	s := vipState(backends...)
	s.Services[0].VIP = netip.MustParseAddr(vip6)
	return s
}

func published6(node string, proto ipvs.Protocol, backends ...ipvs.Backend) ipvs.State {
	s := publishedState(node, proto, backends...)
	s.Services[0].VIP = netip.IPv6Unspecified()
	// The same port for IPv4 has other backends.
	s.Services = append(s.Services, ipvs.Service{
		Key: ipvs.Key{VNI: mesh, Port: 8080, Protocol: proto}, Backends: []ipvs.Backend{backend(task)},
	})
	return s
}

func TestVIPOfIPv6(t *testing.T) {
	both(t, func(t *testing.T, _ ipvs.Protocol, pkt func(src, dst string, flags uint8) frame) {
		r := newRig(t)
		r.set(vip6State(backend("fd00:1::2")))
		const from, to = "[fd00:1::9]:40000", "[" + vip6 + "]:80"
		is(t, "request", r.container(net1, pkt(from, to, syn)), container, from, "[fd00:1::2]:80")
		is(t, "remote answer", r.tunnel(net1, node6B, pkt("[fd00:1::2]:80", from, syn|ack)), tunnelled, to, from)
		is(t, "more", r.container(net1, pkt(from, to, ack)), container, from, "[fd00:1::2]:80")
		is(t, "local answer", r.container(net1, pkt("[fd00:1::2]:80", from, ack)), container, to, from)
		f := pkt("[fd00:1::9]:40001", to, syn)
		f.options = []byte{}
		is(t, "behind options", r.container(net1, f), container, "[fd00:1::9]:40001", "[fd00:1::2]:80")
		own := pkt("[fd00:1::2]:40002", to, syn)
		is(t, "hairpin", r.container(net1, own), container, "["+vip6+"]:40002", "[fd00:1::2]:80")
		direct := pkt("[fd00:1::9]:40003", "[fd00:1::5]:80", syn)
		is(t, "direct", r.container(net1, direct), container, direct.src.String(), direct.dst.String())
	})
}

func TestVIPOfIPv6IsRefused(t *testing.T) {
	r := newRig(t)
	r.set(vip6State())
	const from, to = "[fd00:1::9]:40000", "[" + vip6 + "]:80"
	got := r.container(net1, tcp(from, to, syn))
	is(t, "TCP", got, redirected, to, from)
	if got.flags != rst|ack || got.ack != 1001 || got.transportLen != 20 {
		t.Errorf("not a reset: %v ack %d", got, got.ack)
	}
	got = r.container(net1, udp(from, to, "question"))
	if got.code != redirected || got.proto != 58 || got.icmpType != 1 || got.src.Addr().String() != vip6 {
		t.Errorf("UDP: %v", got)
	}
	echo := frame{proto: 58, icmpType: 128, src: ap("[fd00:1::9]:0"), dst: ap("[" + vip6 + "]:0"), payload: []byte("12345")}
	got = r.container(net1, echo)
	is(t, "echo", got, redirected, "["+vip6+"]:0", "[fd00:1::9]:0")
	if got.icmpType != 129 || string(got.payload) != "12345" {
		t.Errorf("not an echo reply: %v", got)
	}
}

func TestVIPOfIPv6Fragments(t *testing.T) {
	r := newRig(t)
	r.set(vip6State(backend("fd00:1::2")))
	first := udp("[fd00:1::9]:5000", "["+vip6+"]:53", string(make([]byte, 64)))
	first.id, first.more = 77, true
	later := frame{proto: 17, src: ap("[fd00:1::9]:0"), dst: ap("[" + vip6 + "]:0"), id: 77, offset: 72, payload: []byte("the rest")}
	is(t, "first", r.container(net1, first), container, "[fd00:1::9]:5000", "[fd00:1::2]:53")
	is(t, "later", r.container(net1, later), container, "[fd00:1::9]:0", "[fd00:1::2]:0")
	later.id = 78
	if got := r.container(net1, later); got.code != 2 {
		t.Errorf("a fragment of nothing: %v", got)
	}
}

func TestIngressOfIPv6(t *testing.T) {
	both(t, func(t *testing.T, proto ipvs.Protocol, pkt func(src, dst string, flags uint8) frame) {
		a, b := newRig(t), newRig(t)
		a.set(published6(node6A, proto, backend(task6)))
		b.set(published6(node6B, proto, backend(task6)))
		const to = "[" + node6A + "]:8080"
		delivered(t, "in at A", a.underlay(pkt(client6, to, syn)), underlay, client6, task6)
		is(t, "at B", b.tunnel(mesh, node6A, pkt(client6, task6, syn)), tunnelled, client6, task6)
		answer := b.container(mesh, pkt(task6, client6, syn|ack))
		is(t, "answer at B", answer, container, task6, client6)
		if answer.verdict != toNode || answer.node.String() != node6A {
			t.Fatalf("answer must go to A: %v", answer)
		}
		is(t, "out at A", a.tunnel(mesh, node6B, pkt(task6, client6, syn|ack)), redirected, to, client6)
		delivered(t, "data at A", a.underlay(pkt(client6, to, ack)), underlay, client6, task6)
		other := a.lo(pkt("[::1]:41000", to, syn))
		delivered(t, "from ::1", other, local, "["+node6A+"]:41000", task6)
		a.set(at(published6(node6A, proto, backend(task6)), "::1"))
		delivered(t, "of the node, led from ::1", a.lo(pkt("["+node6A+"]:41001", to, syn)), local, "["+node6A+"]:41001", task6)
		f := pkt(client6, to, syn)
		f.src = ap("[2001:db8:9::7]:41002")
		passed(t, "from outside to what is the node's own", a.underlay(f), underlay, f)
		a.set(published6(node6A, proto, backend(task6)))
		f = pkt(client6, "["+node6A+"]:8081", syn)
		passed(t, "unpublished", a.underlay(f), underlay, f)
	})
}

// A node without an IPv4 address to the world answers its own processes on the one that it has on the mesh network, and nobody else.
func TestIngressByTheMeshAddress(t *testing.T) {
	const inside = "10.255.0.1"
	both(t, func(t *testing.T, proto ipvs.Protocol, pkt func(src, dst string, flags uint8) frame) {
		state := publishedState(node6A, proto, backend(task))
		state.MeshAddr = netip.MustParseAddr(inside)
		a, b := newRig(t), newRig(t)
		a.set(state)
		b.set(state)
		delivered(t, "of the node", a.lo(pkt(inside+":41000", inside+":8080", syn)), local, inside+":41000", task)
		is(t, "at B", b.tunnel(mesh, node6A, pkt(inside+":41000", task, syn)), tunnelled, inside+":41000", task)
		answer := b.container(mesh, pkt(task, inside+":41000", syn|ack))
		is(t, "answer at B", answer, container, task, inside+":41000")
		if answer.verdict != toNode || answer.node.String() != node6A {
			t.Fatalf("answer must go to A: %v", answer)
		}
		is(t, "answer at A", a.tunnel(mesh, node6B, pkt(task, inside+":41000", syn|ack)), redirected, inside+":8080", inside+":41000")
		f := pkt("10.255.0.9:41000", inside+":8080", syn)
		is(t, "of a container", a.container(mesh, f), container, "10.255.0.9:41000", inside+":8080")
		f = pkt(client, inside+":8080", syn)
		passed(t, "from outside", a.underlay(f), underlay, f)
		state.NodeAddrs = append(state.NodeAddrs, netip.MustParseAddr(nodeA))
		a.set(state)
		f = pkt(inside+":41001", inside+":8080", syn)
		passed(t, "once there is an IPv4 address", a.lo(f), local, f)
	})
}

func TestErrorsOfIPv6(t *testing.T) {
	r := newRig(t)
	r.set(vip6State(backend("fd00:1::2")))
	sent := r.container(net1, udp("[fd00:1::9]:5000", "["+vip6+"]:53", "x"))
	quote := sent.bytes()[14:]
	got := r.tunnel(net1, node6B, frame{
		proto: 58, icmpType: 2, src: ap("[2001:db8:9::1]:0"), dst: ap("[fd00:1::9]:0"), payload: quote,
	})
	is(t, "packet too big", got, tunnelled, "[2001:db8:9::1]:0", "[fd00:1::9]:0")
	if to := netip.AddrFrom16([16]byte(got.payload[24:40])).String(); to != vip6 {
		t.Errorf("it is about a packet to %s, want the VIP", to)
	}
	got = r.container(net1, frame{proto: 58, icmpType: 1, src: ap("[fd00:1::2]:0"), dst: ap("[fd00:1::9]:0"), payload: quote})
	is(t, "closed port", got, container, "["+vip6+"]:0", "[fd00:1::9]:0")
}

func TestAlgorithmsOfIPv6(t *testing.T) {
	r := newRig(t)
	s := vip6State(backend("fd00:1::2"), backend("fd00:1::3"))
	s.Services[0].Algorithm = ipvs.RoundRobin
	r.set(s)
	got := map[string]int{}
	for i := range 10 {
		got[r.container(net1, tcp(fmt.Sprintf("[fd00:1::9]:%d", 20000+i), "["+vip6+"]:80", syn)).dst.Addr().String()]++
	}
	if got["fd00:1::2"] != 5 {
		t.Errorf("got %v, want 5 each", got)
	}
}
