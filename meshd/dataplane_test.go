package meshd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/dns"
	"github.com/meshd/meshd/ipvs"
	"github.com/meshd/meshd/ipvs/ipvstest"
	"github.com/meshd/meshd/meshd/plan"
	"github.com/meshd/meshd/orchestrator/agent"
	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/overlay"
)

// fakeOverlay remembers what it was asked for, and fails on demand.
type fakeOverlay struct {
	mu   sync.Mutex
	sets []overlay.State
	fail error
}

func (f *fakeOverlay) Set(s overlay.State) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sets = append(f.sets, s)
	return f.fail
}

func (f *fakeOverlay) TunnelLimit() int { return 1430 }

func (f *fakeOverlay) failWith(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = err
}

func (f *fakeOverlay) newest() (s overlay.State, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.sets) > 0 {
		s = f.sets[len(f.sets)-1]
	}
	return s, len(f.sets)
}

type fakeDNS struct{}

func (fakeDNS) Set(dns.State) {}

// startDataplane runs a data plane over fakes until the test ends.
func startDataplane(t *testing.T) (*dataplane, *fakeOverlay) {
	t.Helper()
	o := &fakeOverlay{}
	d := newDataplane(o, fakeDNS{}, &ipvstest.Fake{}, filepath.Join(t.TempDir(), "resolv.conf"), slog.New(slog.DiscardHandler))
	d.surroundings = func() ([]plan.Interface, []netip.AddrPort) { return nil, nil }
	d.search = func() []string { return []string{"a.test", "b.test"} }
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return d, o
}

func view(revision uint64) agent.View {
	return agent.View{
		Nodes: []protocol.Node{{ID: "a", DataAddr: netip.MustParseAddr("192.0.2.1")}},
		Networks: []protocol.Network{{
			ID: "mesh", Name: "ingress", VNI: 4096, Ingress: true, Revision: revision,
			Subnets: []protocol.Subnet{{Prefix: netip.MustParsePrefix("10.255.0.0/16"), Gateway: netip.MustParseAddr("10.255.0.1")}},
		}},
	}
}

func ready(t *testing.T, d *dataplane, revision uint64) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return d.Ready(ctx, "mesh", revision)
}

func TestKernelIsLeftAloneUntilAManagerHasSpoken(t *testing.T) {
	d, o := startDataplane(t)
	d.join(identity{node: "a"})
	d.Update(agent.View{}) // what an agent knows before its first session
	d.Update(view(7))
	if err := ready(t, d, 7); err != nil {
		t.Fatal(err)
	}
	for _, s := range o.sets {
		if len(s.Networks) == 0 {
			t.Errorf("the kernel was emptied: %+v", s)
		}
	}
}

func TestReadyWaitsForTheRevision(t *testing.T) {
	d, _ := startDataplane(t)
	d.join(identity{node: "a"})
	d.Update(view(7))
	if err := ready(t, d, 7); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := d.Ready(ctx, "mesh", 8); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Ready(8) = %v while the kernel holds 7", err)
	}
	d.Update(view(9))
	if err := ready(t, d, 8); err != nil {
		t.Errorf("Ready(8) = %v when the kernel holds 9", err)
	}
}

func TestFailureIsRetriedAndNotAcknowledged(t *testing.T) {
	d, o := startDataplane(t)
	o.failWith(errors.New("no such device"))
	d.join(identity{node: "a"})
	d.Update(view(3))
	for _, n := o.newest(); n < 2; _, n = o.newest() { // the first try and a second
		if ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond); d.Ready(ctx, "mesh", 1) == nil {
			t.Fatal("a state that failed counts as held")
		} else {
			cancel()
		}
	}
	o.failWith(nil)
	if err := ready(t, d, 3); err != nil {
		t.Errorf("after the fault: %v", err)
	}
}

// What the overlay cannot do yet keeps no dead task in names and load balancers.
func TestOnePartsFailureHoldsUpNoOther(t *testing.T) {
	d, o := startDataplane(t)
	o.failWith(errors.New("no such device"))
	d.join(identity{node: "a"})
	v := view(3)
	v.Networks[0].Services = []protocol.Service{{ID: "s", Name: "web", Ports: []swarm.PortConfig{{Protocol: "tcp", TargetPort: 80, PublishedPort: 8080}}}}
	d.Update(v)
	deadline := time.Now().Add(time.Minute)
	for {
		held, err := d.ipvs.(*ipvstest.Fake).Held()
		if err == nil && len(held.Services) == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the load balancer has %v, %v", held.Services, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if held, _ := d.Held(); held["mesh"] != 0 {
		t.Errorf("a state that failed is acknowledged: %v", held)
	}
}

// A network that fails holds back the acknowledgement of no other.
func TestNetworksAreAcknowledgedByThemselves(t *testing.T) {
	d, o := startDataplane(t)
	d.join(identity{node: "a"})
	with := func(revision uint64) agent.View {
		v := view(revision)
		v.Networks = append(v.Networks, protocol.Network{ID: "front", VNI: 4097, Revision: revision}, protocol.Network{ID: "back", VNI: 4098, Revision: revision})
		return v
	}
	d.Update(with(3))
	if err := ready(t, d, 3); err != nil {
		t.Fatal(err)
	}
	o.failWith(fmt.Errorf("overlay: %w", errors.Join(&overlay.NetworkError{VNI: 4097, Err: errors.New("full")}, &overlay.NetworkError{VNI: 4099, Err: errors.New("full")})))
	d.ipvs.(*ipvstest.Fake).Fail(&ipvs.NetworkError{VNI: 4097, Err: errors.New("full")})
	d.Update(with(4))
	if err := ready(t, d, 4); err != nil {
		t.Fatal(err)
	}
	if held, _ := d.Held(); held["front"] != 3 || held["back"] != 4 {
		t.Errorf("held: %v", held)
	}
	d.ipvs.(*ipvstest.Fake).Fail(errors.Join(&ipvs.NetworkError{VNI: 4097, Err: errors.New("full")}, errors.New("no such device")))
	_, n := o.newest()
	d.Update(with(5))
	for _, now := o.newest(); now < n+2; _, now = o.newest() { // what is more than one network's is all networks'
		if held, _ := d.Held(); held["back"] == 5 {
			t.Fatalf("held: %v", held)
		}
		time.Sleep(time.Millisecond)
	}
	o.failWith(nil)
	d.ipvs.(*ipvstest.Fake).Fail(nil)
	if err := ready(t, d, 5); err != nil {
		t.Fatal(err)
	}
	if held, _ := d.Held(); held["front"] != 5 {
		t.Errorf("after the fault: %v", held)
	}
}

func TestLeavingEmptiesTheDataPlane(t *testing.T) {
	d, o := startDataplane(t)
	d.join(identity{node: "a", addr: netip.MustParseAddr("192.0.2.1"), port: 4789})
	d.Update(view(3))
	if err := ready(t, d, 3); err != nil {
		t.Fatal(err)
	}
	if s, _ := o.newest(); len(s.Networks) != 1 || s.VXLANPort != 4789 {
		t.Fatalf("overlay = %+v", s)
	}
	d.leave()
	deadline := time.Now().Add(time.Minute)
	for s, _ := o.newest(); len(s.Networks) != 0; s, _ = o.newest() {
		if time.Now().After(deadline) {
			t.Fatalf("overlay after leaving = %+v", s)
		}
		_, changed := d.Held()
		select {
		case <-changed:
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestResolvConfNamesTheGateway(t *testing.T) {
	d, _ := startDataplane(t)
	d.join(identity{node: "a"})
	d.Update(view(1))
	if err := ready(t, d, 1); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(d.resolvConfPath)
	if err != nil || !strings.Contains(string(data), "nameserver 10.255.0.1\n") {
		t.Errorf("resolv.conf = %q, %v", data, err)
	}
	if !strings.HasSuffix(string(data), "\nsearch a.test b.test\noptions ndots:0\n") {
		t.Errorf("resolv.conf = %q, want the machine's search list", data)
	}
}
