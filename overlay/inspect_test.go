package overlay

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meshd/meshd/overlay/datapath"
	"github.com/meshd/meshd/overlay/link"
)

func TestRepairsAreCountedAndSaid(t *testing.T) {
	k := newFake()
	o := overlayOn(k)
	var said bytes.Buffer
	o.cfg.Logger = slog.New(slog.NewTextHandler(&said, nil))
	if err := o.Set(onePeer("192.0.2.1")); err != nil {
		t.Fatal(err)
	}
	k.mu.Lock()
	delete(k.held, peerAt("192.0.2.1"))
	k.held[peerAt("192.0.2.66")] = present{}
	k.mu.Unlock()
	if n := o.Repairs()["peer"]; n != 0 {
		t.Fatalf("%d repairs before there was anything to repair", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		o.repair(ctx)
	}()
	for deadline := time.Now().Add(time.Minute); o.Repairs()["peer"] < 2 && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	cancel()
	<-done
	if n := o.Repairs()["peer"]; n != 2 || len(o.Repairs()) != 1 {
		t.Errorf("repairs: %v", o.Repairs())
	}
	for _, what := range []string{"put back peer 192.0.2.1", "removed peer 192.0.2.66"} {
		if !strings.Contains(said.String(), what) {
			t.Errorf("%q is not in the log:\n%s", what, said.String())
		}
	}
}

// What this process itself changes, and what an earlier one left, is no repair.
func TestOwnChangesAreNoRepairs(t *testing.T) {
	k := newFake()
	k.held[peerAt("192.0.2.9")] = present{}
	o := overlayOn(k)
	for _, peer := range []string{"192.0.2.1", "192.0.2.2"} {
		if err := o.Set(onePeer(peer)); err != nil {
			t.Fatal(err)
		}
		o.mu.Lock()
		if err := o.reconcile(true); err != nil {
			t.Error(err)
		}
		o.mu.Unlock()
	}
	if r := o.Repairs(); len(r) != 0 {
		t.Errorf("repairs: %v", r)
	}
}

func TestDifferencesChangeNothing(t *testing.T) {
	k := newFake()
	o := overlayOn(k)
	s := onePeer("192.0.2.1")
	if err := o.Set(s); err != nil {
		t.Fatal(err)
	}
	if d, err := o.Differences(s); err != nil || len(d) != 0 {
		t.Fatalf("%v, %v", d, err)
	}
	k.mu.Lock()
	delete(k.held, peerAt("192.0.2.1"))
	k.mu.Unlock()
	for range 2 {
		d, err := o.Differences(s)
		if err != nil || len(d) != 1 || d[0] != (Difference{"peer", "peer 192.0.2.1", "there", "nothing"}) {
			t.Errorf("%+v, %v", d, err)
		}
	}
}

// wayKernel knows one way to everywhere.
type wayKernel struct{ *fakeKernel }

func (wayKernel) way(netip.Addr) (link.Way, error) { return link.Way{Device: "eth0", MTU: 1500}, nil }

func TestPathTellsWhereAnAddressIs(t *testing.T) {
	k := newFake()
	o := overlayOn(wayKernel{k})
	at := netip.MustParseAddr
	s := State{
		Local: at("198.18.0.1"), Peers: []Peer{{Addr: at("198.18.0.2")}}, Networks: []Network{meshNetwork(), userNetwork(1)},
		Endpoints: []Endpoint{{VNI: 4097, Addr: at("10.0.1.4"), Node: at("198.18.0.2")}},
	}
	if err := o.Set(s); err != nil {
		t.Fatal(err)
	}
	a := Attachment{ID: "abcdefabcdef", NetworkID: "net1", VNI: 4097, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.1.2/24")}, MAC: "02:00:00:00:00:02", TaskID: "t1"}
	if _, err := o.Attach(a); err != nil {
		t.Fatal(err)
	}
	for to, want := range map[string]Path{
		"10.0.1.2": {Place: PlaceHere, Network: true, Device: link.HostName("abcdefabcdef"), Attachment: a, Guarded: true},
		"10.0.1.4": {Place: PlaceNode, Network: true, Node: at("198.18.0.2"), Peer: true, Way: link.Way{Device: "eth0", MTU: 1500}},
		"10.0.1.9": {Place: PlaceNowhere, Network: true},
		"10.9.9.9": {Place: PlaceNowhere},
	} {
		got, err := o.Path(4097, at(to))
		if err != nil {
			t.Fatal(err)
		}
		if got.Place != want.Place || got.Network != want.Network || got.Device != want.Device || got.Attachment.TaskID != want.Attachment.TaskID ||
			got.Guarded != want.Guarded || got.Node != want.Node || got.Peer != want.Peer || got.Way != want.Way {
			t.Errorf("%s: %+v", to, got)
		}
		if !got.Tunnel || got.MTU != 1450 || got.Overhead != 50 {
			t.Errorf("%s: %+v", to, got)
		}
	}
	if got, err := o.Path(4096, at("10.255.0.1")); err != nil || got.Place != PlaceSelf {
		t.Errorf("gateway: %+v, %v", got, err)
	}
}

func TestObjectsHaveNames(t *testing.T) {
	for o := range want(State{Networks: []Network{meshNetwork()}, Peers: []Peer{{Addr: netip.MustParseAddr("192.0.2.1")}}}, facts{tunnel: 3, loopback: 1}, 4789) {
		if kind, name := nameOf(o); kind == "" || strings.Contains(name, "{") {
			t.Errorf("%T: %q, %q", o, kind, name)
		}
	}
	if _, name := nameOf(hookObject{datapath.Hook{Program: datapath.Container, Ifindex: 7}}); !strings.Contains(name, "device 7") {
		t.Error(name)
	}
}
