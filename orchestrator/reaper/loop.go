package reaper

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/meshd/meshd/orchestrator/control"
	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/tasklife"
)

// Config is what the loop works with.
type Config struct {
	Store    *store.Store
	Proposer store.Proposer
	Log      *slog.Logger
}

// Loop cleans up behind the services.
type Loop struct {
	cfg Config
	// dirty are the services to look at, nodes the nodes that changed, all says
	// that every service must be looked at.
	dirty map[string]bool
	nodes map[string]bool
	all   bool
	pace  control.Pace
	// ages says when the next task of a service will be too old.
	ages map[string]time.Time
}

// New returns the loop. It belongs to the leader.
func New(cfg Config) *Loop { return &Loop{cfg: cfg} }

// Run works until ctx is done.
func (l *Loop) Run(ctx context.Context) error {
	return control.Run(ctx, l.cfg.Store, l.cfg.Log.With("loop", "reaper"), l)
}

// Reset implements control.Loop.
func (l *Loop) Reset(*store.View) {
	l.dirty, l.nodes, l.all, l.pace = map[string]bool{}, map[string]bool{}, true, control.Pace{}
	l.ages = map[string]time.Time{}
}

// Observe implements control.Loop.
func (l *Loop) Observe(e store.Event) {
	switch o := e.Object().(type) {
	case *store.Cluster:
		old, _ := e.Old.(*store.Cluster)
		l.all = l.all || limitOf(old) != limitOf(o)
	case *store.Service:
		l.dirty[o.ID] = true
	case *store.Task:
		old, _ := e.Old.(*store.Task)
		if old == nil || old.DesiredState != o.DesiredState || old.Status.State != o.Status.State && mayGo(o) {
			l.dirty[o.ServiceID] = true
		}
	case *store.Spec:
		l.dirty[o.ServiceID] = true
	case *store.Node:
		l.nodes[o.ID] = true
	}
}

// mayGo says that a task's new state may allow to remove one. On its way to run it
// does not, and a look at the whole service is not cheap.
func mayGo(t *store.Task) bool { return tasklife.Ended(t) || !tasklife.Wanted(t) }

// Round implements control.Loop.
func (l *Loop) Round(ctx context.Context) (time.Time, error) {
	if err := l.detach(ctx); err != nil {
		return time.Time{}, err
	}
	l.cfg.Store.View(l.spread)
	now := time.Now()
	for id, at := range l.ages {
		if !at.After(now) {
			l.dirty[id] = true
			delete(l.ages, id)
		}
	}
	due, again := l.pace.Due(l.dirty, now)
	for len(due) > 0 {
		if err := l.batch(ctx, due, now); err != nil {
			return time.Time{}, err
		}
	}
	for _, at := range l.ages {
		again = control.Earlier(again, at)
	}
	return again, nil
}

// spread turns what is wider than a service into services.
func (l *Loop) spread(v *store.View) {
	if l.all {
		for _, s := range v.Services() {
			l.dirty[s.ID] = true
		}
		for _, t := range v.Tasks() {
			l.dirty[t.ServiceID] = true
		}
		l.all = false
	}
	for id := range l.nodes {
		for _, t := range v.TasksOnNode(id) {
			l.dirty[t.ServiceID] = true
		}
	}
	clear(l.nodes)
}

// batch cleans up behind services that are due until a batch is full. One that did
// not fit in stays so.
func (l *Loop) batch(ctx context.Context, due map[string]bool, now time.Time) error {
	type look struct {
		tasks int
		again time.Time
	}
	done := map[string]look{}
	err := store.Transact(ctx, l.cfg.Store, l.cfg.Proposer, func(tx *store.Tx) error {
		clear(done)
		limit := limitOf(tx.Cluster())
		for _, id := range slices.Sorted(maps.Keys(due)) {
			tasks := tx.TasksOfService(id)
			again, whole := clean(tx, id, tasks, retention{limit: limit, now: now})
			if !whole {
				break
			}
			done[id] = look{len(tasks), again}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for id, look := range done {
		delete(due, id)
		delete(l.dirty, id)
		l.pace.Looked(id, look.tasks, time.Now())
		if delete(l.ages, id); !look.again.IsZero() {
			l.ages[id] = look.again
		}
	}
	return nil
}

// clean removes what it may of one service, and says when to look again though nothing
// happens; false if the batch is full before that.
func clean(tx *store.Tx, id string, tasks []*store.Task, keep retention) (again time.Time, whole bool) {
	svc := tx.Service(id)
	if svc != nil {
		keep.age, _ = KeepsFor(&svc.Spec) // the API lets no other labels in
	}
	dead, again := deadTasks(svc, tasks, tx.Node, keep)
	for _, t := range dead {
		if tx.Len() >= control.MaxBatch {
			return again, false
		}
		tx.Remove(t)
	}
	if id == "" {
		return again, true // tasks of no service
	}
	for _, s := range deadSpecs(svc, tx.SpecsOf(id), tasks, dead) {
		if tx.Len() >= control.MaxBatch {
			return again, false
		}
		tx.Remove(s)
	}
	return again, true
}
