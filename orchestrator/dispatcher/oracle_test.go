package dispatcher

import (
	"cmp"
	"slices"

	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/orchestrator/store"
)

// oracle is what a node must know of a network, found by looking at everything.
func oracle(v *store.View, n *store.Network, nodeID string) protocol.Network {
	out := headOf(n)
	on := map[string]bool{}
	for _, t := range v.TasksOnNetwork(n.ID) {
		e, ok := buildEndpoint(v, t, n.ID)
		if !ok || n.Spec.Ingress && !publishes(v, t.ServiceID) && t.NodeID != nodeID {
			continue
		}
		on[t.ServiceID] = true
		out.Endpoints = append(out.Endpoints, e)
	}
	for _, s := range v.Services() {
		asks := wants(s, n)
		if n.Spec.Ingress {
			asks = len(published(s)) > 0
		}
		if on[s.ID] || asks {
			out.Services = append(out.Services, buildService(s, n))
		}
	}
	slices.SortFunc(out.Endpoints, func(a, b protocol.Endpoint) int { return cmp.Compare(a.TaskID, b.TaskID) })
	return out
}

func oracles(v *store.View, nodeID string) []protocol.Network {
	var out []protocol.Network
	for _, n := range networksOf(v, nodeID) {
		out = append(out, oracle(v, n, nodeID))
	}
	return out
}
