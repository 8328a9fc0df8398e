package ebpf

import (
	"testing"

	"github.com/meshd/meshd/ipvs"
)

// service is the reading of the only service.
func (r *rig) service() ServiceStats {
	r.t.Helper()
	s, err := r.b.Stats()
	if err != nil || len(s.Services) != 1 {
		r.t.Fatalf("stats %+v, %v", s, err)
	}
	return s.Services[0]
}

func (r *rig) counted(what string, want Counts) {
	r.t.Helper()
	if got := r.service().Counts; got != want {
		r.t.Errorf("%s: got  %+v\nwant %+v", what, got, want)
	}
}

func withPayload(f frame, s string) frame {
	f.payload = []byte(s)
	return f
}

func TestBackendsAreCounted(t *testing.T) {
	r := newRig(t)
	r.set(vipState(backend("10.1.0.2")))
	const client = "10.1.0.9:40000"
	r.container(net1, tcp(client, vip+":80", syn))
	r.tunnel(net1, nodeB, tcp("10.1.0.2:80", client, syn|ack))
	r.container(net1, withPayload(tcp(client, vip+":80", ack), "question"))
	r.tunnel(net1, nodeB, withPayload(tcp("10.1.0.2:80", client, ack), "an answer"))
	r.tunnel(net1, nodeB, tcp("10.1.0.2:80", client, rst))
	want := Counts{Connections: 1, Packets: 2, Bytes: 40 + 48, AnswerPackets: 3, AnswerBytes: 40 + 49 + 40, Resets: 1}
	r.counted("TCP", want)
	if b := r.service().Backends; len(b) != 1 || b[0].Counts != want || b[0].Addr.String() != "10.1.0.2" {
		t.Errorf("by backend: %+v", b)
	}
	// What a backend got stays with its service when it goes.
	r.set(vipState(backend("10.1.0.3")))
	r.counted("after it went", want)
	if b := r.service().Backends; len(b) != 0 {
		t.Errorf("by backend, after it went: %+v", b)
	}
	r.restart()
	r.set(vipState(backend("10.1.0.3")))
	r.counted("after a restart", want)
}

func TestFailuresAreCounted(t *testing.T) {
	r := newRig(t)
	r.set(vipState(backend("10.1.0.2")))
	r.container(net1, tcp("10.1.0.9:1001", vip+":80", syn))
	r.tunnel(net1, nodeB, tcp("10.1.0.2:80", "10.1.0.9:1001", rst|ack))
	r.container(net1, tcp("10.1.0.9:1002", vip+":80", syn))
	r.pass(3)
	for range 3 {
		r.container(net1, tcp("10.1.0.9:1002", vip+":80", syn))
	}
	r.container(net1, udp("10.1.0.9:1003", vip+":53", "x"))
	r.tunnel(net1, nodeB, icmpError("10.1.0.2", udp("10.1.0.9:1003", "10.1.0.2:53", "x")))
	// Its own end of a connection that the client ends is no reset.
	r.container(net1, tcp("10.1.0.9:1004", vip+":80", syn))
	r.container(net1, tcp("10.1.0.9:1004", vip+":80", fin|ack))
	r.tunnel(net1, nodeB, tcp("10.1.0.2:80", "10.1.0.9:1004", rst))
	got := r.service().Counts
	if got.Connections != 4 || got.Refusals != 2 || got.Timeouts != 1 || got.Resets != 0 {
		t.Errorf("got %+v, want 4 connections, 2 refusals and a timeout", got)
	}
}

func TestRefusalsOfAServiceAreCounted(t *testing.T) {
	r := newRig(t)
	r.set(vipState(backend("10.1.0.2")))
	r.container(net1, tcp("10.1.0.9:1001", vip+":80", syn))
	r.set(vipState())
	r.container(net1, tcp("10.1.0.9:1001", vip+":80", ack))
	r.container(net1, tcp("10.1.0.9:1002", vip+":80", syn))
	r.container(net1, udp("10.1.0.9:1003", vip+":80", "x"))
	if got := r.service().Refused; got["backend-gone"] != 1 || got["no-backend"] != 2 {
		t.Errorf("got %v", got)
	}
	r.set(publishedState(nodeA, ipvs.TCP))
	r.underlay(tcp(client, nodeA+":8080", syn))
	if got := r.service().Refused; got["no-backend"] != 1 {
		t.Errorf("published port: got %v", got)
	}
}

func TestPublishedPortsAreCountedWhereTheyEnter(t *testing.T) {
	a, b := newRig(t), newRig(t)
	a.set(publishedState(nodeA, ipvs.TCP, backend(task)))
	b.set(publishedState(nodeB, ipvs.TCP, backend(task)))
	a.underlay(tcp(client, nodeA+":8080", syn))
	b.tunnel(mesh, nodeA, tcp(client, task, syn))
	b.container(mesh, tcp(task, client, syn|ack))
	a.tunnel(mesh, nodeB, tcp(task, client, syn|ack))
	a.counted("entry", Counts{Connections: 1, Packets: 1, Bytes: 40, AnswerPackets: 1, AnswerBytes: 40})
	b.counted("the task's node", Counts{})
}
