package services

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/control"
	"github.com/meshd/meshd/orchestrator/placement"
	"github.com/meshd/meshd/orchestrator/schedule"
	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/tasklife"
)

// picture is all that the decision about one service follows from.
type picture struct {
	id      string
	service *store.Service // nil if it was removed
	tasks   []*store.Task
	specs   []*store.Spec
	nodes   map[string]*store.Node
	// serving: see Config.Serving.
	serving func(*store.Task) bool
	now     time.Time
}

// step is a set of changes that only make sense together.
type step struct {
	update []*store.Task
	create *store.Task
}

// decision is what to change now, and when to look again though nothing happened.
type decision struct {
	service *store.Service
	spec    *store.Spec
	steps   []step
	again   time.Time
}

func (d *decision) wake(at time.Time) { d.again = control.Earlier(d.again, at) }

// decide is deterministic but for the IDs of new tasks.
func decide(p picture) decision {
	var d decision
	if p.service == nil {
		for _, t := range p.tasks {
			d.steps = append(d.steps, stepTo(swarm.TaskStateRemove, t)...)
		}
		return d
	}
	c := newScene(p)
	slots := c.slots()
	switch {
	case c.template == nil:
		// The API stores the template with the service; nothing can be done without.
	case p.service.Spec.Mode.Replicated != nil:
		slots = c.replicated(dropOdd(slots, false, &d), &d)
	case p.service.Spec.Mode.Global != nil:
		slots = c.global(dropOdd(slots, true, &d), func(*slot) bool { return false }, &d)
	default:
		c.job(slots, &d)
		return d
	}
	c.promote(slots, &d)
	c.roll(slots, &d)
	return d
}

// dropOdd removes the slots of the other mode. The API lets nobody change a
// service's mode, but tasks that fit in nowhere must not be counted.
func dropOdd(slots []*slot, global bool, d *decision) []*slot {
	out := make([]*slot, 0, len(slots))
	for _, s := range slots {
		if (s.number == 0) == global {
			out = append(out, s)
			continue
		}
		for _, t := range s.tasks {
			d.steps = append(d.steps, stepTo(swarm.TaskStateRemove, t)...)
		}
	}
	return out
}

// scene is a picture with what can be derived from it once.
type scene struct {
	picture
	plan     *schedule.Plan // of a job that runs by the clock
	template *swarm.TaskSpec
	rules    map[uint64]placement.Rules
}

func newScene(p picture) *scene {
	c := &scene{picture: p, rules: map[uint64]placement.Rules{}}
	if isJob(p.service.Spec.Mode) {
		// The API lets no other labels in; a schedule that cannot be read never comes.
		c.plan, _ = schedule.Of(p.service.Spec.Labels)
	}
	for _, s := range p.specs {
		// A constraint that cannot be read allows no node: the scheduler tells why.
		rules, err := placement.RulesOf(&s.Template)
		if err == nil {
			c.rules[s.Number] = rules
		}
		if s.Number == p.service.SpecVersion {
			c.template = &s.Template
		}
	}
	return c
}

// replicated brings the number of slots to what is asked and returns those that stay.
func (c *scene) replicated(slots []*slot, d *decision) []*slot {
	want := 1
	if r := c.service.Spec.Mode.Replicated.Replicas; r != nil {
		want = int(*r)
	}
	kept := make([]*slot, 0, len(slots))
	for _, s := range slots {
		if len(s.wanted) > 0 || c.finished(s) {
			kept = append(kept, s)
		}
	}
	kept, surplus := split(kept, want)
	for _, s := range surplus {
		for _, t := range s.tasks {
			d.steps = append(d.steps, stepTo(swarm.TaskStateRemove, t)...)
		}
	}
	for _, s := range kept {
		c.settle(s, true, d)
	}
	if len(kept) < want {
		c.fill(slots, kept, want, d)
	}
	return kept
}

// fill makes slots of the lowest free numbers until there are as many as wanted.
func (c *scene) fill(slots, kept []*slot, want int, d *decision) {
	used := make(map[int]bool, len(kept))
	for _, s := range kept {
		used[s.number] = true
	}
	history := make(map[int]*slot, len(slots))
	for _, s := range slots {
		history[s.number] = s
	}
	for number := 1; len(used) < want; number++ {
		if used[number] {
			continue
		}
		used[number] = true
		s := history[number]
		if s == nil {
			s = &slot{number: number}
		}
		c.settle(s, true, d)
	}
}

// split divides slots into those that stay and those that a scale-down removes:
// first the ones that do not run, then, one by one, from the node that has most.
func split(slots []*slot, want int) (kept, surplus []*slot) {
	if len(slots) <= want {
		return slots, nil
	}
	perNode := map[string]int{}
	for _, s := range slots {
		if s.up {
			perNode[s.nodeID()]++
		}
	}
	kept = slices.Clone(slots)
	for len(kept) > want {
		i := worst(kept, perNode)
		perNode[kept[i].nodeID()]--
		surplus = append(surplus, kept[i])
		kept = slices.Delete(kept, i, i+1)
	}
	return kept, surplus
}

func worst(slots []*slot, perNode map[string]int) int {
	rank := func(s *slot) (idle, load, number int) {
		if !s.up {
			return 1, 0, s.number
		}
		return 0, perNode[s.nodeID()], s.number
	}
	best := 0
	for i, s := range slots {
		ai, al, an := rank(s)
		bi, bl, bn := rank(slots[best])
		if cmp.Or(cmp.Compare(ai, bi), cmp.Compare(al, bl), cmp.Compare(an, bn)) > 0 {
			best = i
		}
	}
	return best
}

// global keeps one slot on each node that the template allows and returns those
// that stay; what is over is left as it is.
func (c *scene) global(slots []*slot, over func(*slot) bool, d *decision) []*slot {
	byNode := c.byNode(slots)
	rules, readable := c.rules[c.service.SpecVersion]
	var kept []*slot
	for _, id := range slices.Sorted(maps.Keys(byNode)) {
		s, n := byNode[id], c.nodes[id]
		switch {
		case n == nil:
			for _, t := range s.tasks {
				d.steps = append(d.steps, stepTo(swarm.TaskStateRemove, t)...)
			}
		case over(s):
		case !readable || !rules.Allow(n):
			for _, t := range s.wanted {
				d.steps = append(d.steps, stepTo(swarm.TaskStateShutdown, t)...)
			}
		default:
			c.settle(s, placement.Open(n), d)
			kept = append(kept, s)
		}
	}
	return kept
}

// byNode are the slots of global services, with an empty one for each other node.
func (c *scene) byNode(slots []*slot) map[string]*slot {
	out := make(map[string]*slot, len(c.nodes))
	for _, s := range slots {
		out[s.node] = s
	}
	for id := range c.nodes {
		if out[id] == nil {
			out[id] = &slot{node: id}
		}
	}
	return out
}

// stepTo moves a task's desired state forward; nothing if it is there already.
func stepTo(state swarm.TaskState, t *store.Task) []step {
	if !tasklife.Before(t.DesiredState, state) {
		return nil
	}
	return []step{{update: []*store.Task{desired(t, state)}}}
}

func desired(t *store.Task, state swarm.TaskState) *store.Task {
	next := *t
	next.DesiredState = state
	return &next
}
