package services

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/schedule"
	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/store/storetest"
	"github.com/meshd/meshd/orchestrator/tasklife"
)

// world is a cluster whose scheduler and agents are this test. It lives in a
// synctest bubble: time passes only in pass.
type world struct {
	*testing.T
	store *store.Store
	prop  *storetest.Proposer
	next  int
	// broken says which version of the template fails when it starts.
	broken uint64
	// slow says that jobs' tasks do not complete by themselves.
	slow bool
	// idle says that agents do nothing.
	idle bool
	// deaf says that some node takes in no news of tasks that run.
	deaf bool
}

func inWorld(t *testing.T, fn func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		s, prop := storetest.New()
		w := &world{T: t, store: s, prop: prop}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		loop := New(Config{
			Store: s, Proposer: prop, Log: slog.New(slog.DiscardHandler),
			Serving: func(*store.View) func(*store.Task) bool {
				return func(*store.Task) bool { return !w.deaf }
			},
		})
		go func() { done <- loop.Run(ctx) }()
		fn(w)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func (w *world) do(fn func(tx *store.Tx)) {
	w.Helper()
	storetest.Do(w, w.store, w.prop, fn)
	synctest.Wait()
}

// pass lets time go by, in which agents work.
func (w *world) pass(d time.Duration) {
	w.Helper()
	const tick = 100 * time.Millisecond
	for range d / tick {
		<-time.After(tick)
		synctest.Wait()
		w.agents()
	}
}

// agents do at once what the desired states ask for.
func (w *world) agents() {
	if w.idle {
		return
	}
	w.do(func(tx *store.Tx) {
		for _, t := range tx.Tasks() {
			n := *t
			if n.NodeID == "" {
				n.NodeID = w.pick(tx)
			}
			if node := tx.Node(n.NodeID); node == nil || node.Status.State != swarm.NodeStateReady {
				continue
			}
			switch {
			case tasklife.Ended(t):
				continue
			case !tasklife.Wanted(t):
				n.Status.State = swarm.TaskStateShutdown
			case t.DesiredState == swarm.TaskStateReady:
				n.Status.State = swarm.TaskStateReady
			case t.SpecVersion == w.broken:
				n.Status.State = swarm.TaskStateFailed
			case t.DesiredState == swarm.TaskStateComplete && t.Status.State == swarm.TaskStateRunning && !w.slow:
				n.Status.State = swarm.TaskStateComplete
			default:
				n.Status.State = swarm.TaskStateRunning
			}
			if n.Status.State != t.Status.State {
				tx.Update(&n)
			}
		}
	})
}

func (w *world) pick(tx *store.Tx) string {
	nodes := tx.Nodes()
	for range nodes {
		w.next++
		if n := nodes[w.next%len(nodes)]; n.Status.State == swarm.NodeStateReady && n.Spec.Availability == swarm.NodeAvailabilityActive {
			return n.ID
		}
	}
	return ""
}

func (w *world) nodes(n int) {
	w.do(func(tx *store.Tx) {
		for i := range n {
			n := &store.Node{}
			n.ID = fmt.Sprintf("n%d", i+1)
			n.Status.State = swarm.NodeStateReady
			n.Spec.Availability = swarm.NodeAvailabilityActive
			tx.Create(n)
		}
	})
}

func (w *world) node(id string, change func(*store.Node)) {
	w.do(func(tx *store.Tx) {
		n := *tx.Node(id)
		change(&n)
		tx.Update(&n)
	})
}

func down(n *store.Node)  { n.Status.State = swarm.NodeStateDown }
func drain(n *store.Node) { n.Spec.Availability = swarm.NodeAvailabilityDrain }

func replicas(n uint64) swarm.ServiceMode {
	return swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: &n}}
}

// create makes service "web" with the mode.
func (w *world) create(mode swarm.ServiceMode, change func(*swarm.ServiceSpec)) {
	s := &store.Service{SpecVersion: 1}
	s.ID, s.Spec.Name, s.Spec.Mode = "svc", "web", mode
	if change != nil {
		change(&s.Spec)
	}
	switch {
	case s.Spec.Labels[schedule.Label] != "":
		s.JobStatus, s.Schedule = &swarm.JobStatus{}, &store.Schedule{Since: time.Now().UTC()}
	case isJob(mode):
		s.JobStatus = &swarm.JobStatus{LastExecution: time.Now()}
	}
	w.do(func(tx *store.Tx) {
		tx.Create(s)
		tx.Create(&store.Spec{ServiceID: s.ID, Number: 1, Template: s.Spec.TaskTemplate})
	})
}

// update does what the API does on a service update.
func (w *world) update(change func(*swarm.ServiceSpec)) {
	w.do(func(tx *store.Tx) {
		s := *tx.Service("svc")
		prev := s.Spec
		s.PreviousSpec, s.UpdateStatus = &prev, nil
		if s.JobStatus != nil {
			s.JobStatus = &swarm.JobStatus{JobIteration: swarm.Version{Index: s.JobStatus.JobIteration.Index + 1}, LastExecution: time.Now()}
		}
		change(&s.Spec)
		if s.Spec.TaskTemplate.ForceUpdate != prev.TaskTemplate.ForceUpdate {
			s.SpecVersion = uint64(len(tx.SpecsOf("svc")) + 1)
			tx.Create(&store.Spec{ServiceID: s.ID, Number: s.SpecVersion, Template: s.Spec.TaskTemplate})
		}
		tx.Update(&s)
	})
}

func force(s *swarm.ServiceSpec) { s.TaskTemplate.ForceUpdate++ }

func (w *world) service() (s *store.Service) {
	w.store.View(func(v *store.View) { s = v.Service("svc") })
	return s
}

// tasks lists the tasks that satisfy ok.
func (w *world) tasks(ok func(*store.Task) bool) (out []*store.Task) {
	w.store.View(func(v *store.View) {
		for _, t := range v.TasksOfService("svc") {
			if ok(t) {
				out = append(out, t)
			}
		}
	})
	return out
}

func running(t *store.Task) bool {
	return t.Status.State == swarm.TaskStateRunning && t.DesiredState == swarm.TaskStateRunning
}

func at(version uint64) func(*store.Task) bool {
	return func(t *store.Task) bool { return running(t) && t.SpecVersion == version }
}

func all(*store.Task) bool { return true }

func (w *world) want(n int, what string, ok func(*store.Task) bool) {
	w.Helper()
	if got := len(w.tasks(ok)); got != n {
		for _, t := range w.tasks(all) {
			w.Logf("task %s slot %d node %s v%d: %s, desired %s", t.ID[20:], t.Slot, t.NodeID, t.SpecVersion, t.Status.State, t.DesiredState)
		}
		w.Fatalf("%d tasks %s, want %d (update %+v)", got, what, n, w.service())
	}
}

// end makes the agent report an end of a running task.
func (w *world) end(t *store.Task, state swarm.TaskState) {
	w.do(func(tx *store.Tx) {
		n := *tx.Task(t.ID)
		n.Status.State = state
		tx.Update(&n)
	})
}
