package ebpf

import (
	"net/netip"
	"testing"

	"github.com/meshd/meshd/ipvs"
)

// icmpError is an error of from about a packet; it goes to who sent that.
func icmpError(from string, about frame) frame {
	quote := about.bytes()[14:]
	return frame{
		proto: 1, icmpType: 3, payload: quote[:min(len(quote), 20+8)],
		src: netip.AddrPortFrom(netip.MustParseAddr(from), 0), dst: netip.AddrPortFrom(about.src.Addr(), 0),
	}
}

// about reads the addresses of the quoted packet, whose IP checksum must be right.
func about(t *testing.T, r result) string {
	t.Helper()
	q := r.payload
	if sum(q[:20]) != 0xffff {
		t.Errorf("the quoted header's checksum is wrong")
	}
	at := func(addr, port int) string {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(q[addr:])), uint16(q[port])<<8|uint16(q[port+1])).String()
	}
	return at(12, 20) + " -> " + at(16, 22)
}

func isError(t *testing.T, what string, r result, code int32, src, dst, quote string) {
	t.Helper()
	if r.code != code || r.src.Addr().String() != src || r.dst.Addr().String() != dst || about(t, r) != quote {
		t.Fatalf("%s: got %v about %s, want code %d %s -> %s about %s", what, r, about(t, r), code, src, dst, quote)
	}
}

func TestErrorsOfAVIPsBackend(t *testing.T) {
	r := newRig(t)
	r.set(vipState(backend("10.1.0.2")))
	sent := r.container(net1, udp("10.1.0.9:5000", vip+":53", "x"))
	closed := icmpError("10.1.0.2", sent.frame)
	isError(t, "remote task", r.tunnel(net1, nodeB, closed), tunnelled, vip, "10.1.0.9", "10.1.0.9:5000 -> "+vip+":53")
	isError(t, "local task", r.container(net1, closed), container, vip, "10.1.0.9", "10.1.0.9:5000 -> "+vip+":53")

	// The client has gone away, and says so to the VIP.
	answer := udp(vip+":53", "10.1.0.9:5000", "x")
	isError(t, "client", r.container(net1, icmpError("10.1.0.9", answer)), container, "10.1.0.9", "10.1.0.2", "10.1.0.2:53 -> 10.1.0.9:5000")

	other := icmpError("10.1.0.2", udp("10.1.0.9:5000", "10.1.0.2:99", "x"))
	isError(t, "of nothing balanced", r.container(net1, other), container, "10.1.0.2", "10.1.0.9", "10.1.0.9:5000 -> 10.1.0.2:99")
}

func TestErrorsAboutAPublishedPort(t *testing.T) {
	both(t, func(t *testing.T, proto ipvs.Protocol, pkt func(src, dst string, flags uint8) frame) {
		a, b := newRig(t), newRig(t)
		a.set(publishedState(nodeA, proto, backend(task)))
		b.set(publishedState(nodeB, proto, backend(task)))
		a.underlay(pkt(client, nodeA+":8080", syn))
		b.tunnel(mesh, nodeA, pkt(client, task, syn))

		// A router on the way to the client: path MTU discovery.
		const router = "203.0.113.1"
		got := a.underlay(icmpError(router, pkt(nodeA+":8080", client, ack)))
		isError(t, "router, at A", got, underlay, router, "10.255.0.2", task+" -> "+client)
		if got.verdict != deliver || got.vni != mesh {
			t.Errorf("must be delivered: %v", got)
		}
		got = b.tunnel(mesh, nodeA, got.frame)
		isError(t, "router, at B", got, tunnelled, router, "10.255.0.2", task+" -> "+client)

		// The task's port is closed.
		got = b.container(mesh, icmpError("10.255.0.2", pkt(client, task, syn)))
		isError(t, "task, at B", got, container, "10.255.0.2", "198.51.100.7", client+" -> "+task)
		if got.verdict != toNode || got.node.String() != nodeA {
			t.Errorf("must go to A: %v", got)
		}
		got = a.tunnel(mesh, nodeB, got.frame)
		isError(t, "task, at A", got, redirected, nodeA, "198.51.100.7", client+" -> "+nodeA+":8080")
	})
}

func TestErrorsOfTheNodesOwn(t *testing.T) {
	r := newRig(t)
	r.set(publishedState(nodeA, ipvs.TCP, backend(task)))
	for what, f := range map[string]frame{
		"own connection":  icmpError("203.0.113.1", tcp(nodeA+":50000", client, ack)),
		"without a quote": {proto: 1, icmpType: 3, src: ap("203.0.113.1:0"), dst: ap(nodeA + ":0")},
		"echo reply":      {proto: 1, icmpType: 0, src: ap("203.0.113.1:0"), dst: ap(nodeA + ":0")},
	} {
		passed(t, what, r.underlay(f), underlay, f)
	}
}

// What is too long for the way to other nodes comes back with the length that is not.
func TestTooBigForAPublishedPort(t *testing.T) {
	r := newRig(t)
	state := published6(node6A, ipvs.UDP, backend(task6))
	state.NodeAddrs = append(state.NodeAddrs, netip.MustParseAddr(nodeA))
	set := func(limit int) {
		state.TunnelLimit = limit
		r.set(state)
	}
	long := string(make([]byte, 1420))
	six, four := udp(client6, "["+node6A+"]:8080", long), udp(client, nodeA+":8080", long)
	free, part := four, six
	four.whole = true // DF
	part.id, part.more = 7, true
	set(0)
	delivered(t, "IPv6 without a limit", r.underlay(six), underlay, client6, task6)
	delivered(t, "IPv4 without a limit", r.underlay(four), underlay, client, task)
	set(1430)
	for what, c := range map[string]struct {
		sent  frame
		icmp  uint8
		mtu   uint32
		quote int
	}{
		"IPv6": {six, 2, 1430, 40 + 16}, "a fragment of IPv6": {part, 2, 1430, 40 + 16}, "IPv4": {four, 3, 1430, 20 + 8},
		"IPv4 that may be in parts": {free, 3, 1430, 20 + 8},
	} {
		got := r.underlay(c.sent)
		if got.code != redirected || got.icmpType != c.icmp || got.icmpRest != c.mtu || !got.sumOK ||
			got.src.Addr() != c.sent.dst.Addr() || got.dst.Addr() != c.sent.src.Addr() ||
			string(got.payload) != string(c.sent.bytes()[14:14+c.quote]) {
			t.Errorf("%s: got %v, ICMP %d about %d bytes, %x", what, got, got.icmpType, got.icmpRest, got.payload)
		}
	}
	if n := r.drops("too-big"); n != 4 {
		t.Errorf("%d counted", n)
	}
	set(1200)
	short := udp(client6, "["+node6A+"]:8080", string(make([]byte, 1232)))
	delivered(t, "IPv6 below its least MTU", r.underlay(short), underlay, client6, task6)
	if got := r.underlay(six); got.icmpRest != 1280 {
		t.Errorf("IPv6 is told %d", got.icmpRest)
	}
	fits := udp(client, nodeA+":8080", string(make([]byte, 1000)))
	delivered(t, "IPv4 that fits", r.underlay(fits), underlay, client, task)
}
