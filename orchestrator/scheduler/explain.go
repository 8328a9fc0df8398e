package scheduler

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/placement"
	"github.com/meshd/meshd/orchestrator/store"
)

// Verdict says of a node why it could not take a task; it could if nothing is said.
type Verdict struct {
	NodeID   string
	Hostname string
	Reasons  []string `json:",omitempty"`
}

// Explain judges all nodes as the scheduler does, for one task and at this
// moment. What the task itself takes of its node does not count.
func Explain(v *store.View, t *store.Task) []Verdict {
	l := &Loop{}
	l.Reset(v)
	l.forget(t.ID)
	d := l.demand(versionOf(t))
	var out []Verdict
	for _, n := range slices.SortedFunc(maps.Values(l.nodes), func(a, b *node) int {
		return cmp.Or(cmp.Compare(a.Hostname(), b.Hostname()), cmp.Compare(a.ID, b.ID))
	}) {
		reasons := d.against(n)
		if bound(v, t) && n.ID != t.NodeID {
			reasons = append([]string{"this task of a global service is another node's"}, reasons...)
		}
		out = append(out, Verdict{NodeID: n.ID, Hostname: n.Hostname(), Reasons: reasons})
	}
	return out
}

// bound says that a task belongs to its node from the start.
func bound(v *store.View, t *store.Task) bool {
	s := v.Service(t.ServiceID)
	return s != nil && (s.Spec.Mode.Global != nil || s.Spec.Mode.GlobalJob != nil)
}

// against says all that keeps a node from taking a task.
func (d *demand) against(n *node) []string {
	var out []string
	if !placement.Open(n.Node) {
		out = append(out, closed(n.Node))
	}
	if !hasResources(n, d) {
		out = append(out, d.shortages(n)...)
	}
	if d.broken != nil {
		out = append(out, d.broken.Error())
	}
	for _, c := range d.rules.Constraints {
		if !placement.Match([]placement.Constraint{c}, n.Node) {
			out = append(out, "constraint "+c.String()+" does not hold")
		}
	}
	if !d.rules.Permitted(n.Node) {
		out = append(out, fmt.Sprintf("allows no tasks with %s or %s: its meshd runs without --allow-privileged", placement.LabelPrivileged, placement.LabelDevices))
	}
	if p := n.Description.Platform; !placement.OnPlatform(d.rules.Platforms, n.Node) {
		out = append(out, fmt.Sprintf("the image is not for its platform, %s/%s", p.OS, p.Architecture))
	}
	if !hasPorts(n, d) {
		out = append(out, sayPorts([]*node{n}, d))
	}
	if have := n.byService[d.version.service]; d.maxReplicas > 0 && have >= int(d.maxReplicas) {
		out = append(out, fmt.Sprintf("has %d tasks of the service, of at most %d per node", have, d.maxReplicas))
	}
	return out
}

func closed(n *store.Node) string {
	if n.Stopping {
		return "is shutting down, or has done so"
	}
	if n.Status.State != swarm.NodeStateReady {
		return "is " + string(cmp.Or(n.Status.State, swarm.NodeStateUnknown))
	}
	return "its availability is " + string(n.Spec.Availability)
}

// shortages are the resources that a node has not enough left of.
func (d *demand) shortages(n *node) []string {
	have, want := n.Description.Resources, d.reservation
	var out []string
	if free := have.NanoCPUs - n.cpus; want.NanoCPUs > free && want.NanoCPUs > 0 {
		out = append(out, fmt.Sprintf("%g CPUs are asked for, %g of %g are not reserved", cpus(want.NanoCPUs), cpus(free), cpus(have.NanoCPUs)))
	}
	if free := have.MemoryBytes - n.memory; want.MemoryBytes > free && want.MemoryBytes > 0 {
		out = append(out, fmt.Sprintf("%s of memory is asked for, %s of %s is not reserved",
			size(want.MemoryBytes), size(free), size(have.MemoryBytes)))
	}
	for _, w := range want.GenericResources {
		if _, ok := n.generics([]swarm.GenericResource{w}); !ok {
			kind, count, name := generic(w)
			left, named := n.freeGenerics(kind)
			out = append(out, fmt.Sprintf("generic resource %s %s is asked for, %d left",
				kind, cmp.Or(name, fmt.Sprint(count)), max(left, int64(len(named)))))
		}
	}
	return out
}

func cpus(nano int64) float64 { return float64(nano) / 1e9 }
func size(bytes int64) string { return units.BytesSize(float64(bytes)) }
