package observe

import (
	"context"
	"net/netip"
	"strconv"

	"github.com/meshd/meshd/ipvs/ebpf"
)

// Flow is a connection that this node leads to a backend.
type Flow struct {
	// Service is empty when it was removed meanwhile.
	Service  string
	Network  string
	Protocol string
	Client   netip.AddrPort
	// To is what the client asked for, Backend who answers.
	To, Backend netip.AddrPort
	// Task and Node are the backend's, as far as the managers told.
	Task, Node string
	// Origin is container, node (a process of it) or outside.
	Origin string
	// State is open, idle or closing.
	State       string
	IdleSeconds int
}

// Flows lists the connections of a service, or of all. Without all, only open ones.
func (o *Observer) Flows(_ context.Context, service string, all bool) ([]Flow, error) {
	flows, err := o.Balancer.Flows()
	if err != nil {
		return nil, err
	}
	v := o.View()
	owners := owners(v)
	out := []Flow{}
	for _, f := range flows {
		state := flowState(f)
		if service != "" && f.Service != service || !all && state != flowOpen {
			continue
		}
		out = append(out, flowOf(v, owners, f, state))
	}
	return out, nil
}

// owner is who has an address: a task, and the node's name.
type owner struct{ task, node string }

// ownerKey is an address on a network.
type ownerKey struct {
	vni  uint32
	addr netip.Addr
}

func owners(v View) map[ownerKey]owner {
	names := map[string]string{}
	for _, n := range v.Nodes {
		names[n.ID] = nodeName(n)
	}
	out := map[ownerKey]owner{}
	for _, n := range v.Networks {
		for _, e := range n.Endpoints {
			for _, a := range e.Addrs {
				out[ownerKey{n.VNI, a}] = owner{e.Name, names[e.NodeID]}
			}
		}
	}
	return out
}

func flowOf(v View, owners map[ownerKey]owner, f ebpf.Flow, state string) Flow {
	who := owners[ownerKey{f.Key.VNI, f.Backend.Addr()}]
	network := strconv.Itoa(int(f.Key.VNI))
	if n, ok := v.network(f.Key.VNI); ok {
		network = n.Name
	}
	return Flow{
		Service: f.Service, Network: network, Protocol: protocolName(f.Protocol),
		Client: f.Client, To: f.To, Backend: f.Backend, Task: who.task, Node: who.node,
		Origin: string(f.Origin), State: state, IdleSeconds: int(f.Idle.Seconds()),
	}
}
