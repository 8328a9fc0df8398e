package services

import (
	"slices"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/tasklife"
)

func replicatedJob(total, atOnce uint64) swarm.ServiceMode {
	return swarm.ServiceMode{ReplicatedJob: &swarm.ReplicatedJob{TotalCompletions: &total, MaxConcurrent: &atOnce}}
}

func globalJob() swarm.ServiceMode { return swarm.ServiceMode{GlobalJob: &swarm.GlobalJob{}} }

func completed(t *store.Task) bool { return t.Status.State == swarm.TaskStateComplete }

func completedIn(run uint64) func(*store.Task) bool {
	return func(t *store.Task) bool { return completed(t) && t.JobIteration.Index == run }
}

func atWork(t *store.Task) bool { return tasklife.Wanted(t) }

func none(s *swarm.ServiceSpec) {
	s.TaskTemplate.RestartPolicy = &swarm.RestartPolicy{Condition: swarm.RestartPolicyConditionNone}
}

func TestReplicatedJobCompletesAFewAtATime(t *testing.T) {
	inWorld(t, func(w *world) {
		w.nodes(3)
		w.slow = true
		w.create(replicatedJob(5, 2), nil)
		w.pass(time.Second)
		w.want(2, "at work", atWork)
		w.end(w.tasks(atWork)[0], swarm.TaskStateComplete)
		w.pass(500 * time.Millisecond)
		w.want(2, "at work", atWork)
		w.slow = false
		w.pass(3 * time.Second)
		w.want(5, "complete", completed)
		w.want(5, "in all", all)
		var slots []int
		for _, t := range w.tasks(all) {
			slots = append(slots, t.Slot)
			if t.DesiredState != swarm.TaskStateComplete {
				w.Errorf("task of slot %d: desired %s", t.Slot, t.DesiredState)
			}
		}
		slices.Sort(slots)
		if !slices.Equal(slots, []int{0, 1, 2, 3, 4}) {
			t.Errorf("slots %v", slots)
		}
		w.pass(time.Minute)
		w.want(5, "in all", all) // a job that is done stays done
	})
}

func TestJobRunsAgain(t *testing.T) {
	for name, mode := range map[string]swarm.ServiceMode{"replicated": replicatedJob(3, 3), "global": globalJob()} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.nodes(3)
				w.create(mode, nil)
				w.pass(time.Second)
				w.want(3, "complete in run 0", completedIn(0))
				w.update(force)
				w.pass(time.Second)
				w.want(3, "complete in run 1", completedIn(1))
				w.slow = true
				w.update(func(*swarm.ServiceSpec) {})
				w.pass(time.Second)
				w.want(3, "at work in run 2", atWork)
				w.slow = false
				w.update(force) // while they work
				w.want(3, "of run 2 to stop", func(t *store.Task) bool {
					return t.JobIteration.Index == 2 && t.DesiredState == swarm.TaskStateShutdown
				})
				w.pass(2 * time.Second)
				w.want(3, "complete in run 3", completedIn(3))
			})
		})
	}
}

func TestJobWithFewerSlotsForgetsTheOthers(t *testing.T) {
	inWorld(t, func(w *world) {
		w.nodes(1)
		w.create(replicatedJob(3, 3), nil)
		w.pass(time.Second)
		w.update(func(s *swarm.ServiceSpec) { s.Mode = replicatedJob(1, 1) })
		w.pass(time.Second)
		w.want(1, "complete in run 1", completedIn(1))
		w.want(2, "to be removed", func(t *store.Task) bool { return t.DesiredState == swarm.TaskStateRemove })
	})
}

// The next run's task of a slot begins when the last one's has stopped.
func TestRunsOfAJobDoNotOverlapInASlot(t *testing.T) {
	inWorld(t, func(w *world) {
		w.nodes(1)
		w.slow = true
		w.create(replicatedJob(1, 1), nil)
		w.pass(time.Second)
		w.idle = true // nobody stops anything
		w.update(force)
		w.pass(10 * time.Second)
		w.want(1, "made ready", func(t *store.Task) bool { return t.DesiredState == swarm.TaskStateReady })
		w.idle = false
		w.pass(time.Second)
		w.want(1, "at work", func(t *store.Task) bool {
			return t.DesiredState == swarm.TaskStateComplete && t.JobIteration.Index == 1
		})
	})
}

func TestFailingJob(t *testing.T) {
	two, none, second := uint64(2), swarm.RestartPolicyConditionNone, time.Second
	for _, tc := range []struct {
		name   string
		policy *swarm.RestartPolicy
		tasks  int
	}{
		{"tries again", &swarm.RestartPolicy{Delay: &second}, 10},
		{"on failure", &swarm.RestartPolicy{Delay: &second, Condition: swarm.RestartPolicyConditionOnFailure}, 10},
		{"no restart", &swarm.RestartPolicy{Condition: none}, 1},
		{"twice more", &swarm.RestartPolicy{Delay: &second, MaxAttempts: &two}, 3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.nodes(1)
				w.broken = 1
				w.create(replicatedJob(1, 1), func(s *swarm.ServiceSpec) { s.TaskTemplate.RestartPolicy = tc.policy })
				w.pass(30 * time.Second)
				got := len(w.tasks(all))
				if tc.tasks == 10 && got < 10 || tc.tasks < 10 && got != tc.tasks {
					t.Errorf("%d tasks, want %d", got, tc.tasks)
				}
				w.broken = 0
				w.update(force) // a new run, with new tries
				w.pass(5 * time.Second)
				w.want(1, "complete in run 1", completedIn(1))
			})
		})
	}
}

func TestJobOutlivesItsNode(t *testing.T) {
	for name, change := range map[string]func(*swarm.ServiceSpec){"any": nil, "none": none} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.nodes(2)
				w.slow = true
				w.create(replicatedJob(2, 2), change)
				w.pass(time.Second)
				w.node("n1", down)
				w.pass(time.Second)
				w.want(2, "at work on n2", func(t *store.Task) bool { return atWork(t) && t.NodeID == "n2" })
				w.slow = false
				w.pass(time.Second)
				w.want(2, "complete", completed)
			})
		})
	}
}

func TestGlobalJobReachesNodesThatComeLater(t *testing.T) {
	inWorld(t, func(w *world) {
		w.nodes(2)
		w.node("n2", drain)
		w.create(globalJob(), nil)
		w.pass(time.Second)
		w.want(1, "complete", completed)
		w.node("n2", func(n *store.Node) { n.Spec.Availability = swarm.NodeAvailabilityActive })
		w.pass(time.Second)
		w.want(2, "complete", completed)
		w.do(func(tx *store.Tx) { tx.Remove(tx.Node("n1")) })
		w.pass(time.Second)
		w.want(1, "to be removed", func(t *store.Task) bool { return t.DesiredState == swarm.TaskStateRemove })
	})
}
