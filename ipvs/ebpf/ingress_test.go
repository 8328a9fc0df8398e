package ebpf

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/meshd/meshd/ipvs"
)

const (
	nodeA  = "192.0.2.1"
	nodeB  = "192.0.2.2"
	client = "198.51.100.7:40000"
	task   = "10.255.0.2:80"
	// Of an underlay or lo program that leaves the packet to the forwarding half.
	underlay = forwarded + 6
	local    = forwarded + 7
)

func delivered(t *testing.T, what string, r result, code int32, src, dst string) {
	t.Helper()
	is(t, what, r, code, src, dst)
	if r.verdict != deliver || r.vni != mesh {
		t.Fatalf("%s: got %v, want delivery on the mesh network", what, r)
	}
}

func passed(t *testing.T, what string, r result, code int32, f frame) {
	t.Helper()
	is(t, what, r, code, f.src.String(), f.dst.String())
	if r.verdict != next || r.vni != 0 {
		t.Fatalf("%s: got %v, want it untouched", what, r)
	}
}

func both(t *testing.T, run func(t *testing.T, proto ipvs.Protocol, pkt func(src, dst string, flags uint8) frame)) {
	t.Run("TCP", func(t *testing.T) { run(t, ipvs.TCP, tcp) })
	t.Run("UDP", func(t *testing.T) {
		run(t, ipvs.UDP, func(src, dst string, _ uint8) frame { return udp(src, dst, "payload") })
	})
}

func TestIngressThroughAnotherNode(t *testing.T) {
	both(t, func(t *testing.T, proto ipvs.Protocol, pkt func(src, dst string, flags uint8) frame) {
		a, b := newRig(t), newRig(t)
		a.set(publishedState(nodeA, proto, backend(task)))
		b.set(publishedState(nodeB, proto, backend(task)))
		delivered(t, "in at A", a.underlay(pkt(client, nodeA+":8080", syn)), underlay, client, task)
		is(t, "at B", b.tunnel(mesh, nodeA, pkt(client, task, syn)), tunnelled, client, task)
		answer := b.container(mesh, pkt(task, client, syn|ack))
		is(t, "answer at B", answer, container, task, client)
		if answer.verdict != toNode || answer.node.String() != nodeA || answer.vni != mesh {
			t.Fatalf("answer must go to A: %v", answer)
		}
		is(t, "out at A", a.tunnel(mesh, nodeB, pkt(task, client, syn|ack)), redirected, nodeA+":8080", client)
		delivered(t, "data at A", a.underlay(pkt(client, nodeA+":8080", ack)), underlay, client, task)
	})
}

func TestIngressToLocalTask(t *testing.T) {
	both(t, func(t *testing.T, proto ipvs.Protocol, pkt func(src, dst string, flags uint8) frame) {
		r := newRig(t)
		r.set(publishedState(nodeA, proto, backend(task)))
		delivered(t, "in", r.underlay(pkt(client, nodeA+":8080", syn)), underlay, client, task)
		is(t, "out", r.container(mesh, pkt(task, client, syn|ack)), redirected, nodeA+":8080", client)
	})
}

func TestIngressFromTheNodeItself(t *testing.T) {
	both(t, func(t *testing.T, proto ipvs.Protocol, pkt func(src, dst string, flags uint8) frame) {
		r := newRig(t)
		r.set(publishedState(nodeA, proto, backend(task)))
		delivered(t, "in", r.lo(pkt(nodeA+":40000", nodeA+":8080", syn)), local, nodeA+":40000", task)
		back := pkt(nodeA+":8080", nodeA+":40000", syn|ack)
		is(t, "out", r.container(mesh, pkt(task, nodeA+":40000", syn|ack)), redirected, nodeA+":8080", nodeA+":40000")
		passed(t, "what comes out passes lo again", r.lo(back), local, back)
		other := r.lo(pkt("127.0.0.1:41000", nodeA+":8080", syn))
		delivered(t, "from 127.0.0.1", other, local, nodeA+":41000", task)
		is(t, "out to 127.0.0.1", r.container(mesh, pkt(task, nodeA+":41000", syn|ack)), redirected, nodeA+":8080", "127.0.0.1:41000")
	})
}

func TestIngressAnswerMayGoToAPublishedNumber(t *testing.T) {
	r := newRig(t)
	r.set(publishedState(nodeA, ipvs.UDP, backend(task)))
	delivered(t, "in", r.lo(udp(nodeA+":8080", nodeA+":8080", "x")), local, nodeA+":8080", task)

	r = newRig(t)
	s := publishedState(nodeA, ipvs.UDP, backend(task))
	s.Services = append(s.Services, ipvs.Service{
		Key: ipvs.Key{VNI: mesh, Port: 40000, Protocol: ipvs.UDP}, Backends: []ipvs.Backend{backend("10.255.0.3:1")}})
	r.set(s)
	delivered(t, "in", r.lo(udp(nodeA+":40000", nodeA+":8080", "x")), local, nodeA+":40000", task)
	back := udp(nodeA+":8080", nodeA+":40000", "x")
	passed(t, "answer on lo", r.lo(back), local, back)
}

func TestIngressFromContainer(t *testing.T) {
	both(t, func(t *testing.T, proto ipvs.Protocol, pkt func(src, dst string, flags uint8) frame) {
		r := newRig(t)
		r.set(publishedState(nodeA, proto, backend(task)))
		const from = "10.255.0.9:40000"
		delivered(t, "in", r.container(mesh, pkt(from, nodeA+":8080", syn)), container, from, task)
		delivered(t, "local answer", r.container(mesh, pkt(task, from, syn|ack)), container, nodeA+":8080", from)
		delivered(t, "remote answer", r.tunnel(mesh, nodeB, pkt(task, from, ack)), tunnelled, nodeA+":8080", from)
		is(t, "other network", r.container(net1, pkt(from, nodeA+":8080", syn)), container, from, nodeA+":8080")
	})
}

func TestIngressHairpin(t *testing.T) {
	r := newRig(t)
	r.set(publishedState(nodeA, ipvs.TCP, backend(task)))
	const from = "10.255.0.2:40000"
	delivered(t, "in", r.container(mesh, tcp(from, nodeA+":8080", syn)), container, nodeA+":40000", task)
	delivered(t, "out", r.container(mesh, tcp(task, nodeA+":40000", syn|ack)), container, nodeA+":8080", from)
}

func TestIngressLeavesTheNodeItsOwn(t *testing.T) {
	r := newRig(t)
	r.set(publishedState(nodeA, ipvs.TCP, backend(task)))
	for what, f := range map[string]frame{
		"unpublished port":       tcp(client, nodeA+":8081", syn),
		"other protocol":         udp(client, nodeA+":8080", "x"),
		"other address":          tcp(client, "192.0.2.9:8080", syn),
		"answer to the node":     tcp(client, nodeA+":8080", syn|ack),
		"data of no connection":  tcp(client, nodeA+":8080", ack),
		"echo":                   {proto: 1, icmpType: 8, src: ap("198.51.100.7:0"), dst: ap(nodeA + ":0")},
		"a fragment of nothing":  {proto: 6, src: ap("198.51.100.7:0"), dst: ap(nodeA + ":0"), offset: 64, payload: make([]byte, 30)},
		"unpublished, long head": {proto: 6, src: ap(client), dst: ap(nodeA + ":8081"), flags: syn, options: []byte{1, 1, 1, 1}},
	} {
		passed(t, what, r.underlay(f), underlay, f)
	}
	f := tcp(client, nodeA+":8080", syn)
	f.options = []byte{1, 1, 1, 1}
	delivered(t, "published, long head", r.underlay(f), underlay, client, task)
}

func TestIngressWithoutBackendIsTheNodesToRefuse(t *testing.T) {
	r := newRig(t)
	r.set(publishedState(nodeA, ipvs.TCP, backend(task)))
	delivered(t, "while there is one", r.underlay(tcp(client, nodeA+":8080", syn)), underlay, client, task)
	r.set(publishedState(nodeA, ipvs.TCP))
	f := tcp(client, nodeA+":8080", ack)
	passed(t, "connection", r.underlay(f), underlay, f)
	f = tcp("198.51.100.7:40001", nodeA+":8080", syn)
	passed(t, "new connection", r.underlay(f), underlay, f)
	r.set(ipvs.State{MeshVNI: mesh, NodeAddrs: publishedState(nodeA, ipvs.TCP).NodeAddrs})
	passed(t, "no longer published", r.underlay(f), underlay, f)
}

func TestIngressFragments(t *testing.T) {
	r := newRig(t)
	r.set(publishedState(nodeA, ipvs.UDP, backend(task)))
	first := udp(client, nodeA+":8080", string(make([]byte, 64)))
	first.id, first.more = 9, true
	delivered(t, "first", r.underlay(first), underlay, client, task)
	later := frame{proto: 17, src: ap("198.51.100.7:0"), dst: ap(nodeA + ":0"), id: 9, offset: 72, payload: []byte("the rest")}
	delivered(t, "later", r.underlay(later), underlay, "198.51.100.7:0", "10.255.0.2:0")
}

// One client, one source port, two entry nodes, one task: the task's node tells the
// two connections apart by giving one another source port.
func TestIngressSameClientThroughTwoNodes(t *testing.T) {
	both(t, func(t *testing.T, proto ipvs.Protocol, pkt func(src, dst string, flags uint8) frame) {
		b := newRig(t)
		b.set(publishedState(nodeB, proto, backend(task)))
		const nodeC = "192.0.2.3"
		is(t, "through A", b.tunnel(mesh, nodeA, pkt(client, task, syn)), tunnelled, client, task)
		other := b.tunnel(mesh, nodeC, pkt(client, task, syn))
		if other.src.Port() == 40000 || other.src.Addr() != ap(client).Addr() {
			t.Fatalf("through C: %v", other)
		}
		again := b.tunnel(mesh, nodeC, pkt(client, task, ack))
		is(t, "through C again", again, tunnelled, other.src.String(), task)
		here := b.underlay(pkt(client, nodeB+":8080", syn))
		if here.src.Port() == 40000 || here.src == other.src {
			t.Fatalf("through B itself: %v", here)
		}
		for _, c := range []struct{ via, seen string }{{nodeA, client}, {nodeC, other.src.String()}} {
			got := b.container(mesh, pkt(task, c.seen, ack))
			is(t, "answer through "+c.via, got, container, task, client)
			if got.verdict != toNode || got.node.String() != c.via {
				t.Errorf("answer must go to %s: %v", c.via, got)
			}
		}
		is(t, "answer at B", b.container(mesh, pkt(task, here.src.String(), ack)), redirected, nodeB+":8080", client)
	})
}

// The task's kernel knows an ended connection for a minute, and may take a SYN from
// the same ports for a stray one of it.
func TestIngressPortIsFreeAMinuteAfterTheEnd(t *testing.T) {
	const nodeC = "192.0.2.3"
	b := newRig(t)
	b.set(publishedState(nodeB, ipvs.TCP, backend(task)))
	is(t, "through A", b.tunnel(mesh, nodeA, tcp(client, task, syn)), tunnelled, client, task)
	b.container(mesh, tcp(task, client, fin|ack))
	soon := b.tunnel(mesh, nodeC, tcp(client, task, syn))
	if soon.src.Port() == 40000 {
		t.Fatalf("through C soon after: %v", soon)
	}
	b.pass(61)
	is(t, "data through C", b.tunnel(mesh, nodeC, tcp(client, task, ack)), tunnelled, soon.src.String(), task)
	b.container(mesh, tcp(task, soon.src.String(), fin|ack))
	is(t, "through C anew", b.tunnel(mesh, nodeC, tcp(client, task, syn)), tunnelled, client, task)
	is(t, "data of the new one", b.tunnel(mesh, nodeC, tcp(client, task, ack)), tunnelled, client, task)
	got := b.container(mesh, tcp(task, client, syn|ack))
	if got.node.String() != nodeC {
		t.Errorf("answer must go to C: %v", got)
	}
	is(t, "the same way again", b.tunnel(mesh, nodeC, tcp(client, task, fin|ack)), tunnelled, client, task)
	is(t, "a client knows its own ended ones", b.tunnel(mesh, nodeC, tcp(client, task, syn)), tunnelled, client, task)
}

// What was reset is over at once for both ends.
func TestIngressPortIsFreeAfterAReset(t *testing.T) {
	const nodeC = "192.0.2.3"
	for what, reset := range map[string]func(b *rig){
		"by the client": func(b *rig) { b.tunnel(mesh, nodeA, tcp(client, task, rst|ack)) },
		"by the task":   func(b *rig) { b.container(mesh, tcp(task, client, rst|ack)) },
	} {
		t.Run(what, func(t *testing.T) {
			b := newRig(t)
			b.set(publishedState(nodeB, ipvs.TCP, backend(task)))
			is(t, "through A", b.tunnel(mesh, nodeA, tcp(client, task, syn)), tunnelled, client, task)
			reset(b)
			is(t, "through C", b.tunnel(mesh, nodeC, tcp(client, task, syn)), tunnelled, client, task)
			b.tunnel(mesh, nodeC, tcp(client, task, ack))
			if other := b.tunnel(mesh, nodeA, tcp(client, task, syn)); other.src.Port() == 40000 {
				t.Errorf("through A, beside a connection that goes on: %v", other)
			}
		})
	}
}

// A client that has used up its ports on a task within a minute gets those of ended
// connections, and never a live one's.
func TestIngressWithoutFreePorts(t *testing.T) {
	const nodeC, live = "192.0.2.3", 40000
	b := newRigOf(t, ModeAuto, 1<<17)
	b.set(publishedState(nodeB, ipvs.TCP, backend(task)))
	at := func(port int) string { return fmt.Sprintf("198.51.100.7:%d", port) }
	for port := 1024; port < 1<<16; port++ {
		b.tunnel(mesh, nodeA, tcp(at(port), task, syn))
		if port != live {
			b.container(mesh, tcp(task, at(port), fin|ack))
		}
	}
	for port := 50000; port < 50200; port++ {
		for what, got := range map[string]result{
			"through C": b.tunnel(mesh, nodeC, tcp(at(port), task, syn)), "at B": b.underlay(tcp(at(port), nodeB+":8080", syn)),
		} {
			if got.code == dropped || got.dst.String() != task || got.src.Port() == live {
				t.Fatalf("%s from port %d: %v", what, port, got)
			}
		}
	}
	if n := b.drops("rewrite"); n != 0 {
		t.Errorf("%d packets dropped", n)
	}
}

func TestNoForwardingHalf(t *testing.T) {
	r := newRig(t)
	r.set(vipState(backend("10.1.0.2")))
	for slot := uint32(4); slot < 8; slot++ {
		if err := r.hooks.Delete(slot); err != nil {
			t.Fatal(err)
		}
	}
	f := tcp("10.1.0.9:1", "10.1.0.2:2", syn)
	for what, c := range map[string]struct {
		got  int32
		want int32
	}{
		"container": {r.container(net1, f).code, 2}, "tunnel": {r.tunnel(net1, nodeB, f).code, 2},
		"underlay": {r.underlay(f).code, -1}, "local": {r.lo(f).code, -1},
	} {
		if c.got != c.want {
			t.Errorf("%s: %d, want %d", what, c.got, c.want)
		}
	}
}

func TestSetRepairsTheMaps(t *testing.T) {
	r := newRig(t)
	state := publishedState(nodeA, ipvs.TCP, backend(task))
	r.set(state)
	var err error
	for k := range all[slotKey, slot](r.b.objects.Slots, &err) {
		if err := r.b.objects.Slots.Delete(k); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.b.objects.Published.Put(uint32(8080>>6), uint64(0)); err != nil {
		t.Fatal(err)
	}
	stray := backendKey{Service: 999, Addr: addr{1}}
	if err := r.b.objects.Backends.Put(stray, serving); err != nil {
		t.Fatal(err)
	}
	r.restart()
	r.set(state)
	for i := range 20 {
		src := fmt.Sprintf("198.51.100.7:%d", 20000+i)
		delivered(t, "after repair", r.underlay(tcp(src, nodeA+":8080", syn)), underlay, src, task)
	}
	var v uint32
	if err := r.b.objects.Backends.Lookup(stray, &v); err == nil {
		t.Error("the stray backend is still there")
	}
}

// at publishes port 8080 on certain addresses only.
func at(s ipvs.State, addrs ...string) ipvs.State {
	web := s.Services[0]
	s.Services = nil
	for _, a := range addrs {
		web.VIP = netip.MustParseAddr(a)
		s.Services = append(s.Services, web)
	}
	return s
}

func TestIngressOnChosenAddresses(t *testing.T) {
	const second = "192.0.2.129"
	both(t, func(t *testing.T, proto ipvs.Protocol, pkt func(src, dst string, flags uint8) frame) {
		state := publishedState(nodeA, proto, backend(task))
		state.NodeAddrs = append(state.NodeAddrs, netip.MustParseAddr(second))
		r := newRig(t)
		r.set(at(state, second))
		delivered(t, "on the second address", r.underlay(pkt(client, second+":8080", syn)), underlay, client, task)
		delivered(t, "of the node", r.lo(pkt(second+":40001", second+":8080", syn)), local, second+":40001", task)
		f := pkt(client, nodeA+":8080", syn)
		passed(t, "on the first", r.underlay(f), underlay, f)
		f = pkt("10.255.0.9:40000", nodeA+":8080", syn)
		is(t, "of a container to the first", r.container(mesh, f), container, "10.255.0.9:40000", nodeA+":8080")

		r.set(at(state, "127.0.0.1"))
		f = pkt("198.51.100.7:40009", nodeA+":8080", syn)
		passed(t, "from outside", r.underlay(f), underlay, f)
		delivered(t, "of the node, led from loopback", r.lo(pkt(nodeA+":40002", nodeA+":8080", syn)), local, nodeA+":40002", task)
		r.set(state)
		delivered(t, "on all again", r.underlay(f), underlay, "198.51.100.7:40009", task)
	})
}

func TestIngressToLocalTasksOnly(t *testing.T) {
	both(t, func(t *testing.T, proto ipvs.Protocol, pkt func(src, dst string, flags uint8) frame) {
		here, there := backend(task), backend("10.255.0.3:80")
		here.Local = true
		state := publishedState(nodeA, proto, here, there)
		state.Services[0].LocalOnly = true
		r := newRig(t)
		r.set(state)
		for i := range 20 {
			src := fmt.Sprintf("198.51.100.7:%d", 41000+i)
			delivered(t, "with a task here", r.underlay(pkt(src, nodeA+":8080", syn)), underlay, src, task)
		}
		state.Services[0].Backends = []ipvs.Backend{there}
		r.set(state)
		f := pkt("198.51.100.7:42000", nodeA+":8080", syn)
		passed(t, "without one", r.underlay(f), underlay, f)
		state.Services[0].Backends = []ipvs.Backend{{Addr: here.Addr, Port: here.Port, Local: true, Draining: true}, there}
		r.set(state)
		passed(t, "while it drains", r.underlay(f), underlay, f)
		state.Services[0].LocalOnly, state.Services[0].PreferLocal = false, true
		r.set(state)
		delivered(t, "rather than nowhere", r.underlay(f), underlay, "198.51.100.7:42000", "10.255.0.3:80")
	})
}
