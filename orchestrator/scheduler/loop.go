package scheduler

import (
	"context"
	"log/slog"
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
}

// Loop places the tasks of the cluster.
type Loop struct {
	cfg    Config
	nodes  map[string]*node
	orders *orders
	// tasks are those entered on nodes.
	tasks  map[string]entry
	specs  map[version]*store.Spec
	shares map[version]*share
	// services are the ports of the services.
	services map[string]publications
	// pending are the tasks to place, queue their IDs in the order in which they
	// came, which may name some that are not; stuck those for which no node qualified.
	pending map[string]*store.Task
	queue   []string
	stuck   map[string]*store.Task
	// retry says that something changed which may help those that are stuck.
	retry bool
	// uneven is when to look whether a service's tasks can be spread better, of those
	// that ask for it.
	uneven map[string]time.Time
}

// entry is a task that is entered on a node.
type entry struct {
	use
	on *node
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
	services, tasks := v.Services(), v.Tasks()
	l.nodes, l.orders, l.tasks = map[string]*node{}, newOrders(), make(map[string]entry, len(tasks))
	l.specs, l.shares = make(map[version]*store.Spec, len(services)), make(map[version]*share, len(services))
	l.services = make(map[string]publications, len(services))
	l.pending, l.stuck, l.queue = map[string]*store.Task{}, map[string]*store.Task{}, nil
	l.uneven = map[string]time.Time{}
	for _, n := range v.Nodes() {
		l.observeNode(n, false)
	}
	for _, s := range services {
		l.observeService(s)
		for _, spec := range v.SpecsOf(s.ID) {
			l.specs[version{s.ID, spec.Number}] = spec
		}
	}
	for _, t := range tasks {
		if spec := v.Spec(t.ServiceID, t.SpecVersion); spec != nil {
			l.specs[versionOf(t)] = spec // of a removed service, too
		}
		l.observeTask(nil, t)
	}
	slices.SortFunc(l.queue, func(a, b string) int { return byVersion(l.pending[a], l.pending[b]) })
}

// Observe implements control.Loop.
func (l *Loop) Observe(e store.Event) {
	gone := e.New == nil
	switch o := e.Object().(type) {
	case *store.Node:
		l.observeNode(o, gone)
	case *store.Spec:
		v := version{o.ServiceID, o.Number}
		if l.specs[v] = o; gone {
			delete(l.specs, v)
			delete(l.shares, v)
			l.orders.forget(v)
		}
	case *store.Service:
		if l.observeService(o); gone {
			delete(l.services, o.ID)
			delete(l.uneven, o.ID)
		}
	case *store.Task:
		l.lookAgain(o.ServiceID)
		if gone {
			l.forget(o.ID)
			return
		}
		old, _ := e.Old.(*store.Task)
		l.observeTask(old, o)
	}
}

func (l *Loop) observeNode(o *store.Node, gone bool) {
	l.retry = true
	for id := range l.uneven {
		l.lookAgain(id)
	}
	n := l.nodes[o.ID]
	switch {
	case n == nil:
		n = newNode(o)
		l.nodes[o.ID] = n
	default:
		n.Node = o
	}
	if gone {
		delete(l.nodes, o.ID)
	}
	l.orders.each(func(o *order) { o.look(n, gone) })
}

func (l *Loop) observeService(s *store.Service) {
	l.services[s.ID] = publicationsOf(s)
	l.observeBalance(s)
}

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
		l.await(t)
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

// await puts a task among those to place.
func (l *Loop) await(t *store.Task) {
	if l.pending[t.ID] == nil {
		l.queue = append(l.queue, t.ID)
	}
	l.pending[t.ID] = t
}

// waits says whether the task is to be placed.
func waits(t *store.Task) bool {
	return t.Status.State == swarm.TaskStatePending && tasklife.Wanted(t)
}

func versionOf(t *store.Task) version { return version{t.ServiceID, t.SpecVersion} }

// share is what tasks of a version take.
func (l *Loop) share(v version) *share {
	s := l.shares[v]
	if s != nil {
		return s
	}
	s = &share{version: v}
	spec := l.specs[v]
	if spec == nil {
		return s
	}
	if r := spec.Template.Resources; r != nil && r.Reservations != nil {
		s.cpus, s.memory = r.Reservations.NanoCPUs, r.Reservations.MemoryBytes
	}
	l.shares[v] = s
	return s
}

// enter counts the task on its node.
func (l *Loop) enter(t *store.Task) {
	n, before := l.nodes[t.NodeID], l.tasks[t.ID]
	if before.on != nil && before.on != n {
		l.leave(t.ID)
		before = entry{}
	}
	if n == nil {
		return
	}
	u := use{share: l.share(versionOf(t)), active: tasklife.Wanted(t)}
	if before.on == nil {
		ports := portsOf(t.Status.PortStatus.Ports)
		if len(ports) == 0 { // placed by an earlier version
			ports = portsOf(l.services[t.ServiceID].host)
		}
		u.own = ownOf(t.GenericResources, ports)
	} else {
		if before.active == u.active && before.version == u.version {
			return
		}
		u.own = before.own // the task keeps what it started with
		n.put(t.ID, before.use, -1)
		l.retry = l.retry || before.active && !u.active
	}
	l.put(t.ID, n, u)
}

func (l *Loop) put(id string, n *node, u use) {
	n.put(id, u, 1)
	l.tasks[id] = entry{u, n}
	l.move(n)
}

func (l *Loop) move(n *node) { l.orders.each(func(o *order) { o.move(n) }) }

// leave takes a task off its node, and says whether it was on one.
func (l *Loop) leave(id string) bool {
	e := l.tasks[id]
	if e.on == nil {
		return false
	}
	delete(l.tasks, id)
	e.on.put(id, e.use, -1)
	l.move(e.on)
	return true
}

func (l *Loop) forget(id string) {
	delete(l.pending, id)
	delete(l.stuck, id)
	l.retry = l.leave(id) || l.retry
}
