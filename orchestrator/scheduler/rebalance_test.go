package scheduler

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/placement"
	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/tasklife"
)

func rebalanced(s *swarm.ServiceSpec) {
	s.Labels = map[string]string{placement.LabelRebalance: "auto"}
}

// run has all placed tasks of a service run.
func (w *world) run() {
	w.do(func(tx *store.Tx) {
		for _, t := range tx.Tasks() {
			if t.Status.State == swarm.TaskStateAssigned {
				next := *t
				next.Status.State = swarm.TaskStateRunning
				tx.Update(&next)
			}
		}
	})
}

// wait lets time go by.
func (w *world) wait(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// moving are the tasks that are to go elsewhere.
func (w *world) moving() (out []*store.Task) {
	w.store.View(func(v *store.View) {
		for _, t := range v.Tasks() {
			if t.MovesTo != "" && tasklife.Wanted(t) {
				out = append(out, t)
			}
		}
	})
	return out
}

// follow does what the service loop and agents do about tasks that move, one after the
// other, and returns how many moved before there was peace.
func (w *world) follow(service string) (moves int) {
	w.Helper()
	for slot := 1000; ; slot++ {
		w.wait(time.Minute)
		now := w.moving()
		switch {
		case len(now) == 0:
			return moves
		case len(now) > 1:
			w.Fatalf("%d tasks move at once", len(now))
		case moves > 50:
			w.Fatal("it never ends")
		}
		moves++
		w.change(now[0].ID, func(t *store.Task) {
			t.DesiredState, t.Status.State = swarm.TaskStateShutdown, swarm.TaskStateShutdown
		})
		w.tasks(service, slot, slot)
		w.run()
	}
}

func TestTasksMoveToAnEmptierNode(t *testing.T) {
	inWorld(t, func(w *world) {
		w.nodes(1, 2, nil)
		w.service("web", rebalanced)
		w.service("still", nil)
		w.tasks("web", 1, 6)
		w.tasks("still", 1, 6)
		w.run()
		w.wait(time.Hour)
		w.nodes(3, 3, nil)
		if moves := w.follow("web"); moves != 2 {
			t.Errorf("%d tasks moved", moves)
		}
		w.wantSpread("web", map[string]int{"n1": 2, "n2": 2, "n3": 2})
		w.wantSpread("still", map[string]int{"n1": 3, "n2": 3})
	})
}

func TestMovesWaitForRest(t *testing.T) {
	inWorld(t, func(w *world) {
		w.nodes(1, 1, nil)
		w.service("web", func(s *swarm.ServiceSpec) {
			rebalanced(s)
			s.UpdateConfig = &swarm.UpdateConfig{Monitor: 10 * time.Second, Delay: 5 * time.Second}
		})
		w.tasks("web", 1, 4)
		w.run()
		w.wait(time.Hour)
		w.nodes(2, 2, nil)
		w.wait(14 * time.Second)
		if n := len(w.moving()); n != 0 {
			t.Errorf("%d tasks move to a node that is 14 s old", n)
		}
		w.change("web.001", func(t *store.Task) { t.DesiredState, t.Status.State = swarm.TaskStateShutdown, swarm.TaskStateFailed })
		w.tasks("web", 5, 5) // a task that does not run yet
		w.wait(time.Hour)
		if n := len(w.moving()); n != 0 {
			t.Errorf("%d tasks move while another starts", n)
		}
		w.run()
		w.wait(17 * time.Second)
		if n := len(w.moving()); n != 1 {
			t.Errorf("%d tasks move, want 1", n)
		}
	})
}

func TestNoMoveWithoutRoomOrUse(t *testing.T) {
	for name, tc := range map[string]struct {
		spec func(*swarm.ServiceSpec)
		node func(int, *store.Node)
		left int // tasks of the service on the first node
	}{
		"a difference of one": {left: 1},
		"no resources": {left: 4, spec: func(s *swarm.ServiceSpec) {
			s.TaskTemplate.Resources = &swarm.ResourceRequirements{Reservations: &swarm.Resources{MemoryBytes: 1 << 30}}
		}},
		"not allowed": {left: 4, spec: func(s *swarm.ServiceSpec) {
			s.TaskTemplate.Placement = &swarm.Placement{Constraints: []string{"node.id!=n2"}}
		}},
		"paused": {left: 4, node: func(_ int, n *store.Node) { n.Spec.Availability = swarm.NodeAvailabilityPause }},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.nodes(1, 1, func(_ int, n *store.Node) { n.Description.Resources.MemoryBytes = 64 << 30 })
				w.service("web", func(s *swarm.ServiceSpec) {
					rebalanced(s)
					if tc.spec != nil {
						tc.spec(s)
					}
				})
				w.tasks("web", 1, tc.left)
				w.run()
				w.nodes(2, 2, tc.node)
				if moves := w.follow("web"); moves != 0 {
					t.Errorf("%d tasks moved: %v", moves, w.spread("web"))
				}
			})
		})
	}
}

// A loop that has not heard yet of what the store has moves nothing.
func TestNoMoveOfWhatIsGone(t *testing.T) {
	inWorld(t, func(w *world) {
		w.nodes(1, 1, nil)
		w.service("web", rebalanced)
		w.tasks("web", 1, 4)
		w.run()
		w.nodes(2, 2, nil)
		late := New(Config{Store: w.store, Proposer: w.prop, Log: slog.New(slog.DiscardHandler)})
		w.store.View(late.Reset)
		w.do(func(tx *store.Tx) {
			for _, t := range tx.Tasks() {
				tx.Remove(t)
			}
		})
		if again, err := late.even(w.Context(), "web", time.Now().Add(time.Hour)); err != nil || !again.IsZero() {
			t.Errorf("again at %v, %v", again, err)
		}
	})
}

func TestMovesFollowPreferences(t *testing.T) {
	zone := func(i int, n *store.Node) { n.Spec.Labels = map[string]string{"zone": string("aabbb"[i-1])} }
	inWorld(t, func(w *world) {
		w.nodes(1, 2, zone)
		w.service("web", func(s *swarm.ServiceSpec) {
			rebalanced(s)
			s.TaskTemplate.Placement = &swarm.Placement{Preferences: []swarm.PlacementPreference{
				{Spread: &swarm.SpreadOver{SpreadDescriptor: "node.labels.zone"}},
			}}
		})
		w.tasks("web", 1, 12)
		w.run()
		w.nodes(3, 5, zone)
		if moves := w.follow("web"); moves != 6 {
			t.Errorf("%d tasks moved, want 6: half of all to the other zone", moves)
		}
		w.wantSpread("web", map[string]int{"n1": 3, "n2": 3, "n3": 2, "n4": 2, "n5": 2})
	})
}
