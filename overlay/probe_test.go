package overlay

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/ipv4"

	"github.com/meshd/meshd/overlay/datapath"
)

func TestReachFollowsTheAnswers(t *testing.T) {
	var r reach
	at := time.Duration(0)
	step := func(answered bool) bool {
		if answered {
			at++
		}
		r = r.next(at)
		return r.direct
	}
	steps := func(n int, answered bool) {
		t.Helper()
		was := r.direct
		for range n - 1 {
			if step(answered) != was {
				t.Fatalf("changed before %d probes: %+v", n, r)
			}
		}
		if step(answered) == was {
			t.Fatalf("not changed after %d probes: %+v", n, r)
		}
	}
	steps(firstAnswers, true)
	if !step(false) || !step(false) || !step(true) {
		t.Fatal("a lost answer or two ended it")
	}
	steps(misses, false)
	if step(true) || step(false) {
		t.Fatal("one answer began it again")
	}
	steps(laterAnswers, true)
}

func TestProbesGoToPeersThatTakeThem(t *testing.T) {
	k := newFake()
	o := overlayOn(k)
	o.cfg.Direct = true
	peer := netip.MustParseAddr("192.0.2.9")
	s := onePeer(peer.String())
	s.Local = netip.MustParseAddr("192.0.2.1")
	set := func(to Transport) {
		t.Helper()
		s.Peers[0].Transport = to
		if err := o.Set(s); err != nil {
			t.Fatal(err)
		}
	}
	probe := func(at time.Duration) {
		t.Helper()
		k.last = map[netip.Addr]time.Duration{peer: at}
		if err := o.probeLocked(); err != nil {
			t.Fatal(err)
		}
	}
	set(TransportVXLAN)
	if probe(1); k.asked != 0 {
		t.Error("asked a peer that takes none")
	}
	set(TransportDirect)
	direct := directObject{datapath.AddrOf(peer)}
	for at := range time.Duration(firstAnswers) {
		if k.holds(direct) {
			t.Fatal("direct before it is known to arrive")
		}
		probe(2 + at)
	}
	if k.asked != firstAnswers || !k.holds(direct) || len(o.Repairs()) != 0 {
		t.Errorf("asked %d times, direct %v, repairs %v", k.asked, k.holds(direct), o.Repairs())
	}
	// Another process adopts it, or ends it before any state is known.
	for _, on := range []bool{true, false} {
		next := overlayOn(k)
		next.cfg.Direct = on
		if err := next.reconcile(true); err != nil {
			t.Fatal(err)
		}
		if err := next.adoptDirect(); err != nil {
			t.Fatal(err)
		}
		if k.holds(direct) != on {
			t.Errorf("adopted by one that sends directly %v: %v", on, k.holds(direct))
		}
		if on {
			if err := next.Set(s); err != nil || !k.holds(direct) {
				t.Errorf("lost with the state: %v", err)
			}
		}
	}
}

func TestAProbeIsAPacketOfTheMeshNetwork(t *testing.T) {
	s := State{Local: netip.MustParseAddr("192.0.2.1"), Networks: []Network{userNetwork(1), meshNetwork()}}
	from, to, ok := probeAddrs(s)
	if !ok || from.String() != "10.255.0.1" || to.String() != "10.255.255.254" {
		t.Fatalf("%s to %s, %v", from, to, ok)
	}
	if _, _, ok := probeAddrs(State{Networks: []Network{userNetwork(1)}}); ok {
		t.Error("without a mesh network")
	}
	p := probe{own: datapath.MAC{2, 1}, from: from, to: to, asker: s.Local, asked: netip.MustParseAddr("2001:db8::2")}
	frame := p.frame(datapath.MAC{2, 2})
	if net.HardwareAddr(frame[:6]).String() != "02:02:00:00:00:00" || net.HardwareAddr(frame[6:12]).String() != "02:01:00:00:00:00" {
		t.Errorf("MACs %x", frame[:12])
	}
	h, err := ipv4.ParseHeader(frame[14:])
	if err != nil || h.TotalLen != len(frame)-14 || h.Protocol != 17 || !h.Src.Equal(net.IP(from.AsSlice())) || !h.Dst.Equal(net.IP(to.AsSlice())) {
		t.Errorf("header %v, %v", h, err)
	}
	var sum uint32
	for i := 14; i < 34; i += 2 {
		sum += uint32(frame[i])<<8 | uint32(frame[i+1])
	}
	if uint16(sum+sum>>16) != 0xffff {
		t.Errorf("checksum: %x", sum)
	}
}
