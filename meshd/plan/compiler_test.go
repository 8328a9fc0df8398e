package plan

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/protocol"
)

// TestChangesCompileToTheWhole plays random changes of networks, nodes and who is
// dead: what a Compiler makes of each is what is made of it from nothing.
func TestChangesCompileToTheWhole(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	in := small()
	var c Compiler
	for step := range 2000 {
		for range 1 + rng.IntN(2) {
			changeInput(rng, &in)
		}
		before := fmt.Sprintf("%+v", in)
		if got, want := c.Compile(in), Compile(in); !reflect.DeepEqual(got, want) {
			t.Fatalf("step %d: %s\ngives\n%+v\nnot\n%+v", step, before, got, want)
		}
	}
}

// small has few of everything, so that names are shared and services come and go.
func small() Input {
	in := Input{Self: "node0", SelfAddr: addr("198.18.0.1")}
	for i := range 4 {
		in.Nodes = append(in.Nodes, protocol.Node{ID: fmt.Sprint("node", i), Hostname: fmt.Sprint("host", i), DataAddr: addr("198.18.0.9")})
	}
	for i, id := range []string{"mesh", "a", "b"} {
		in.Networks = append(in.Networks, protocol.Network{ID: id, Name: id, VNI: uint32(4096 + i), Ingress: i == 0})
	}
	return in
}

// changeInput changes something; lists that the input had before stay as they are.
func changeInput(rng *rand.Rand, in *Input) {
	if rng.IntN(8) == 0 {
		in.Dead = map[string]bool{fmt.Sprint("node", rng.IntN(4)): true}
		return
	}
	if rng.IntN(12) == 0 {
		in.Nodes = slices.Clone(in.Nodes)
		n := &in.Nodes[rng.IntN(len(in.Nodes))]
		n.DataAddr = netip.AddrFrom4([4]byte{198, 18, 0, byte(rng.IntN(9))})
		n.Hostname, n.Down = fmt.Sprint("host", rng.IntN(5)), rng.IntN(3) == 0
		return
	}
	in.Networks = slices.Clone(in.Networks)
	n := &in.Networks[rng.IntN(len(in.Networks))]
	if rng.IntN(4) == 0 {
		s := protocol.Service{
			ID: fmt.Sprint("s", rng.IntN(4)), Aliases: []string{fmt.Sprint("alias", rng.IntN(3))},
			VIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 1, byte(rng.IntN(9))})}, Labels: map[string]string{labelTTL: fmt.Sprint(rng.IntN(3))},
			Ports: []swarm.PortConfig{{PublishedPort: uint32(8000 + rng.IntN(3)), TargetPort: 80}},
		}
		s.Name, s.Exposed = s.ID, s.Ports
		n.Services = without(n.Services, func(o protocol.Service) bool { return o.ID == s.ID })
		if rng.IntN(3) > 0 {
			n.Services = append(n.Services, s)
			slices.SortFunc(n.Services, func(a, b protocol.Service) int { return compare(a.ID, b.ID) })
		}
		return
	}
	states := []protocol.EndpointState{protocol.EndpointStarting, protocol.EndpointServing, protocol.EndpointDraining}
	slot := 1 + rng.IntN(8)
	e := protocol.Endpoint{
		TaskID: fmt.Sprint("t", slot), ServiceID: fmt.Sprint("s", slot%4), NodeID: fmt.Sprint("node", rng.IntN(5)), Slot: slot,
		Name: fmt.Sprint("name", slot), Hostname: []string{"", "s1", "shared", "alias1"}[rng.IntN(4)],
		Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(slot)})}, State: states[rng.IntN(3)],
	}
	n.Endpoints = without(n.Endpoints, func(o protocol.Endpoint) bool { return o.TaskID == e.TaskID })
	if rng.IntN(3) > 0 {
		n.Endpoints = append(n.Endpoints, e)
		slices.SortFunc(n.Endpoints, func(a, b protocol.Endpoint) int { return compare(a.TaskID, b.TaskID) })
	}
}

func without[T any](list []T, gone func(T) bool) []T {
	return slices.DeleteFunc(slices.Clone(list), gone)
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
