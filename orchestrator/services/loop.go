package services

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/control"
	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/tasklife"
)

// Config is what the loop works with.
type Config struct {
	Store    *store.Store
	Proposer store.Proposer
	Log      *slog.Logger
	// Serving says of running tasks in a view whether all nodes whose clients may
	// turn to them know; nil: to run is enough.
	Serving func(v *store.View) func(*store.Task) bool
}

// Loop keeps the tasks of all services.
type Loop struct {
	cfg Config
	// dirty are the services to decide about, nodes the nodes that changed, wake
	// the services to look at again later.
	dirty map[string]bool
	nodes map[string]bool
	wake  map[string]time.Time
	pace  control.Pace
}

// New returns the loop. It belongs to the leader.
func New(cfg Config) *Loop { return &Loop{cfg: cfg} }

// Run works until ctx is done.
func (l *Loop) Run(ctx context.Context) error {
	return control.Run(ctx, l.cfg.Store, l.cfg.Log.With("loop", "services"), l)
}

// Reset implements control.Loop.
func (l *Loop) Reset(v *store.View) {
	l.dirty, l.nodes, l.wake = map[string]bool{}, map[string]bool{}, map[string]time.Time{}
	l.pace = control.Pace{}
	for _, s := range v.Services() {
		l.dirty[s.ID] = true
	}
	for _, t := range v.Tasks() {
		l.dirty[t.ServiceID] = true
	}
}

// Observe implements control.Loop.
func (l *Loop) Observe(e store.Event) {
	switch o := e.Object().(type) {
	case *store.Service:
		l.dirty[o.ID] = true
	case *store.Task:
		old, _ := e.Old.(*store.Task)
		if e.New == nil || old == nil || stage(old) != stage(o) ||
			old.DesiredState != o.DesiredState || old.NodeID != o.NodeID || old.MovesTo != o.MovesTo {
			l.dirty[o.ServiceID] = true
		}
	case *store.Node:
		l.nodes[o.ID] = true
	}
}

// stage is a task's state as far as decisions follow from it: a task goes through
// four more between its assignment and its run, each of which would cost a look at
// the whole service.
func stage(t *store.Task) swarm.TaskState {
	switch {
	case !tasklife.Placed(t):
		return swarm.TaskStateNew
	case tasklife.Before(t.Status.State, swarm.TaskStateRunning):
		return swarm.TaskStateAssigned
	}
	return t.Status.State
}

// Round implements control.Loop.
func (l *Loop) Round(ctx context.Context) (time.Time, error) {
	now := time.Now()
	for id, at := range l.wake {
		if !at.After(now) {
			l.dirty[id] = true
			delete(l.wake, id)
		}
	}
	l.spreadNodes()
	delete(l.dirty, "") // tasks of no service are not ours
	due, again := l.pace.Due(l.dirty, now)
	for len(due) > 0 {
		if err := l.batch(ctx, due); err != nil {
			return time.Time{}, err
		}
	}
	for _, at := range l.wake {
		again = control.Earlier(again, at)
	}
	return again, nil
}

// spreadNodes marks the services that changed nodes concern: those with tasks
// there, and the global ones.
func (l *Loop) spreadNodes() {
	if len(l.nodes) == 0 {
		return
	}
	l.cfg.Store.View(func(v *store.View) {
		for id := range l.nodes {
			for _, t := range v.TasksOnNode(id) {
				l.dirty[t.ServiceID] = true
			}
		}
		for _, s := range v.Services() {
			if s.Spec.Mode.Global != nil || s.Spec.Mode.GlobalJob != nil {
				l.dirty[s.ID] = true
			}
		}
	})
	clear(l.nodes)
}

// look is what came of looking at a service.
type look struct {
	tasks int
	again time.Time
}

// batch decides about services that are due until a batch is full. What it changes
// comes back as events, which is how a service that did not fit in goes on.
func (l *Loop) batch(ctx context.Context, due map[string]bool) error {
	var seen map[string]look
	err := store.Transact(ctx, l.cfg.Store, l.cfg.Proposer, func(tx *store.Tx) error {
		seen = map[string]look{}
		nodes := make(map[string]*store.Node)
		for _, n := range tx.Nodes() {
			nodes[n.ID] = n
		}
		var serving func(*store.Task) bool
		if l.cfg.Serving != nil {
			serving = l.cfg.Serving(tx.View)
		}
		for _, id := range slices.Sorted(maps.Keys(due)) {
			if tx.Len() >= control.MaxBatch {
				break
			}
			tasks := tx.TasksOfService(id)
			d := decide(picture{
				id: id, service: tx.Service(id), tasks: tasks, specs: tx.SpecsOf(id), nodes: nodes, serving: serving,
				now: time.Now().UTC(),
			})
			seen[id] = look{len(tasks), d.again}
			apply(tx, d)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for id, s := range seen {
		delete(due, id)
		delete(l.dirty, id)
		delete(l.wake, id)
		l.pace.Looked(id, s.tasks, time.Now())
		if !s.again.IsZero() {
			l.wake[id] = s.again
		}
	}
	return nil
}

func apply(tx *store.Tx, d decision) {
	if d.spec != nil {
		tx.Create(d.spec)
	}
	if d.service != nil {
		tx.Update(d.service)
	}
	changed := map[string]*store.Task{}
	for _, st := range d.steps {
		if tx.Len()+len(changed) >= control.MaxBatch {
			break
		}
		for _, t := range st.update {
			merge(changed, t)
		}
		if st.create != nil {
			tx.Create(st.create)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(changed)) {
		tx.Update(changed[id])
	}
}

// merge keeps one change of each task: a promotion and a shutdown of one task in
// one decision come down to the shutdown, the later in the task's life.
func merge(changed map[string]*store.Task, t *store.Task) {
	old := changed[t.ID]
	if old == nil || tasklife.Before(old.DesiredState, t.DesiredState) {
		changed[t.ID] = t
	}
}
