package plan

import (
	"maps"
	"slices"

	"github.com/meshd/meshd/ipvs"
	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/overlay"
)

// Compiler compiles what Compile does, and keeps what it made of each network: of
// one that has not changed it is given out again, and of one that has, the names
// of the services that have not. It has one user at a time.
//
// It counts on networks being values: who changes a list of services or endpoints
// makes another one.
type Compiler struct {
	self string
	// interfaces and publishOn are the node's, which published ports follow from.
	interfaces []Interface
	publishOn  string
	nodes      map[string]node
	parts      map[string]*part
}

// part is what was made of a network.
type part struct {
	from      protocol.Network
	endpoints []overlay.Endpoint
	services  []ipvs.Service
	names     *zoneNames // nil on the mesh network
}

// Compile gives the same as the function of that name. The caller must not modify it.
func (c *Compiler) Compile(in Input) Output {
	nodes := nodesOf(in)
	if c.self != in.Self || c.publishOn != in.PublishOn || !slices.EqualFunc(c.interfaces, in.Interfaces, sameInterface) {
		c.self, c.publishOn, c.interfaces, c.parts = in.Self, in.PublishOn, in.Interfaces, nil
	}
	changed := changedNodes(c.nodes, nodes)
	parts := make(map[string]*part, len(in.Networks))
	for _, n := range in.Networks {
		old := c.parts[n.ID]
		if old == nil || !sameNetwork(old.from, n) || concerns(n, changed) {
			old = makePart(in, n, old, changes{nodes, changed})
		}
		parts[n.ID] = old
	}
	c.nodes, c.parts = nodes, parts
	return assemble(in, nodes, parts)
}

// changes are the nodes, and those of them that are not as they were.
type changes struct {
	nodes   map[string]node
	changed map[string]bool
}

// makePart compiles a network; of old it takes what still holds.
func makePart(in Input, n protocol.Network, old *part, c changes) *part {
	out := &part{from: n, endpoints: remotes(n, c.nodes, in.Self), services: balanced(in, n, c.nodes)}
	if n.Ingress {
		return out
	}
	if old != nil && old.names != nil && old.from.Name == n.Name {
		out.names = old.names
	} else {
		out.names = newZoneNames(n.Name)
	}
	out.names.update(n, c.nodes, c.changed)
	return out
}

// changedNodes are those of which something differs that names and balancers
// depend on.
func changedNodes(old, now map[string]node) map[string]bool {
	out := map[string]bool{}
	for id, n := range now {
		if was, ok := old[id]; !ok || was.Down != n.Down || was.away != n.away || was.DataAddr != n.DataAddr || was.Hostname != n.Hostname || !maps.Equal(was.Labels, n.Labels) {
			out[id] = true
		}
	}
	for id := range old {
		if _, ok := now[id]; !ok {
			out[id] = true
		}
	}
	return out
}

func concerns(n protocol.Network, nodes map[string]bool) bool {
	return len(nodes) > 0 && slices.ContainsFunc(n.Endpoints, func(e protocol.Endpoint) bool { return nodes[e.NodeID] })
}

// sameNetwork says whether two values are the same, list by list; equal lists at
// different places are not worth looking at.
func sameNetwork(a, b protocol.Network) bool {
	return a.Name == b.Name && a.VNI == b.VNI && a.Ingress == b.Ingress &&
		sameList(a.Services, b.Services) && sameList(a.Endpoints, b.Endpoints)
}

func sameList[T any](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}
