package ebpf

import (
	"net/netip"
	"testing"

	"github.com/meshd/meshd/ipvs"
)

// giveBack is MESH_RETURN.
const giveBack = 3

// returnState publishes port 8080 with answers that return directly.
func returnState(node string, proto ipvs.Protocol, backends ...ipvs.Backend) ipvs.State {
	s := publishedState(node, proto, backends...)
	s.TunnelAddr = netip.MustParseAddr(node)
	s.Services[0].DirectReturn = true
	return s
}

// noteOf is what the entry node tells the task's node with a packet.
func noteOf(r result) (note [4]byte) {
	all := r.node.As16()
	if r.node.Is4() {
		return note // of ::ffff:0:0/96: the first word is zero
	}
	copy(note[:], all[:])
	return note
}

func TestAnswersReturnDirectly(t *testing.T) {
	both(t, func(t *testing.T, proto ipvs.Protocol, pkt func(src, dst string, flags uint8) frame) {
		a, b := newRig(t), newRig(t)
		a.set(returnState(nodeA, proto, backend(task)))
		b.set(returnState(nodeB, proto, backend(task)))
		in := a.underlay(pkt(client, nodeA+":8080", syn))
		delivered(t, "in at A", in, underlay, client, task)
		if noteOf(in) != [4]byte{0xd5, 0, 8080 >> 8, 8080 & 0xff} {
			t.Fatalf("the note says %x", noteOf(in))
		}
		over := pkt(client, task, syn)
		over.note = noteOf(in)
		is(t, "at B", b.tunnel(mesh, nodeA, over), tunnelled, client, task)
		answer := b.container(mesh, pkt(task, client, syn|ack))
		is(t, "answer at B", answer, container, nodeA+":8080", client)
		if answer.verdict != giveBack || answer.node.String() != nodeA || answer.vni != mesh {
			t.Fatalf("the answer is to return, by A if need be: %v", answer)
		}
		is(t, "by A", a.tunnel(mesh, nodeB, pkt(nodeA+":8080", client, syn|ack)), redirected, nodeA+":8080", client)
		is(t, "of no connection", a.tunnel(mesh, nodeB, pkt(nodeA+":8080", "198.51.100.9:1", ack)), tunnelled, nodeA+":8080", "198.51.100.9:1")

		// A does not allow it any more: the next packet tells.
		is(t, "without a note", b.tunnel(mesh, nodeA, pkt(client, task, ack)), tunnelled, client, task)
		answer = b.container(mesh, pkt(task, client, ack))
		is(t, "answer by A", answer, container, task, client)
		if answer.verdict != toNode {
			t.Errorf("the answer is A's to restore: %v", answer)
		}
	})
}

// What the task's node could not restore as the client expects it comes back by the entry node.
func TestAnswersThatDoNotReturnDirectly(t *testing.T) {
	const second = "192.0.2.129"
	r := newRig(t)
	here := backend("10.255.0.3:80")
	here.Local = true
	s := returnState(nodeA, ipvs.TCP, backend(task))
	s.NodeAddrs = append(s.NodeAddrs, netip.MustParseAddr(second))
	more := s.Services[0]
	more.Port = 8081
	local := more
	local.Port, local.Backends = 8082, []ipvs.Backend{here}
	plain := more
	plain.Port, plain.DirectReturn = 8083, false
	s.Services = append(s.Services, more, local, plain)
	r.set(s)
	first := r.underlay(tcp(client, nodeA+":8080", syn))
	if noteOf(first) == [4]byte{} {
		t.Fatalf("no note at all: %v", first)
	}
	if translated := r.underlay(tcp(client, nodeA+":8081", syn)); translated.src.Port() == 40000 || noteOf(translated) != [4]byte{} {
		t.Errorf("with another source port: %v, note %x", translated, noteOf(translated))
	}
	for what, got := range map[string]result{
		"by another address of the node": r.underlay(tcp("198.51.100.7:40001", second+":8080", syn)),
		"of the node itself":             r.lo(tcp(nodeA+":40002", nodeA+":8080", syn)),
		"of a task":                      r.container(mesh, tcp("10.255.0.9:40003", nodeA+":8080", syn)),
		"to a task of this node":         r.underlay(tcp("198.51.100.7:40004", nodeA+":8082", syn)),
		"of another service":             r.underlay(tcp("198.51.100.7:40005", nodeA+":8083", syn)),
	} {
		if got.verdict != deliver || noteOf(got) != [4]byte{} {
			t.Errorf("%s: %v, note %x", what, got, noteOf(got))
		}
	}
}

// A SYN that comes again says nothing of a task whose answers are not seen.
func TestDirectReturnIsNotJudged(t *testing.T) {
	r := newRig(t)
	s := returnState(nodeA, ipvs.TCP, backend(task))
	s.Services[0].Ejection = ipvs.Ejection{After: 1, Within: 60e9, First: 1e9, Longest: 1e9}
	r.set(s)
	f := tcp(client, nodeA+":8080", syn)
	delivered(t, "first", r.underlay(f), underlay, client, task)
	r.pass(1)
	delivered(t, "again", r.underlay(f), underlay, client, task)
	stats, err := r.b.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if n := stats.Services[0].Timeouts; n != 0 {
		t.Errorf("%d connections timed out", n)
	}
}
