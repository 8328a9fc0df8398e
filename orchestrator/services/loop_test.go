package services

import (
	"errors"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/tasklife"
)

func TestReplicatedScales(t *testing.T) {
	inWorld(t, func(w *world) {
		w.nodes(3)
		w.create(replicas(3), nil)
		w.pass(time.Second)
		w.want(3, "running", running)
		w.update(func(s *swarm.ServiceSpec) { s.Mode = replicas(5) })
		w.pass(time.Second)
		w.want(5, "running", running)
		slots := map[int]bool{}
		for _, t := range w.tasks(running) {
			slots[t.Slot] = true
		}
		for i := 1; i <= 5; i++ {
			if !slots[i] {
				t.Errorf("slot %d is empty", i)
			}
		}
		w.update(func(s *swarm.ServiceSpec) { s.Mode = replicas(2) })
		w.pass(time.Second)
		w.want(2, "running", running)
		w.want(3, "to be removed", func(t *store.Task) bool { return t.DesiredState == swarm.TaskStateRemove })
		w.update(func(s *swarm.ServiceSpec) { s.Mode = replicas(1000) })
		w.pass(time.Second)
		w.want(1000, "running", running)
		w.do(func(tx *store.Tx) { tx.Remove(tx.Service("svc")) })
		w.pass(time.Second)
		w.want(1003, "to be removed", func(t *store.Task) bool { return t.DesiredState == swarm.TaskStateRemove })
	})
}

func TestScaleDownTakesIdleSlotsThenFullNodes(t *testing.T) {
	mk := func(number int, node string, up bool) *slot {
		task := &store.Task{}
		task.NodeID = node
		return &slot{number: number, up: up, wanted: []*store.Task{task}}
	}
	kept, surplus := split([]*slot{
		mk(1, "a", true), mk(2, "a", true), mk(3, "b", true), mk(4, "a", true), mk(5, "b", false),
	}, 2)
	var got []int
	for _, s := range surplus {
		got = append(got, s.number)
	}
	if len(kept) != 2 || got[0] != 5 || got[1] != 4 || got[2] != 2 {
		t.Fatalf("removed slots %v", got)
	}
}

func TestLostNodeIsReplacedAtOnce(t *testing.T) {
	for name, lose := range map[string]func(*world){
		"down":    func(w *world) { w.node("n1", down) },
		"drained": func(w *world) { w.node("n1", drain) },
		"removed": func(w *world) { w.do(func(tx *store.Tx) { tx.Remove(tx.Node("n1")) }) },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.nodes(3)
				w.create(replicas(6), nil)
				w.pass(time.Second)
				on1 := func(t *store.Task) bool { return t.NodeID == "n1" && t.DesiredState == swarm.TaskStateRunning }
				w.want(2, "on n1", on1)
				lose(w)
				w.want(0, "meant to run on n1", on1)
				w.pass(500 * time.Millisecond)
				w.want(6, "running", running)
				if name == "removed" {
					w.want(2, "orphaned", func(t *store.Task) bool { return t.Status.State == swarm.TaskStateOrphaned })
				}
			})
		})
	}
}

func TestRestartWaitsForTheDelay(t *testing.T) {
	inWorld(t, func(w *world) {
		w.nodes(1)
		w.create(replicas(1), nil)
		w.pass(time.Second)
		w.end(w.tasks(running)[0], swarm.TaskStateFailed)
		w.pass(4900 * time.Millisecond)
		w.want(0, "running", running)
		w.want(1, "ready", func(t *store.Task) bool { return t.Status.State == swarm.TaskStateReady })
		w.pass(300 * time.Millisecond)
		w.want(1, "running", running)
		w.want(2, "in all", all)
	})
}

func TestTaskThatEndsBeforeItsStartKeepsTheDelay(t *testing.T) {
	inWorld(t, func(w *world) {
		w.nodes(1)
		w.create(replicas(1), nil)
		for range 110 { // 22 s: at 0 (twice: the first one waits for nothing), 5, 10, 15 and 20
			w.pass(200 * time.Millisecond)
			for _, t := range w.tasks(func(t *store.Task) bool { return !tasklife.Ended(t) }) {
				w.end(t, swarm.TaskStateRejected)
			}
		}
		w.want(6, "in all", all)
	})
}

func TestRestartPolicies(t *testing.T) {
	three, minute, none := uint64(3), time.Minute, time.Duration(0)
	for _, tc := range []struct {
		name   string
		policy swarm.RestartPolicy
		end    swarm.TaskState
		tasks  int
	}{
		{"any, complete", swarm.RestartPolicy{}, swarm.TaskStateComplete, 6},
		{"none", swarm.RestartPolicy{Condition: swarm.RestartPolicyConditionNone}, swarm.TaskStateFailed, 1},
		{"on-failure, complete", swarm.RestartPolicy{Condition: swarm.RestartPolicyConditionOnFailure}, swarm.TaskStateComplete, 1},
		{"on-failure, failed", swarm.RestartPolicy{Condition: swarm.RestartPolicyConditionOnFailure}, swarm.TaskStateFailed, 6},
		{"three attempts", swarm.RestartPolicy{MaxAttempts: &three}, swarm.TaskStateFailed, 4},
		{"three a minute", swarm.RestartPolicy{MaxAttempts: &three, Window: &minute}, swarm.TaskStateRejected, 4},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.nodes(1)
				tc.policy.Delay = &none
				w.create(replicas(1), func(s *swarm.ServiceSpec) { s.TaskTemplate.RestartPolicy = &tc.policy })
				for range 5 {
					w.pass(200 * time.Millisecond)
					for _, t := range w.tasks(running) {
						w.end(t, tc.end)
					}
				}
				w.want(tc.tasks, "in all", all)
			})
		})
	}
}

func TestAttemptsOutsideOfTheWindowDoNotCount(t *testing.T) {
	inWorld(t, func(w *world) {
		one, window := uint64(1), 10*time.Second
		w.nodes(1)
		w.create(replicas(1), func(s *swarm.ServiceSpec) {
			s.TaskTemplate.RestartPolicy = &swarm.RestartPolicy{MaxAttempts: &one, Window: &window}
		})
		for range 4 {
			w.pass(20 * time.Second)
			w.want(1, "running", running)
			w.end(w.tasks(running)[0], swarm.TaskStateFailed)
		}
		w.want(5, "in all", all)
	})
}

func TestGlobalRunsOnEveryAllowedNode(t *testing.T) {
	inWorld(t, func(w *world) {
		w.nodes(3)
		w.node("n3", func(n *store.Node) { n.Spec.Labels = map[string]string{"no": "1"} })
		w.create(swarm.ServiceMode{Global: &swarm.GlobalService{}}, func(s *swarm.ServiceSpec) {
			s.TaskTemplate.Placement = &swarm.Placement{Constraints: []string{"node.labels.no!=1"}}
		})
		w.pass(time.Second)
		w.want(2, "running", running)
		w.node("n3", func(n *store.Node) { n.Spec.Labels = nil })
		w.pass(time.Second)
		w.want(3, "running", running)
		w.node("n2", func(n *store.Node) { n.Spec.Labels = map[string]string{"no": "1"} })
		w.node("n1", drain)
		w.pass(time.Second)
		w.want(1, "running", running)
		w.node("n1", func(n *store.Node) { n.Spec.Availability = swarm.NodeAvailabilityActive })
		w.pass(time.Second)
		w.want(2, "running", running)
		w.do(func(tx *store.Tx) { tx.Remove(tx.Node("n1")) })
		w.pass(time.Second)
		w.want(1, "running", running)
	})
}

func TestNodeThatStopsMatchingLosesItsTasks(t *testing.T) {
	inWorld(t, func(w *world) {
		w.nodes(2)
		w.create(replicas(2), func(s *swarm.ServiceSpec) {
			s.TaskTemplate.Placement = &swarm.Placement{Constraints: []string{"node.labels.gone!=yes"}}
		})
		w.pass(time.Second)
		w.idle = true
		w.node("n1", func(n *store.Node) { n.Spec.Labels = map[string]string{"gone": "yes"} })
		w.want(1, "running", running)
		w.want(1, "waiting for the old one to stop", func(t *store.Task) bool { return t.DesiredState == swarm.TaskStateReady })
		w.pass(2 * time.Minute)
		w.want(2, "meant to run", func(t *store.Task) bool { return t.DesiredState == swarm.TaskStateRunning })
	})
}

func TestConflictsAndRefusalsAreRetried(t *testing.T) {
	inWorld(t, func(w *world) {
		w.nodes(1)
		n := 0
		w.prop.Refuse(func(b store.Batch) error {
			if b.Changes[0].Kind != store.KindTask {
				return nil
			}
			if n++; n < 30 {
				return errors.Join(store.ErrSequence, errors.New("somebody was faster"))
			}
			return nil
		})
		w.create(replicas(2), nil)
		w.pass(5 * time.Second)
		w.want(2, "running", running)
	})
}
