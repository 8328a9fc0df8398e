package scheduler

import (
	"fmt"
	"strings"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/placement"
)

// demand is what the tasks of one version of a service ask of a node.
type demand struct {
	version     version
	rules       placement.Rules
	broken      error // the constraints cannot be read
	reservation swarm.Resources
	ports       []swarm.PortConfig // in mode host
	maxReplicas uint64
	preferences []string
	// meshed are ports of the routing mesh, not to be given to a task.
	meshed map[hostPort]bool
	// names are those of services by ID.
	names map[string]publications
}

func (d *demand) nameOf(service string) string { return d.names[service].name }

// demandOf reads a template; the host-mode ports are its service's.
func demandOf(v version, template *swarm.TaskSpec, ports []swarm.PortConfig) demand {
	d := demand{version: v, ports: ports}
	d.rules, d.broken = placement.RulesOf(template)
	if r := template.Resources; r != nil && r.Reservations != nil {
		d.reservation = *r.Reservations
	}
	if p := template.Placement; p != nil {
		d.maxReplicas = p.MaxReplicas
		for _, pref := range p.Preferences {
			if pref.Spread != nil {
				d.preferences = append(d.preferences, pref.Spread.SpreadDescriptor)
			}
		}
	}
	return d
}

// filter is one condition; say is what it says of the nodes that fail it.
type filter struct {
	pass func(n *node, d *demand) bool
	say  func(failed []*node, d *demand) string
}

// filters are tried in order; a node counts for the first that it fails.
var filters = []filter{
	{func(n *node, _ *demand) bool { return placement.Open(n.Node) }, func(failed []*node, _ *demand) string {
		return fmt.Sprintf("%s not available for new tasks", nodes(len(failed)))
	}},
	{hasResources, on("insufficient resources on ")},
	{func(n *node, d *demand) bool { return d.broken == nil && placement.Match(d.rules.Constraints, n.Node) },
		on("scheduling constraints not satisfied on ")},
	{func(n *node, d *demand) bool { return d.rules.Permitted(n.Node) }, on("privileges and devices not allowed on ")},
	{func(n *node, d *demand) bool { return placement.OnPlatform(d.rules.Platforms, n.Node) }, on("unsupported platform on ")},
	{hasPorts, sayPorts},
	{func(n *node, d *demand) bool {
		return d.maxReplicas == 0 || n.byService[d.version.service] < int(d.maxReplicas)
	}, func([]*node, *demand) string { return "max replicas per node limit exceed" }},
}

func on(what string) func([]*node, *demand) string {
	return func(failed []*node, _ *demand) string { return what + nodes(len(failed)) }
}

func nodes(n int) string {
	if n == 1 {
		return "1 node"
	}
	return fmt.Sprintf("%d nodes", n)
}

func hasResources(n *node, d *demand) bool {
	have, want := n.Description.Resources, d.reservation
	if want.NanoCPUs > 0 && have.NanoCPUs-n.cpus < want.NanoCPUs {
		return false
	}
	if want.MemoryBytes > 0 && have.MemoryBytes-n.memory < want.MemoryBytes {
		return false
	}
	_, ok := n.generics(want.GenericResources)
	return ok
}

// fits says that a node passes all filters.
func (d *demand) fits(n *node) bool { return d.failed(n) < 0 }

// failed is the first filter that a node fails, -1 if none.
func (d *demand) failed(n *node) int {
	for i := range filters {
		if !filters[i].pass(n, d) {
			return i
		}
	}
	return -1
}

// refusal says why none of these nodes, by ID, qualifies.
func (d *demand) refusal(all []*node) string {
	failed := make([][]*node, len(filters))
	for _, n := range all {
		if i := d.failed(n); i >= 0 {
			failed[i] = append(failed[i], n)
		}
	}
	var reasons []string
	for i, ns := range failed {
		if len(ns) > 0 {
			reasons = append(reasons, filters[i].say(ns, d))
		}
	}
	if len(reasons) == 0 {
		return "no suitable node"
	}
	return "no suitable node (" + strings.Join(reasons, "; ") + ")"
}
