package scheduler

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

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
func filters() []filter {
	on := func(what string) func([]*node, *demand) string {
		return func(failed []*node, _ *demand) string { return what + nodes(len(failed)) }
	}
	return []filter{
		{func(n *node, _ *demand) bool { return placement.Open(n.Node) }, func(failed []*node, _ *demand) string {
			return fmt.Sprintf("%s not available for new tasks", nodes(len(failed)))
		}},
		{hasResources, on("insufficient resources on ")},
		{func(n *node, d *demand) bool { return d.broken == nil && placement.Match(d.rules.Constraints, n.Node) },
			on("scheduling constraints not satisfied on ")},
		{func(n *node, d *demand) bool { return placement.OnPlatform(d.rules.Platforms, n.Node) }, on("unsupported platform on ")},
		{hasPorts, sayPorts},
		{func(n *node, d *demand) bool {
			return d.maxReplicas == 0 || n.byService[d.version.service] < int(d.maxReplicas)
		}, func([]*node, *demand) string { return "max replicas per node limit exceed" }},
	}
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

// qualify returns the nodes that pass all filters, and if none does, why not.
func qualify(all []*node, d *demand) ([]*node, string) {
	fs := filters()
	failed := make([][]*node, len(fs))
	var out []*node
	for _, n := range all {
		i := slices.IndexFunc(fs, func(f filter) bool { return !f.pass(n, d) })
		if i < 0 {
			out = append(out, n)
			continue
		}
		failed[i] = append(failed[i], n)
	}
	if len(out) > 0 {
		return out, ""
	}
	var reasons []string
	for i, ns := range failed {
		if len(ns) > 0 {
			reasons = append(reasons, fs[i].say(ns, d))
		}
	}
	if len(reasons) == 0 {
		return nil, "no suitable node"
	}
	return nil, "no suitable node (" + strings.Join(reasons, "; ") + ")"
}

// choose picks one of the nodes that qualify.
func choose(candidates []*node, d *demand, now time.Time) *node {
	for _, key := range d.preferences {
		candidates = lightest(candidates, key, d.version.service)
	}
	return slices.MinFunc(candidates, func(a, b *node) int {
		return cmp.Or(
			cmp.Compare(a.penalty(d.version, now), b.penalty(d.version, now)),
			cmp.Compare(a.byService[d.version.service], b.byService[d.version.service]),
			cmp.Compare(a.active, b.active),
			cmp.Compare(a.ID, b.ID),
		)
	})
}

// lightest keeps the nodes of the branch, by their value under key, that has the
// fewest tasks of the service. Nodes without the label are a branch of their own.
func lightest(candidates []*node, key, service string) []*node {
	branches := map[string][]*node{}
	for _, n := range candidates {
		value, _ := placement.Value(key, n.Node)
		branches[value] = append(branches[value], n)
	}
	var best []*node
	least := -1
	for _, value := range slices.Sorted(maps.Keys(branches)) {
		sum := 0
		for _, n := range branches[value] {
			sum += n.byService[service]
		}
		if least < 0 || sum < least {
			best, least = branches[value], sum
		}
	}
	return best
}
