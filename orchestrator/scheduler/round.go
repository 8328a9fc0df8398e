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

// Round implements control.Loop.
func (l *Loop) Round(ctx context.Context) (time.Time, error) {
	if l.retry {
		for _, t := range slices.SortedFunc(maps.Values(l.stuck), byVersion) {
			l.await(t)
		}
		clear(l.stuck)
		l.retry = false
	}
	for len(l.queue) > 0 {
		if err := l.batch(ctx); err != nil {
			return time.Time{}, err
		}
	}
	return l.rebalance(ctx, time.Now().UTC())
}

// byVersion brings the tasks of one version together, in the order of their slots.
func byVersion(a, b *store.Task) int {
	return cmp.Or(cmp.Compare(a.ServiceID, b.ServiceID), cmp.Compare(a.SpecVersion, b.SpecVersion),
		cmp.Compare(a.Slot, b.Slot), cmp.Compare(a.ID, b.ID))
}

// result is what became of a task that waited.
type result struct {
	task *store.Task
	// reason is why no node qualifies; empty: it goes to one.
	reason   string
	node     string
	generics []swarm.GenericResource
	ports    []swarm.PortConfig
}

// batch places the first of the pending tasks.
func (l *Loop) batch(ctx context.Context) error {
	var tasks []*store.Task
	taken := 0
	for taken < len(l.queue) && len(tasks) < control.MaxBatch {
		if t := l.pending[l.queue[taken]]; t != nil {
			tasks = append(tasks, t)
		}
		taken++
	}
	slices.SortFunc(tasks, byVersion)
	now := time.Now().UTC()
	results := l.place(tasks, now)
	if err := l.propose(ctx, results, now); err != nil {
		for _, r := range results {
			l.leave(r.task.ID)
		}
		return err
	}
	if l.queue = l.queue[taken:]; len(l.queue) == 0 {
		l.queue = nil // what was taken can go
	}
	l.settle(results)
	return nil
}

// settle takes back what is not in the store now: then the task or its node changed
// meanwhile, and the event of that change brings it up again.
func (l *Loop) settle(results []result) {
	l.cfg.Store.View(func(v *store.View) {
		for _, r := range results {
			id := r.task.ID
			now := v.Task(id)
			delete(l.pending, id)
			if r.reason == "" && now != nil && tasklife.Placed(now) && now.NodeID == r.node {
				continue
			}
			l.leave(id)
			l.stuck[id] = r.task
		}
	})
}

// group are the tasks of one version in a batch.
type group struct {
	*demand
	order *order
	now   time.Time
	// crowded: nearly all nodes have tasks of the service; own is its own order, if it has one.
	crowded bool
	own     *order
	ranking *ranking // nil: not needed so far
	reason  string   // why no node is left
}

// place decides where the tasks go and enters them there.
func (l *Loop) place(tasks []*store.Task, now time.Time) []result {
	out := make([]result, 0, len(tasks))
	var g group
	for _, t := range tasks {
		if v := versionOf(t); g.demand == nil || g.version != v {
			d := l.demand(v)
			g = group{demand: d, order: l.orderOf(d), now: now}
		}
		out = append(out, l.placeOne(t, &g))
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

func (l *Loop) placeOne(t *store.Task, g *group) result {
	if t.NodeID == "" {
		return l.choose(t, g)
	}
	n, reason := l.bound(t.NodeID, g.demand) // a global service's
	if n == nil {
		return result{task: t, reason: reason}
	}
	return l.assign(t, n, g)
}

// bound is the node of a task that can run nowhere else, nil if it cannot run there.
func (l *Loop) bound(id string, d *demand) (*node, string) {
	n := l.nodes[id]
	switch {
	case n == nil:
		return nil, d.refusal(nil)
	case !d.fits(n):
		return nil, d.refusal([]*node{n})
	}
	return n, ""
}

// choose assigns the task to the best of all nodes, or says why none is left.
func (l *Loop) choose(t *store.Task, g *group) (r result) {
	if g.ranking == nil && len(g.preferences) == 0 {
		if n := l.first(g); n != nil {
			return l.assign(t, n, g)
		}
	}
	if g.reason != "" {
		return result{task: t, reason: g.reason}
	}
	if g.ranking == nil {
		g.ranking = rank(slices.Collect(maps.Keys(g.order.at)), g.demand, g.now)
	}
	if n := g.ranking.best(func(n *node) { r = l.assign(t, n, g) }); n == nil {
		g.reason = g.refusal(slices.SortedFunc(maps.Values(l.nodes), func(a, b *node) int { return cmp.Compare(a.ID, b.ID) }))
		return result{task: t, reason: g.reason}
	}
	return r
}

// first is the best of all nodes if that is found without a look at each, else nil.
func (l *Loop) first(g *group) *node {
	if !g.crowded {
		if n := g.order.first(g.demand, g.now); n != nil {
			return n
		}
		g.own, g.crowded = l.ownOrder(g.demand), true
	}
	if g.own == nil {
		return nil
	}
	return g.own.first(g.demand, g.now)
}

// assign gives the task to a node that fits, and enters it there.
func (l *Loop) assign(t *store.Task, n *node, g *group) result {
	r := result{task: t, node: n.ID}
	r.generics, _ = n.generics(g.reservation.GenericResources)
	r.ports, _ = n.give(g.demand)
	l.put(t.ID, n, use{share: l.share(versionOf(t)), active: tasklife.Wanted(t), own: ownOf(r.generics, portsOf(r.ports))})
	return r
}

// propose stores the results, leaving out what is not so any more.
func (l *Loop) propose(ctx context.Context, results []result, at time.Time) error {
	return store.Transact(ctx, l.cfg.Store, l.cfg.Proposer, func(tx *store.Tx) error {
		for _, r := range results {
			now := tx.Task(r.task.ID)
			if now == nil || !waits(now) {
				continue
			}
			if next := r.on(now, at); next != nil && (r.reason != "" || placement.Open(tx.Node(r.node))) {
				tx.Update(next)
			}
		}
		return nil
	})
}

// on is the task as it becomes by the result, nil if that changes nothing.
func (r result) on(now *store.Task, at time.Time) *store.Task {
	if r.reason == now.Status.Err && r.reason != "" || now.NodeID != "" && r.reason == "" && now.NodeID != r.node {
		return nil
	}
	next := *now
	if r.reason != "" {
		next.Status.Err = r.reason
		return &next
	}
	next.NodeID, next.GenericResources = r.node, r.generics
	next.Status = swarm.TaskStatus{Timestamp: at, State: swarm.TaskStateAssigned, Message: "scheduler assigned task to node"}
	next.Status.PortStatus.Ports = r.ports
	return &next
}
