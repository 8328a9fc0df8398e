package scheduler

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/control"
	"github.com/meshd/meshd/orchestrator/placement"
	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/tasklife"
)

// Config is what the loop works with.
type Config struct {
	Store    *store.Store
	Proposer store.Proposer
	Log      *slog.Logger
}

// Loop places the tasks of the cluster.
type Loop struct {
	cfg   Config
	nodes map[string]*node
	// placed says on which node a task is entered.
	placed map[string]string
	specs  map[version]*store.Spec
	// services are the ports of the services.
	services map[string]publications
	// pending are the tasks to place, stuck those for which no node qualified.
	pending map[string]*store.Task
	stuck   map[string]*store.Task
	// retry says that something changed which may help those that are stuck.
	retry bool
}

// New returns the loop. It belongs to the leader.
func New(cfg Config) *Loop {
	cfg.Log = cfg.Log.With("loop", "scheduler")
	return &Loop{cfg: cfg}
}

// Run works until ctx is done.
func (l *Loop) Run(ctx context.Context) error {
	return control.Run(ctx, l.cfg.Store, l.cfg.Log, l)
}

// Reset implements control.Loop.
func (l *Loop) Reset(v *store.View) {
	l.nodes, l.placed = map[string]*node{}, map[string]string{}
	l.specs, l.services = map[version]*store.Spec{}, map[string]publications{}
	l.pending, l.stuck = map[string]*store.Task{}, map[string]*store.Task{}
	for _, n := range v.Nodes() {
		l.nodes[n.ID] = newNode(n)
	}
	for _, s := range v.Services() {
		l.observeService(s)
		for _, spec := range v.SpecsOf(s.ID) {
			l.specs[version{s.ID, spec.Number}] = spec
		}
	}
	for _, t := range v.Tasks() {
		if spec := v.Spec(t.ServiceID, t.SpecVersion); spec != nil {
			l.specs[versionOf(t)] = spec // of a removed service, too
		}
		l.observeTask(nil, t)
	}
}

// Observe implements control.Loop.
func (l *Loop) Observe(e store.Event) {
	gone := e.New == nil
	switch o := e.Object().(type) {
	case *store.Node:
		l.retry = true
		switch {
		case gone:
			delete(l.nodes, o.ID)
		case l.nodes[o.ID] == nil:
			l.nodes[o.ID] = newNode(o)
		default:
			l.nodes[o.ID].Node = o
		}
	case *store.Spec:
		v := version{o.ServiceID, o.Number}
		if l.specs[v] = o; gone {
			delete(l.specs, v)
		}
	case *store.Service:
		if l.observeService(o); gone {
			delete(l.services, o.ID)
		}
	case *store.Task:
		if gone {
			l.forget(o.ID)
			return
		}
		old, _ := e.Old.(*store.Task)
		l.observeTask(old, o)
	}
}

func (l *Loop) observeService(s *store.Service) { l.services[s.ID] = publicationsOf(s) }

func (l *Loop) observeTask(old, t *store.Task) {
	if tasklife.Failed(t) && (old == nil || !tasklife.Failed(old)) {
		if n := l.nodes[t.NodeID]; n != nil {
			n.fail(versionOf(t), t.UpdatedAt)
		}
	}
	if waits(t) {
		if l.stuck[t.ID] != nil {
			l.stuck[t.ID] = t // as it is now; retried when something helps
			return
		}
		l.pending[t.ID] = t
		return
	}
	delete(l.pending, t.ID)
	delete(l.stuck, t.ID)
	if t.NodeID == "" || tasklife.Ended(t) || !tasklife.Placed(t) {
		l.forget(t.ID)
		return
	}
	l.enter(t)
}

// waits says whether the task is to be placed.
func waits(t *store.Task) bool {
	return t.Status.State == swarm.TaskStatePending && tasklife.Wanted(t)
}

func versionOf(t *store.Task) version { return version{t.ServiceID, t.SpecVersion} }

// enter counts the task on its node.
func (l *Loop) enter(t *store.Task) {
	if on := l.placed[t.ID]; on != "" && on != t.NodeID {
		l.forget(t.ID)
	}
	n := l.nodes[t.NodeID]
	if n == nil {
		return
	}
	u := use{version: versionOf(t), active: tasklife.Wanted(t), generics: t.GenericResources, ports: portsOf(t.Status.PortStatus.Ports)}
	if len(u.ports) == 0 { // placed by an earlier version
		u.ports = portsOf(l.services[t.ServiceID].host)
	}
	if before, known := n.tasks[t.ID]; known {
		u.ports = before.ports // the task keeps what it started with
	}
	if s := l.specs[u.version]; s != nil && s.Template.Resources != nil && s.Template.Resources.Reservations != nil {
		u.cpus = s.Template.Resources.Reservations.NanoCPUs
		u.memory = s.Template.Resources.Reservations.MemoryBytes
	}
	if before, known := n.tasks[t.ID]; known && before.active && !u.active {
		l.retry = true
	}
	n.put(t.ID, u)
	l.placed[t.ID] = t.NodeID
}

func (l *Loop) forget(id string) {
	delete(l.pending, id)
	delete(l.stuck, id)
	if n := l.nodes[l.placed[id]]; n != nil && n.drop(id) {
		l.retry = true
	}
	delete(l.placed, id)
}

// Round implements control.Loop.
func (l *Loop) Round(ctx context.Context) (time.Time, error) {
	if l.retry {
		maps.Copy(l.pending, l.stuck)
		clear(l.stuck)
		l.retry = false
	}
	for len(l.pending) > 0 {
		if err := l.batch(ctx); err != nil {
			return time.Time{}, err
		}
	}
	return time.Time{}, nil
}

// result is what became of a task: a placed copy, or one that says why not.
type result struct {
	task   *store.Task
	reason string
}

// batch places some of the pending tasks, those of one version together.
func (l *Loop) batch(ctx context.Context) error {
	tasks := slices.SortedFunc(maps.Values(l.pending), func(a, b *store.Task) int {
		return cmp.Or(cmp.Compare(a.ServiceID, b.ServiceID), cmp.Compare(a.SpecVersion, b.SpecVersion),
			cmp.Compare(a.Slot, b.Slot), cmp.Compare(a.ID, b.ID))
	})
	tasks = tasks[:min(len(tasks), control.MaxBatch)]
	results := l.place(tasks, time.Now().UTC())
	err := l.propose(ctx, results)
	for _, r := range results {
		id := r.task.ID
		placed := err == nil && r.reason == "" && l.stored(r.task)
		if !placed {
			l.undo(id)
		}
		if err == nil {
			delete(l.pending, id)
			if !placed {
				l.stuck[id] = r.task
			}
		}
	}
	return err
}

// stored says whether the placement is in the store now. If not, the task or its
// node changed meanwhile, and the event of that change brings it up again.
func (l *Loop) stored(t *store.Task) (ok bool) {
	l.cfg.Store.View(func(v *store.View) {
		now := v.Task(t.ID)
		ok = now != nil && tasklife.Placed(now) && now.NodeID == t.NodeID
	})
	return ok
}

// undo takes a task off the node that it was entered on.
func (l *Loop) undo(id string) {
	if n := l.nodes[l.placed[id]]; n != nil {
		n.drop(id)
	}
	delete(l.placed, id)
}

// place decides where the tasks go and enters them there.
func (l *Loop) place(tasks []*store.Task, now time.Time) []result {
	all := slices.SortedFunc(maps.Values(l.nodes), func(a, b *node) int { return cmp.Compare(a.ID, b.ID) })
	demands := map[version]*demand{}
	out := make([]result, 0, len(tasks))
	for _, t := range tasks {
		v := versionOf(t)
		d := demands[v]
		if d == nil {
			d = l.demand(v)
			demands[v] = d
		}
		out = append(out, l.placeOne(t, d, all, now))
	}
	return out
}

func (l *Loop) demand(v version) *demand {
	s := l.specs[v]
	if s == nil {
		return &demand{version: v}
	}
	d := demandOf(v, &s.Template, l.services[v.service].host)
	d.names = l.services
	if len(d.ports) > 0 {
		d.meshed = meshed(l.services)
	}
	return &d
}

func (l *Loop) placeOne(t *store.Task, d *demand, all []*node, now time.Time) result {
	next := *t
	if t.NodeID != "" { // a global service's
		all = slices.DeleteFunc(slices.Clone(all), func(n *node) bool { return n.ID != t.NodeID })
	}
	candidates, reason := qualify(all, d)
	if reason != "" {
		next.Status.Err = reason
		return result{&next, reason}
	}
	n := choose(candidates, d, now)
	next.NodeID = n.ID
	next.GenericResources, _ = n.generics(d.reservation.GenericResources)
	next.Status = swarm.TaskStatus{Timestamp: now, State: swarm.TaskStateAssigned, Message: "scheduler assigned task to node"}
	next.Status.PortStatus.Ports, _ = n.give(d)
	l.enter(&next)
	return result{task: &next}
}

// propose stores the results, leaving out what is not so any more.
func (l *Loop) propose(ctx context.Context, results []result) error {
	return store.Transact(ctx, l.cfg.Store, l.cfg.Proposer, func(tx *store.Tx) error {
		for _, r := range results {
			now := tx.Task(r.task.ID)
			if now == nil || !waits(now) || now.NodeID != "" && now.NodeID != r.task.NodeID {
				continue
			}
			next := *now
			switch {
			case r.reason == "" && !placement.Open(tx.Node(r.task.NodeID)):
				continue
			case r.reason == "":
				next.NodeID, next.Status, next.GenericResources = r.task.NodeID, r.task.Status, r.task.GenericResources
			case now.Status.Err == r.reason:
				continue
			default:
				next.Status.Err = r.reason
			}
			tx.Update(&next)
		}
		return nil
	})
}
