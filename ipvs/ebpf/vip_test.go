package ebpf

import (
	"fmt"
	"slices"
	"testing"

	"github.com/meshd/meshd/ipvs"
)

const container = forwarded + 4
const tunnelled = forwarded + 5

func TestVIPTCPThereAndBack(t *testing.T) {
	r := newRig(t)
	r.set(vipState(backend("10.1.0.2")))
	is(t, "SYN", r.container(net1, tcp("10.1.0.9:40000", vip+":80", syn)), container, "10.1.0.9:40000", "10.1.0.2:80")
	is(t, "remote SYN+ACK", r.tunnel(net1, "192.0.2.2", tcp("10.1.0.2:80", "10.1.0.9:40000", syn|ack)), tunnelled, vip+":80", "10.1.0.9:40000")
	is(t, "data", r.container(net1, tcp("10.1.0.9:40000", vip+":80", ack)), container, "10.1.0.9:40000", "10.1.0.2:80")
	is(t, "local answer", r.container(net1, tcp("10.1.0.2:80", "10.1.0.9:40000", ack)), container, vip+":80", "10.1.0.9:40000")
	got := r.container(4098, tcp("10.1.0.9:40000", vip+":80", syn))
	is(t, "other network", got, container, "10.1.0.9:40000", vip+":80")
}

func TestVIPEveryPortAndUDP(t *testing.T) {
	r := newRig(t)
	r.set(vipState(backend("10.1.0.2")))
	is(t, "UDP", r.container(net1, udp("10.1.0.9:5000", vip+":53", "odd")), container, "10.1.0.9:5000", "10.1.0.2:53")
	is(t, "answer", r.tunnel(net1, "192.0.2.2", udp("10.1.0.2:53", "10.1.0.9:5000", "answer")), tunnelled, vip+":53", "10.1.0.9:5000")
	f := udp("10.1.0.9:5000", vip+":54", "x")
	f.noChecksum = true
	got := r.container(net1, f)
	is(t, "without checksum", got, container, "10.1.0.9:5000", "10.1.0.2:54")
	if !got.noChecksum {
		t.Error("a datagram without checksum got one")
	}
	f = udp("10.1.0.9:5001", vip+":54", "x")
	f.options = []byte{1, 1, 1, 1}
	is(t, "with IP options", r.container(net1, f), container, "10.1.0.9:5001", "10.1.0.2:54")
}

func TestVIPSpreadsAndSticks(t *testing.T) {
	r := newRig(t)
	r.set(vipState(backend("10.1.0.2"), backend("10.1.0.3"), backend("10.1.0.4")))
	seen := map[string]int{}
	for i := range 300 {
		src := fmt.Sprintf("10.1.0.9:%d", 20000+i)
		first := r.container(net1, tcp(src, vip+":80", syn))
		seen[first.dst.String()]++
		is(t, "second packet", r.container(net1, tcp(src, vip+":80", ack)), container, src, first.dst.String())
		is(t, "SYN again", r.container(net1, tcp(src, vip+":80", syn)), container, src, first.dst.String())
	}
	if len(seen) != 3 {
		t.Fatalf("backends used: %v", seen)
	}
	for b, n := range seen {
		if n < 50 {
			t.Errorf("%s got %d of 300 connections", b, n)
		}
	}
	s, err := r.b.Stats()
	if err != nil || len(s.Services) != 1 || s.Services[0].Connections != 300 || s.Services[0].Packets != 900 {
		t.Errorf("stats %+v, %v", s, err)
	}
}

func TestVIPHairpin(t *testing.T) {
	for _, make := range []func(src, dst string) frame{
		func(src, dst string) frame { return tcp(src, dst, syn) },
		func(src, dst string) frame { return udp(src, dst, "x") },
	} {
		r := newRig(t)
		r.set(vipState(backend("10.1.0.9")))
		is(t, "request", r.container(net1, make("10.1.0.9:40000", vip+":80")), container, vip+":40000", "10.1.0.9:80")
		answer := make("10.1.0.9:80", vip+":40000")
		answer.flags = syn | ack
		is(t, "answer", r.container(net1, answer), container, vip+":80", "10.1.0.9:40000")
	}
}

func TestVIPWithoutBackendIsRefused(t *testing.T) {
	r := newRig(t)
	r.set(vipState(drainingBackend("10.1.0.2")))
	got := r.container(net1, tcp("10.1.0.9:40000", vip+":80", syn))
	is(t, "TCP", got, redirected, vip+":80", "10.1.0.9:40000")
	if got.flags != rst|ack || got.ack != 1001 || got.transportLen != 20 {
		t.Errorf("not a reset: %v ack %d", got, got.ack)
	}
	got = r.container(net1, udp("10.1.0.9:40000", vip+":53", "question"))
	if got.code != redirected || got.proto != 1 || got.icmpType != 3 || got.src.Addr().String() != vip {
		t.Errorf("UDP: got %v", got)
	}
	if n := r.drops("no-backend"); n != 2 {
		t.Errorf("%d drops counted, want 2", n)
	}
}

// A backend that drains keeps clients that are in the middle of something: none that were silent for a while, since their ports may be
// another socket's by now, and none that it refuses.
func TestDrainingBackendKeepsBusyDatagramsOnly(t *testing.T) {
	question := udp("10.1.0.9:5000", vip+":53", "question")
	other := []ipvs.Backend{drainingBackend("10.1.0.2"), backend("10.1.0.3")}
	for name, step := range map[string]struct {
		meanwhile func(r *rig)
		want      string
	}{
		"busy":   {func(*rig) {}, "10.1.0.2:53"},
		"silent": {func(r *rig) { r.pass(6) }, "10.1.0.3:53"},
		"refused": {func(r *rig) {
			sent := r.container(net1, question)
			r.tunnel(net1, nodeB, icmpError("10.1.0.2", sent.frame))
		}, "10.1.0.3:53"},
	} {
		r := newRig(t)
		r.set(vipState(backend("10.1.0.2")))
		r.container(net1, question)
		r.tunnel(net1, nodeB, udp("10.1.0.2:53", "10.1.0.9:5000", "answer"))
		r.set(vipState(other...))
		step.meanwhile(r)
		is(t, name, r.container(net1, question), container, "10.1.0.9:5000", step.want)
	}
}

func TestVIPBackendGone(t *testing.T) {
	r := newRig(t)
	r.set(vipState(backend("10.1.0.2")))
	r.container(net1, tcp("10.1.0.9:40000", vip+":80", syn))
	r.container(net1, udp("10.1.0.9:5000", vip+":53", "x"))
	r.set(vipState(backend("10.1.0.3")))
	got := r.container(net1, tcp("10.1.0.9:40000", vip+":80", ack))
	is(t, "TCP", got, redirected, vip+":80", "10.1.0.9:40000")
	if got.flags != rst || got.seq != 2000 {
		t.Errorf("not the reset that the client accepts: %v seq %d", got, got.seq)
	}
	is(t, "new SYN", r.container(net1, tcp("10.1.0.9:40000", vip+":80", syn)), container, "10.1.0.9:40000", "10.1.0.3:80")
	is(t, "UDP", r.container(net1, udp("10.1.0.9:5000", vip+":53", "x")), container, "10.1.0.9:5000", "10.1.0.3:53")
}

func TestVIPDraining(t *testing.T) {
	r := newRig(t)
	r.set(vipState(backend("10.1.0.2")))
	r.container(net1, tcp("10.1.0.9:40000", vip+":80", syn))
	r.set(vipState(drainingBackend("10.1.0.2"), backend("10.1.0.3")))
	is(t, "old connection", r.container(net1, tcp("10.1.0.9:40000", vip+":80", ack)), container, "10.1.0.9:40000", "10.1.0.2:80")
	for i := range 50 {
		src := fmt.Sprintf("10.1.0.9:%d", 41000+i)
		is(t, "new connection", r.container(net1, tcp(src, vip+":80", syn)), container, src, "10.1.0.3:80")
	}
	is(t, "same port anew", r.container(net1, tcp("10.1.0.9:40000", vip+":80", syn)), container, "10.1.0.9:40000", "10.1.0.3:80")
}

// A node that does not answer may be hidden for a moment only.
func TestVIPBackendAway(t *testing.T) {
	r := newRig(t)
	r.set(vipState(backend("10.1.0.2")))
	r.container(net1, tcp("10.1.0.9:40000", vip+":80", syn))
	r.container(net1, udp("10.1.0.9:5000", vip+":53", "x"))
	away := backend("10.1.0.2")
	away.Away = true
	r.set(vipState(away, backend("10.1.0.3")))
	is(t, "TCP", r.container(net1, tcp("10.1.0.9:40000", vip+":80", ack)), container, "10.1.0.9:40000", "10.1.0.2:80")
	is(t, "UDP", r.container(net1, udp("10.1.0.9:5000", vip+":53", "x")), container, "10.1.0.9:5000", "10.1.0.3:53")
	is(t, "new TCP", r.container(net1, tcp("10.1.0.9:40001", vip+":80", syn)), container, "10.1.0.9:40001", "10.1.0.3:80")
	r.restart()
	r.set(vipState(backend("10.1.0.2"), backend("10.1.0.3")))
	is(t, "back again", r.container(net1, tcp("10.1.0.9:40000", vip+":80", ack)), container, "10.1.0.9:40000", "10.1.0.2:80")
}

func TestVIPAndDirectFromTheSamePort(t *testing.T) {
	r := newRig(t)
	r.set(vipState(backend("10.1.0.2")))
	r.container(net1, tcp("10.1.0.9:40000", vip+":80", syn))
	direct := r.container(net1, tcp("10.1.0.9:40000", "10.1.0.2:80", syn))
	if direct.code != container || direct.src.Addr().String() != "10.1.0.9" || direct.src.Port() == 40000 {
		t.Fatalf("beside a live connection the source port must change: %v", direct)
	}
	is(t, "direct answer", r.tunnel(net1, "192.0.2.2", tcp("10.1.0.2:80", direct.src.String(), syn|ack)), tunnelled, "10.1.0.2:80", "10.1.0.9:40000")
	is(t, "direct data", r.container(net1, tcp("10.1.0.9:40000", "10.1.0.2:80", ack)), container, direct.src.String(), "10.1.0.2:80")
	is(t, "VIP answer", r.tunnel(net1, "192.0.2.2", tcp("10.1.0.2:80", "10.1.0.9:40000", syn|ack)), tunnelled, vip+":80", "10.1.0.9:40000")
}

func TestEndedVIPConnectionLeavesNoTrace(t *testing.T) {
	for _, last := range []uint8{fin | ack, rst} {
		r := newRig(t)
		r.set(vipState(backend("10.1.0.2")))
		r.container(net1, tcp("10.1.0.9:40000", vip+":80", syn))
		r.tunnel(net1, "192.0.2.2", tcp("10.1.0.2:80", "10.1.0.9:40000", last))
		if last != rst { // else the task knows nothing of it any more
			soon := r.container(net1, tcp("10.1.0.9:40000", "10.1.0.2:80", syn))
			if soon.src.Port() == 40000 {
				t.Fatalf("while the task may know the former connection: %v", soon)
			}
			r.tunnel(net1, "192.0.2.2", tcp("10.1.0.2:80", soon.src.String(), last))
			r.pass(61)
		}
		is(t, "direct SYN", r.container(net1, tcp("10.1.0.9:40000", "10.1.0.2:80", syn)), container, "10.1.0.9:40000", "10.1.0.2:80")
		is(t, "direct answer", r.tunnel(net1, "192.0.2.2", tcp("10.1.0.2:80", "10.1.0.9:40000", syn|ack)), tunnelled, "10.1.0.2:80", "10.1.0.9:40000")
	}
}

func TestVIPFragments(t *testing.T) {
	r := newRig(t)
	r.set(vipState(backend("10.1.0.2")))
	first := udp("10.1.0.9:5000", vip+":53", string(make([]byte, 64)))
	first.id, first.more = 77, true
	later := frame{proto: 17, src: ap("10.1.0.9:0"), dst: ap(vip + ":0"), id: 77, offset: 72, payload: []byte("the rest")}
	is(t, "first", r.container(net1, first), container, "10.1.0.9:5000", "10.1.0.2:53")
	is(t, "later", r.container(net1, later), container, "10.1.0.9:0", "10.1.0.2:0")
	later.id = 78
	if got := r.container(net1, later); got.code != 2 || r.drops("fragment") != 1 {
		t.Errorf("a fragment of nothing: %v", got)
	}
	later.dst = ap("10.1.0.5:0")
	is(t, "direct", r.container(net1, later), container, "10.1.0.9:0", "10.1.0.5:0")

	first = udp("10.1.0.2:53", "10.1.0.9:5000", string(make([]byte, 64)))
	first.id, first.more = 5, true
	later = frame{proto: 17, src: ap("10.1.0.2:0"), dst: ap("10.1.0.9:0"), id: 5, offset: 72, payload: []byte("the rest")}
	is(t, "first of answer", r.tunnel(net1, "192.0.2.2", first), tunnelled, vip+":53", "10.1.0.9:5000")
	is(t, "later of answer", r.tunnel(net1, "192.0.2.2", later), tunnelled, vip+":0", "10.1.0.9:0")
}

func TestVIPEcho(t *testing.T) {
	r := newRig(t)
	r.set(vipState(backend("10.1.0.2")))
	got := r.container(net1, frame{proto: 1, icmpType: 8, src: ap("10.1.0.9:0"), dst: ap(vip + ":0"), payload: []byte("12345")})
	is(t, "echo", got, redirected, vip+":0", "10.1.0.9:0")
	if got.icmpType != 0 || string(got.payload) != "12345" {
		t.Errorf("not an echo reply: %v", got)
	}
	got = r.container(net1, frame{proto: 1, icmpType: 8, src: ap("10.1.0.9:0"), dst: ap("10.1.0.2:0")})
	is(t, "to a task", got, container, "10.1.0.9:0", "10.1.0.2:0")
	if got := r.container(net1, frame{proto: 132, src: ap("10.1.0.9:0"), dst: ap(vip + ":0"), payload: make([]byte, 32)}); got.code != 2 {
		t.Errorf("SCTP to a VIP: %v", got)
	}
}

func TestRestartAdoptsConnections(t *testing.T) {
	r := newRig(t)
	state := vipState(backend("10.1.0.2"), backend("10.1.0.3"), drainingBackend("10.1.0.4"))
	r.set(state)
	var dst []string
	for i := range 50 {
		dst = append(dst, r.container(net1, tcp(fmt.Sprintf("10.1.0.9:%d", 20000+i), vip+":80", syn)).dst.String())
	}
	before := r.b.held.held
	r.restart()
	r.set(state)
	for k, e := range before {
		if now := r.b.held.held[k]; now.id != e.id {
			t.Errorf("%s was written anew: %+v, was %+v", k, now.id, e.id)
		}
	}
	for i, want := range dst {
		src := fmt.Sprintf("10.1.0.9:%d", 20000+i)
		is(t, "after restart", r.container(net1, tcp(src, vip+":80", ack)), container, src, want)
	}
	if slices.Contains(dst, "10.1.0.4:80") {
		t.Error("a draining backend got a connection")
	}
}
