package reaper

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/control"
	"github.com/meshd/meshd/orchestrator/schedule"
	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/tasklife"
)

// defaultLimit is Swarm's for tasks kept of each slot.
const defaultLimit = 5

// LabelHistory, of a service, is how long its ended tasks are kept at the longest.
const LabelHistory = "mesh.history"

// shortestHistory is long enough for people to see why a task ended.
const shortestHistory = time.Minute

// KeepsFor says how long a service's ended tasks are kept at the longest; zero: as long
// as the swarm's limit has room for them. Errors name the label.
func KeepsFor(s *swarm.ServiceSpec) (time.Duration, error) {
	value, found := s.Labels[LabelHistory]
	if !found {
		return 0, nil
	}
	d, err := time.ParseDuration(value)
	if err != nil || d < shortestHistory {
		return 0, fmt.Errorf("label %s: %q is not a duration of at least %v, such as 36h", LabelHistory, value, shortestHistory)
	}
	return d, nil
}

// limitOf is how many tasks of a slot are kept; negative means all.
func limitOf(c *store.Cluster) int {
	if c == nil || c.Spec.Orchestration.TaskHistoryRetentionLimit == nil {
		return defaultLimit
	}
	return int(*c.Spec.Orchestration.TaskHistoryRetentionLimit)
}

// retention is what is kept of the tasks that ended.
type retention struct {
	// limit is how many tasks of a slot are kept; negative means all.
	limit int
	// age is how long; zero: as long as the limit has room.
	age time.Duration
	now time.Time
}

// deadTasks are the tasks of one service that can go, and when the next one will be too
// old; zero: none.
func deadTasks(svc *store.Service, tasks []*store.Task, nodes func(string) *store.Node, keep retention) (dead []*store.Task, again time.Time) {
	// A replicated job's slots count from 0; in others 0 is no slot.
	numbered := svc != nil && svc.Spec.Mode.ReplicatedJob != nil
	type slot struct {
		number int
		node   string
		run    uint64
	}
	oldest := oldestRun(svc)
	history := map[slot][]*store.Task{}
	var out []*store.Task
	for _, t := range tasks {
		if useless(t, nodes(t.NodeID)) {
			out = append(out, t)
			continue
		}
		s := slot{number: t.Slot}
		if t.Slot == 0 && !numbered {
			s.node = t.NodeID
		}
		if oldest != nil && t.JobIteration != nil {
			s.run = t.JobIteration.Index // each run has a history of its own
			if s.run < *oldest && !tasklife.Wanted(t) && tasklife.Ended(t) {
				out = append(out, t)
				continue
			}
		}
		history[s] = append(history[s], t)
	}
	for _, h := range history {
		beyond, next := keep.beyond(h, nodes)
		out, again = append(out, beyond...), control.Earlier(again, next)
	}
	slices.SortFunc(out, func(a, b *store.Task) int { return cmp.Compare(a.ID, b.ID) })
	return out, again
}

// oldestRun is the first run of a scheduled job whose tasks are kept; nil if its
// tasks are kept as those of any other service.
func oldestRun(svc *store.Service) *uint64 {
	if svc == nil || svc.JobStatus == nil {
		return nil
	}
	plan, err := schedule.Of(svc.Spec.Labels)
	if err != nil || plan == nil || plan.History < 0 {
		return nil
	}
	now, keep := svc.JobStatus.JobIteration.Index, uint64(plan.History)
	first := now - min(now, keep)
	return &first
}

// useless says that a task can go without a look at its slot.
func useless(t *store.Task, n *store.Node) bool {
	if tasklife.Wanted(t) {
		return false
	}
	if !tasklife.Placed(t) {
		return true
	}
	lost := n == nil || n.Status.State == swarm.NodeStateDown
	return t.DesiredState == swarm.TaskStateRemove && (tasklife.Ended(t) || lost)
}

// beyond are the ended tasks of a slot for which the limit has no room, or that are too
// old, and when the next one will be.
func (r retention) beyond(tasks []*store.Task, nodes func(string) *store.Node) (out []*store.Task, again time.Time) {
	if r.age == 0 && (r.limit < 0 || len(tasks) <= r.limit) {
		return nil, time.Time{}
	}
	slices.SortFunc(tasks, func(a, b *store.Task) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(b.ID, a.ID))
	})
	for i, t := range tasks {
		if i == 0 || tasklife.Wanted(t) || !tasklife.Ended(t) && nodes(t.NodeID) != nil {
			continue
		}
		old := t.UpdatedAt.Add(r.age) // the managers' clock, not its node's
		switch {
		case r.limit >= 0 && i >= r.limit, r.age > 0 && !old.After(r.now):
			out = append(out, t)
		case r.age > 0:
			again = control.Earlier(again, old)
		}
	}
	return out, again
}

// deadSpecs are the versions of a service's template that can go, once the dead
// tasks are gone.
func deadSpecs(svc *store.Service, specs []*store.Spec, tasks, dead []*store.Task) []*store.Spec {
	used := map[uint64]bool{}
	for _, t := range tasks {
		if !slices.Contains(dead, t) {
			used[t.SpecVersion] = true
		}
	}
	var out []*store.Spec
	for _, s := range specs {
		if !used[s.Number] && !wanted(svc, s) {
			out = append(out, s)
		}
	}
	return out
}

// wanted says that the service may still start tasks of this version.
func wanted(svc *store.Service, s *store.Spec) bool {
	if svc == nil {
		return false
	}
	return s.Number == svc.SpecVersion ||
		svc.PreviousSpec != nil && reflect.DeepEqual(s.Template, svc.PreviousSpec.TaskTemplate)
}
