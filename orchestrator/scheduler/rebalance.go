package scheduler

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/control"
	"github.com/meshd/meshd/orchestrator/placement"
	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/tasklife"
)

// Tasks are placed once; nodes that come later stay empty. For a service with
// placement.LabelRebalance one task at a time is moved when, of two nodes that its rules
// allow, one has two tasks of it more than the other, or so many more are under one
// value of a placement preference than under another: then a move makes it even, or
// less uneven, and cannot be followed by one back. This loop only says which task and
// where to (Task.MovesTo); the service loop replaces it as on a node that is drained.
//
// A service that is not at rest is left alone, and so are nodes that changed lately.

// moveMonitor is how long the tasks of a service, and the node that is to get one, have
// to be as they are before a move, unless its update settings say more.
const moveMonitor = 5 * time.Second

// pauseOf is how long a service must have been at rest: as long as an update of it
// watches a new task and waits after it.
func pauseOf(s *store.Service) time.Duration {
	if u := s.Spec.UpdateConfig; u != nil {
		return cmp.Or(u.Monitor, moveMonitor) + u.Delay
	}
	return moveMonitor
}

// observeBalance notes whether a service asks for moves.
func (l *Loop) observeBalance(s *store.Service) {
	if wants, err := placement.Rebalances(&s.Spec); err != nil || !wants {
		delete(l.uneven, s.ID)
		return
	}
	l.uneven[s.ID] = time.Now()
}

// lookAgain has a service looked at soon, which or whose nodes changed. Changes that
// come meanwhile cost no further look.
func (l *Loop) lookAgain(id string) {
	if at, wants := l.uneven[id]; wants && at.IsZero() {
		l.uneven[id] = time.Now().Add(time.Second)
	}
}

// rebalance looks at the services that are due, and returns when the next one is.
func (l *Loop) rebalance(ctx context.Context, now time.Time) (again time.Time, err error) {
	for _, id := range slices.Sorted(maps.Keys(l.uneven)) {
		at := l.uneven[id]
		if !at.IsZero() && !at.After(now) {
			if at, err = l.even(ctx, id, now); err != nil {
				return now, err
			}
			l.uneven[id] = at
		}
		again = control.Earlier(again, at)
	}
	return again, nil
}

// even has one task of a service moved if that is of use now; again is when to look
// though nothing changes.
func (l *Loop) even(ctx context.Context, id string, now time.Time) (again time.Time, err error) {
	err = store.Transact(ctx, l.cfg.Store, l.cfg.Proposer, func(tx *store.Tx) error {
		again = time.Time{}
		s, tasks := tx.Service(id), tx.TasksOfService(id)
		if s == nil {
			return nil
		}
		since, ok := l.rest(s, tasks)
		if !ok {
			return nil
		}
		if at := since.Add(pauseOf(s)); at.After(now) {
			again = at
			return nil
		}
		d := l.demand(version{id, s.SpecVersion})
		b := balance{demand: d, now: now, calm: now.Add(-pauseOf(s))}
		from, to := b.tilt(slices.Collect(maps.Keys(l.orderOf(d).at)), d.preferences)
		if to == nil {
			again = l.calmAt(s, now)
			return nil
		}
		moving := newestOn(tasks, from.ID)
		if moving == nil {
			return nil // the store is ahead of this loop, and what changed brings it up again
		}
		next := *moving
		next.MovesTo = to.ID
		tx.Update(&next)
		return nil
	})
	return again, err
}

// rest says whether all tasks of a service run as they should, and since when.
func (l *Loop) rest(s *store.Service, tasks []*store.Task) (since time.Time, ok bool) {
	for _, t := range tasks {
		switch {
		case tasklife.Wanted(t):
			if t.Status.State != swarm.TaskStateRunning || t.DesiredState != swarm.TaskStateRunning ||
				t.SpecVersion != s.SpecVersion || t.MovesTo != "" {
				return since, false
			}
			if t.UpdatedAt.After(since) {
				since = t.UpdatedAt
			}
		case !tasklife.Ended(t) && l.nodes[t.NodeID] != nil && placement.Reached(l.nodes[t.NodeID].Node):
			return since, false // it stops, and counts where it does
		}
	}
	return since, true
}

// calmAt is when a node that changed lately may get a task, if there is one.
func (l *Loop) calmAt(s *store.Service, now time.Time) (again time.Time) {
	for _, n := range l.nodes {
		if at := n.UpdatedAt.Add(pauseOf(s)); at.After(now) {
			again = control.Earlier(again, at)
		}
	}
	return again
}

// newestOn is the newest of the wanted tasks on a node, nil if there is none.
func newestOn(tasks []*store.Task, node string) *store.Task {
	mine := slices.DeleteFunc(slices.Clone(tasks), func(t *store.Task) bool { return t.NodeID != node || !tasklife.Wanted(t) })
	if len(mine) == 0 {
		return nil
	}
	return slices.MaxFunc(mine, func(a, b *store.Task) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
}

// balance weighs nodes by their tasks of a service.
type balance struct {
	*demand
	now time.Time
	// calm: what changed later gets no task.
	calm time.Time
}

// tilt finds between which of the nodes a task should move; nil if they are even. It
// looks at the first preference that tells nodes apart, then among the nodes of each
// of its values.
func (b *balance) tilt(nodes []*node, preferences []string) (from, to *node) {
	if len(preferences) == 0 {
		from, to = b.fullest(nodes), b.emptiest(nodes)
		if to == nil || b.tasksOn(from)-b.tasksOn(to) < 2 {
			return nil, nil
		}
		return from, to
	}
	branches := split(nodes, preferences[0])
	slices.SortStableFunc(branches, func(x, y []*node) int { return cmp.Compare(b.tasksOn(x...), b.tasksOn(y...)) })
	for _, branch := range branches {
		full := branches[len(branches)-1]
		if to = b.emptiest(branch); to == nil {
			continue
		}
		if b.tasksOn(full...)-b.tasksOn(branch...) >= 2 {
			return b.fullest(full), to
		}
		break
	}
	for _, branch := range branches {
		if from, to = b.tilt(branch, preferences[1:]); to != nil {
			return from, to
		}
	}
	return nil, nil
}

// tasksOn counts the service's tasks on some nodes.
func (b *balance) tasksOn(nodes ...*node) (count int) {
	for _, n := range nodes {
		count += n.byService[b.version.service]
	}
	return count
}

// fullest is the node with the most tasks of the service.
func (b *balance) fullest(nodes []*node) *node {
	if len(nodes) == 0 {
		return nil
	}
	return slices.MaxFunc(nodes, func(x, y *node) int {
		return cmp.Or(cmp.Compare(b.tasksOn(x), b.tasksOn(y)), cmp.Compare(x.active, y.active), cmp.Compare(x.ID, y.ID))
	})
}

// emptiest is the node with the fewest tasks of the service, of those that can take one
// more and on which tasks did not keep failing; nil if there is none.
func (b *balance) emptiest(nodes []*node) (best *node) {
	for _, n := range nodes {
		if n.UpdatedAt.After(b.calm) || n.penalty(b.version, b.now) > 0 || !b.fits(n) {
			continue
		}
		if best == nil || cmp.Or(cmp.Compare(b.tasksOn(n), b.tasksOn(best)), cmp.Compare(n.active, best.active), cmp.Compare(n.ID, best.ID)) < 0 {
			best = n
		}
	}
	return best
}
