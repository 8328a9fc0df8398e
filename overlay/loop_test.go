package overlay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshd/meshd/overlay/datapath"
	"github.com/meshd/meshd/overlay/link"
	"github.com/meshd/meshd/overlay/wireguard"
)

// fakeKernel holds objects in memory and can refuse some.
type fakeKernel struct {
	mu     sync.Mutex
	held   objects
	ports  []port
	refuse func(op) error
	// last are the peers' answers, asked counts the probes.
	last  map[netip.Addr]time.Duration
	asked int
	puts  int
}

func newFake() *fakeKernel { return &fakeKernel{held: objects{}} }

func (k *fakeKernel) facts(s State, _ bool) (facts, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f := facts{loopback: 1, underlay: []int{2}, mtu: 1500, ports: slices.Clone(k.ports), paths: map[netip.Addr]link.Path{}}
	for _, p := range s.Peers {
		f.paths[p.Addr] = link.Path{Ifindex: 2, MTU: 1500, OnLink: true}
	}
	if _, ok := k.held[vxlanObject{}]; ok {
		f.tunnel = 3
	}
	return f, nil
}

func (k *fakeKernel) attached() ([]port, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.ports), nil
}

func (k *fakeKernel) read(facts) (objects, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := objects{}
	for o, v := range k.held {
		out[o] = v
	}
	return out, nil
}

func (k *fakeKernel) do(o op) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.refuse != nil {
		if err := k.refuse(o); err != nil {
			return err
		}
	}
	if o.remove {
		delete(k.held, o.object)
		return nil
	}
	k.held[o.object] = o.value
	k.puts++
	return nil
}

func (k *fakeKernel) addPort(a Attachment, _ int) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ports = append(k.ports, port{Attachment: a, ifindex: 10 + len(k.ports), idle: true})
	return nil
}

func (k *fakeKernel) removePort(id string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ports = slices.DeleteFunc(k.ports, func(p port) bool { return p.ID == id })
	return nil
}

func (k *fakeKernel) namespace(int) (*os.File, error) { return nil, nil }

func (k *fakeKernel) rejoinPort(p port, _ int, _ []netip.Addr) (bool, error) {
	if p.nsid == 0 {
		return false, nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	p.ifindex = 20 + len(k.ports)
	k.ports = append(k.ports, p)
	return true, nil
}

func (k *fakeKernel) drops() (map[string]uint64, error) { return nil, nil }
func (k *fakeKernel) close() error                      { return nil }

func (k *fakeKernel) ask(p []probe) (bool, error) {
	k.asked += len(p)
	return false, nil
}

func (k *fakeKernel) answers() (map[netip.Addr]time.Duration, error) { return k.last, nil }

func (k *fakeKernel) holds(o object) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, ok := k.held[o]
	return ok
}

func overlayOn(k kernel) *Overlay {
	return &Overlay{
		cfg:    Config{VXLANPort: 4789, Resync: 20 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)},
		kernel: k, disturbed: make(chan struct{}, 1), keysChanged: make(chan struct{}), ring: &wireguard.Keyring{},
	}
}

func onePeer(addr string) State {
	return State{Peers: []Peer{{Addr: netip.MustParseAddr(addr)}}, Networks: []Network{meshNetwork()}}
}

func peerAt(addr string) object { return peerObject{datapath.AddrOf(netip.MustParseAddr(addr))} }

func TestSettingTheSameAgainDoesNothing(t *testing.T) {
	k := newFake()
	o := overlayOn(k)
	for range 3 {
		if err := o.Set(onePeer("192.0.2.1")); err != nil {
			t.Fatal(err)
		}
	}
	before := k.puts
	if err := o.Set(onePeer("192.0.2.1")); err != nil || k.puts != before {
		t.Errorf("%d objects put again, %v", k.puts-before, err)
	}
	if err := o.Set(onePeer("192.0.2.2")); err != nil {
		t.Fatal(err)
	}
	if k.holds(peerAt("192.0.2.1")) || !k.holds(peerAt("192.0.2.2")) {
		t.Errorf("held: %v", k.held)
	}
}

func TestOneFailureDoesNotHoldUpTheRestAndIsRetried(t *testing.T) {
	k := newFake()
	sick := errors.New("no nftables here")
	k.refuse = func(o op) error {
		if _, ok := o.object.(masqueradeObject); ok {
			return sick
		}
		return nil
	}
	o := overlayOn(k)
	if err := o.Set(onePeer("192.0.2.1")); !errors.Is(err, sick) {
		t.Fatalf("Set: %v", err)
	}
	if !k.holds(peerAt("192.0.2.1")) {
		t.Error("the peer waits for the masquerading")
	}
	if _, err := o.Attach(testPort(false).Attachment); err != nil {
		t.Errorf("a container waits for the masquerading: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { o.repair(ctx); close(done) }()
	k.mu.Lock()
	k.refuse = nil
	k.mu.Unlock()
	wait(t, "the masquerading is there", func() bool { return k.holds(masqueradeObject{}) })
	k.mu.Lock()
	delete(k.held, peerAt("192.0.2.1"))
	k.mu.Unlock()
	wait(t, "the peer is back", func() bool { return k.holds(peerAt("192.0.2.1")) })
	cancel()
	<-done
}

func TestFailureNamesItsNetwork(t *testing.T) {
	k := newFake()
	k.refuse = func(o op) error {
		if e, ok := o.object.(endpointObject); ok && e.key.VNI == 4098 {
			return errors.New("no room")
		}
		return nil
	}
	s := onePeer("192.0.2.1")
	for _, vni := range []uint32{4097, 4098} {
		s.Endpoints = append(s.Endpoints, Endpoint{VNI: vni, Addr: netip.MustParseAddr("10.1.0.9"), Node: netip.MustParseAddr("192.0.2.1")})
	}
	var one *NetworkError
	if err := overlayOn(k).Set(s); !errors.As(err, &one) || one.VNI != 4098 || !strings.Contains(err.Error(), "no room") {
		t.Errorf("Set: %v", err)
	}
}

func TestAttachThatFailsLeavesNothing(t *testing.T) {
	k := newFake()
	k.refuse = func(o op) error {
		if h, ok := o.object.(hookObject); ok && h.hook.Program == datapath.Container {
			return fmt.Errorf("device %d refuses", h.hook.Ifindex)
		}
		return nil
	}
	o := overlayOn(k)
	if _, err := o.Attach(testPort(false).Attachment); err == nil || !strings.Contains(err.Error(), "refuses") {
		t.Fatalf("Attach: %v", err)
	}
	if got := o.Attachments(); len(got) != 0 {
		t.Errorf("attachments: %v", got)
	}
}

func TestBackoffGrowsToItsBound(t *testing.T) {
	b := backoff{first: time.Second, most: 5 * time.Second}
	for _, want := range []time.Duration{1, 2, 4, 5, 5} {
		if got := b.next(); got != want*time.Second {
			t.Errorf("got %s, want %d s", got, want)
		}
	}
	b.reset()
	if got := b.next(); got != time.Second {
		t.Errorf("after reset: %s", got)
	}
}

func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	(&lab{t: t}).eventually(what, ok)
}

func TestInterfacesWithoutAContainerAreCollected(t *testing.T) {
	k := newFake()
	o := overlayOn(k)
	start := time.Now()
	collect := func(after time.Duration) int {
		if err := o.collect(start.Add(after)); err != nil {
			t.Fatal(err)
		}
		return len(k.ports)
	}
	if _, err := o.Attach(testPort(false).Attachment); err != nil {
		t.Fatal(err)
	}
	if collect(0) != 1 || collect(leaked-1) != 1 {
		t.Error("collected too early")
	}
	k.ports[0].idle = false // moved into its container
	if collect(leaked) != 1 {
		t.Error("collected from a container")
	}
	k.ports[0].idle = true // and back
	if collect(leaked+1) != 1 || collect(2*leaked+1) != 0 {
		t.Errorf("ports: %v", k.ports)
	}
}

func TestAnEmptyStateIsNoRepair(t *testing.T) {
	k := newFake()
	o := overlayOn(k)
	if err := errors.Join(o.Set(onePeer("192.0.2.1")), o.Set(State{})); err != nil {
		t.Fatal(err)
	}
	if k.holds(vxlanObject{}) || k.holds(gatewayDevObject{}) || !k.holds(sysctlObject{"net/ipv4/ip_forward"}) {
		t.Errorf("held: %v", k.held)
	}
	for range 3 {
		if err := o.reconcile(true); err != nil {
			t.Fatal(err)
		}
	}
	if got := o.Repairs(); len(got) != 0 {
		t.Errorf("repairs: %v", got)
	}
}

func TestAnInterfaceDeletedUnderItsContainerIsMadeAnew(t *testing.T) {
	k := newFake()
	o := overlayOn(k)
	a := testPort(true).Attachment
	if _, err := o.Attach(a); err != nil {
		t.Fatal(err)
	}
	repair := func() {
		t.Helper()
		if err := o.repairOnce(time.Now(), true); err != nil {
			t.Fatal(err)
		}
	}
	k.ports[0].idle, k.ports[0].nsid = false, 3 // moved into its container
	repair()
	k.ports = nil
	repair()
	if len(k.ports) != 1 || k.ports[0].ID != a.ID || o.Repairs()["interface"] != 1 {
		t.Errorf("ports %v, repairs %v", k.ports, o.Repairs())
	}
	// One whose container has ended, and one that was detached, are not.
	k.ports[0].nsid = 0
	repair()
	k.ports = nil
	repair()
	if len(k.ports) != 0 {
		t.Errorf("made for nobody: %v", k.ports)
	}
	k.ports = []port{{Attachment: a, ifindex: 30, nsid: 3}}
	repair()
	if err := o.Detach(a.ID); err != nil {
		t.Fatal(err)
	}
	repair()
	if len(k.ports) != 0 {
		t.Errorf("made after it was detached: %v", k.ports)
	}
}

func (k *fakeKernel) putCipher(d wireguard.Device, _ int) (cipher, error) {
	return cipher{ifindex: 100 + int(d.Epoch%2)}, nil
}

func (k *fakeKernel) removeCipher(string) error { return nil }
