package services

import (
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/tasklife"
)

var startFirst = updating(swarm.UpdateConfig{Parallelism: 1, Order: swarm.UpdateOrderStartFirst})

func onNode(id string) func(*store.Task) bool {
	return func(t *store.Task) bool { return t.NodeID == id && running(t) }
}

func TestDrainKeepsStartFirstServicesWhole(t *testing.T) {
	inWorld(t, func(w *world) {
		w.nodes(3)
		w.create(replicas(6), startFirst)
		w.pass(time.Second)
		w.node("n1", drain)
		for range 20 {
			w.pass(100 * time.Millisecond)
			if n := len(w.tasks(running)); n < 6 {
				t.Fatalf("%d tasks run", n)
			}
		}
		w.want(6, "running", running)
		w.want(0, "on n1", onNode("n1"))
	})
}

func TestDrainWaitsForANodeThatTakesTheTask(t *testing.T) {
	inWorld(t, func(w *world) {
		w.nodes(1)
		w.create(replicas(2), startFirst)
		w.pass(time.Second)
		w.node("n1", drain)
		w.pass(5 * time.Second)
		w.want(2, "on n1", onNode("n1"))
		w.want(2, "waiting", func(t *store.Task) bool { return t.NodeID == "" && tasklife.Wanted(t) })
		w.node("n1", func(n *store.Node) { n.Spec.Availability = swarm.NodeAvailabilityActive })
		w.pass(5 * time.Second)
		w.want(2, "running", running)
		w.want(2, "wanted", tasklife.Wanted)
	})
}

// The node of a drained task goes down before the next one runs: nothing is held up.
func TestDrainedNodeDies(t *testing.T) {
	inWorld(t, func(w *world) {
		w.nodes(2)
		w.create(replicas(2), startFirst)
		w.pass(time.Second)
		w.idle = true
		w.node("n1", drain)
		w.node("n1", down)
		w.idle = false
		w.pass(time.Second)
		w.want(2, "on n2", onNode("n2"))
		w.want(2, "wanted", tasklife.Wanted)
	})
}

func TestDrainStopsFirstUnlessToldOtherwise(t *testing.T) {
	inWorld(t, func(w *world) {
		w.nodes(2)
		w.create(replicas(1), nil)
		w.pass(time.Second)
		w.want(1, "running", running)
		old := w.tasks(running)[0]
		w.idle = true // the old task takes its time to stop
		w.node(old.NodeID, drain)
		w.pass(10 * time.Second)
		w.want(0, "meant to run", func(t *store.Task) bool { return t.DesiredState == swarm.TaskStateRunning })
		w.idle = false
		w.pass(time.Second)
		w.want(1, "running", running)
		w.want(0, "on the drained node", onNode(old.NodeID))
	})
}

func TestDrainEndsGlobalTasks(t *testing.T) {
	inWorld(t, func(w *world) {
		w.nodes(2)
		w.create(swarm.ServiceMode{Global: &swarm.GlobalService{}}, startFirst)
		w.pass(time.Second)
		w.node("n1", drain)
		w.pass(time.Second)
		w.want(0, "on n1", onNode("n1"))
		w.want(1, "on n2", onNode("n2"))
	})
}

// moveTo does what the scheduler does that found an emptier node.
func (w *world) moveTo(t *store.Task, node string) {
	w.do(func(tx *store.Tx) {
		n := *tx.Task(t.ID)
		n.MovesTo = node
		tx.Update(&n)
	})
}

func TestTaskMovesInTheUpdateOrder(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*swarm.ServiceSpec)
		fewest int // tasks that are meant to run and do
	}{{"start-first", startFirst, 2}, {"stop-first", nil, 1}} {
		t.Run(tc.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.nodes(2)
				w.create(replicas(2), tc.change)
				w.pass(time.Second)
				old := w.tasks(running)[0]
				w.moveTo(old, "n2")
				for range 20 {
					w.pass(100 * time.Millisecond)
					if n := len(w.tasks(running)); n < tc.fewest {
						t.Fatalf("%d tasks run", n)
					}
				}
				w.want(2, "running", running)
				w.want(3, "in all", all)
				w.want(0, "that moved and run", func(t *store.Task) bool { return t.ID == old.ID && running(t) })
			})
		})
	}
}

// What has to move and cannot be followed by another stays.
func TestTaskThatNoneFollowsDoesNotMove(t *testing.T) {
	inWorld(t, func(w *world) {
		w.nodes(2)
		w.create(replicas(2), none)
		w.pass(time.Second)
		w.moveTo(w.tasks(running)[0], "n2")
		w.pass(5 * time.Second)
		w.want(2, "running", running)
		w.want(2, "in all", all)
	})
}
