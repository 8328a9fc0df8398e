package meshd

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/ipvs"
	"github.com/meshd/meshd/meshd/plan"
	"github.com/meshd/meshd/orchestrator/agent"
	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/overlay/gossip"
)

// backends waits until the balancer was told of n backends.
func backends(t *testing.T, told <-chan ipvs.State, n int) {
	t.Helper()
	limit := time.After(60 * time.Second)
	for {
		select {
		case s := <-told:
			if len(s.Services) == 1 && serving(s.Services[0]) == n {
				return
			}
		case <-limit:
			t.Fatalf("the balancer was never told of %d backends that serve", n)
		}
	}
}

// serving counts the backends that are not away.
func serving(s ipvs.Service) (n int) {
	for _, b := range s.Backends {
		if !b.Away {
			n++
		}
	}
	return n
}

type tellingIPVS chan ipvs.State

func (c tellingIPVS) Set(s ipvs.State) error {
	c <- s
	return nil
}

// livenessView is three nodes on loopback addresses, and a published service with
// a task on b and one on c.
func livenessView() agent.View {
	v := view(1)
	v.GossipKeys = [][]byte{bytes.Repeat([]byte{7}, gossip.KeySize)}
	v.Nodes = nil
	for i, id := range []string{"a", "b", "c"} {
		v.Nodes = append(v.Nodes, protocol.Node{ID: id, DataAddr: netip.AddrFrom4([4]byte{127, 80, 0, byte(i + 1)})})
	}
	n := &v.Networks[0]
	n.Services = []protocol.Service{{ID: "s", Name: "s", Ports: []swarm.PortConfig{{PublishedPort: 80, TargetPort: 80}}}}
	for i, id := range []string{"b", "c"} {
		n.Endpoints = append(n.Endpoints, protocol.Endpoint{
			TaskID: "t" + id, ServiceID: "s", NodeID: id, State: protocol.EndpointServing,
			Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 255, 0, byte(10 + i)})},
		})
	}
	return v
}

// background runs f until the returned function is called.
func background(t *testing.T, f func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// TestDeadNodeIsMaskedWithoutAManager goes from a view, which brings keys and
// addresses, through gossip to the balancer.
func TestDeadNodeIsMaskedWithoutAManager(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	told := make(tellingIPVS, 1024)
	data := newDataplane(&fakeOverlay{}, fakeDNS{}, told, filepath.Join(t.TempDir(), "resolv.conf"), log)
	data.surroundings = func() ([]plan.Interface, []netip.AddrPort) { return nil, nil }
	v := livenessView()
	var dead atomic.Bool // node b's machine
	start := func(i int, d *dataplane) (*liveness, func()) {
		l := &liveness{data: d, port: 17946, log: log}
		l.gossip = gossip.New(gossip.Config{
			NodeID: v.Nodes[i].ID, Addr: netip.AddrPortFrom(v.Nodes[i].DataAddr, l.port), Logger: log,
			Reach: func(_ context.Context, addr netip.AddrPort) bool {
				return addr.Addr() != v.Nodes[1].DataAddr || !dead.Load()
			},
		})
		l.learn(v)
		return l, background(t, l.Run)
	}
	other := func() *dataplane { return newDataplane(nil, nil, nil, "", log) }
	defer background(t, data.Run)()
	data.join(identity{node: "a"})
	live, stop := start(0, data)
	defer stop()
	liveWatch{roleWatch{data, "a", make(chan swarm.NodeRole, 1)}, live}.Update(v)
	backends(t, told, 2)

	_, stopB := start(1, other())
	_, stopC := start(2, other())
	defer stopC()
	for limit := time.Now().Add(20 * time.Second); len(live.gossip.Alive()) != 3; {
		if time.Now().After(limit) {
			t.Fatalf("a sees %v", live.gossip.Alive())
		}
		<-time.After(10 * time.Millisecond)
	}
	dead.Store(true)
	stopB()
	backends(t, told, 1)
	dead.Store(false)
	_, stopB = start(1, other())
	defer stopB()
	backends(t, told, 2)
}

func TestANewMembershipMasksNobody(t *testing.T) {
	d, _ := startDataplane(t)
	d.mask(map[string]bool{"b": true})
	d.join(identity{node: "a"})
	if len(d.masked()) != 0 {
		t.Errorf("masked %v", d.masked())
	}
}
