package scheduler

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/store/storetest"
)

// Random clusters and services: the scheduler's choices against those of a look at
// every node for every task.
func TestPicksAreTheBest(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	owned := 0
	for range 30 {
		s, tasks := randomCluster(t, rng)
		var fast, slow Loop
		s.View(func(v *store.View) {
			fast.Reset(v)
			slow.Reset(v)
		})
		for len(tasks) > 0 {
			part := tasks[:min(len(tasks), 1+rng.IntN(30))]
			tasks = tasks[len(part):]
			now := time.Now()
			for i, r := range fast.place(part, now) {
				if want := slow.obvious(part[i], now); r.node != want || (r.reason == "") != (want != "") {
					t.Fatalf("task %s went to %q (%s), want %q", r.task.ID, r.node, r.reason, want)
				}
			}
		}
		owned += len(fast.orders.own)
	}
	if owned == 0 {
		t.Error("no service came to an order of its own")
	}
}

// obvious places a task by a look at every node.
func (l *Loop) obvious(t *store.Task, now time.Time) string {
	g := &group{demand: l.demand(versionOf(t)), now: now}
	var best *node
	for _, n := range l.nodes {
		if !g.fits(n) {
			continue
		}
		s := g.version.service
		if best == nil || cmp.Or(cmp.Compare(n.penalty(g.version, now), best.penalty(g.version, now)),
			cmp.Compare(n.byService[s], best.byService[s]), cmp.Compare(n.active, best.active), cmp.Compare(n.ID, best.ID)) < 0 {
			best = n
		}
	}
	if best == nil {
		return ""
	}
	return l.assign(t, best, g).node
}

// randomCluster has nodes with room for a few tasks, some services with and some
// without constraints, tasks that run already, and others to place.
func randomCluster(t *testing.T, rng *rand.Rand) (*store.Store, []*store.Task) {
	s, prop := storetest.New()
	var waiting []*store.Task
	nodes := 1 + rng.IntN(150)
	storetest.Do(t, s, prop, func(tx *store.Tx) {
		for i := range nodes {
			n := &store.Node{}
			n.ID = fmt.Sprintf("n%03d", i)
			n.Status.State, n.Spec.Availability = swarm.NodeStateReady, swarm.NodeAvailabilityActive
			if rng.IntN(10) == 0 {
				n.Spec.Availability = swarm.NodeAvailabilityPause
			}
			n.Spec.Labels = map[string]string{"zone": fmt.Sprint(rng.IntN(20))}
			n.Description.Resources.MemoryBytes = int64(rng.IntN(12))
			tx.Create(n)
		}
		for i := range 8 {
			svc := &store.Service{SpecVersion: 1}
			svc.ID = fmt.Sprint("s", i)
			tx.Create(svc)
			spec := &store.Spec{ServiceID: svc.ID, Number: 1}
			if rng.IntN(2) == 0 {
				spec.Template.Placement = &swarm.Placement{Constraints: []string{fmt.Sprint("node.labels.zone==", rng.IntN(20))}}
			}
			if rng.IntN(2) == 0 {
				spec.Template.Resources = &swarm.ResourceRequirements{Reservations: &swarm.Resources{MemoryBytes: 1}}
			}
			tx.Create(spec)
			for slot := range rng.IntN(2 * nodes) {
				task := pending(svc.ID, slot+1)
				if rng.IntN(4) == 0 {
					task.NodeID, task.Status.State = fmt.Sprintf("n%03d", rng.IntN(nodes)), swarm.TaskStateRunning
				} else {
					waiting = append(waiting, task)
				}
				tx.Create(task)
			}
		}
	})
	return s, waiting
}
