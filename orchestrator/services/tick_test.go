package services

import (
	"maps"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/schedule"
	"github.com/meshd/meshd/orchestrator/store"
)

// schedule makes a job that is due every minute; the clock of the test's world
// starts at midnight, UTC.
func (w *world) schedule(mode swarm.ServiceMode, options map[string]string) {
	w.Helper()
	labels := map[string]string{schedule.Label: "* * * * *"}
	maps.Copy(labels, options)
	if _, err := schedule.Of(labels); err != nil {
		w.Fatal(err)
	}
	w.create(mode, func(s *swarm.ServiceSpec) { s.Labels = labels })
}

func (w *world) runIs(run uint64, skipped uint64) {
	w.Helper()
	s := w.service()
	if s.JobStatus.JobIteration.Index != run || s.Schedule.Skipped != skipped {
		w.Errorf("run %d, %d skipped; want %d, %d", s.JobStatus.JobIteration.Index, s.Schedule.Skipped, run, skipped)
	}
}

func TestScheduledJobRunsAtItsTimes(t *testing.T) {
	for name, mode := range map[string]swarm.ServiceMode{"replicated": replicatedJob(2, 2), "global": globalJob()} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.nodes(2)
				w.schedule(mode, nil)
				w.pass(59 * time.Second)
				w.want(0, "in all", all)
				for run := range uint64(3) {
					w.pass(2 * time.Second) // a second into the minute
					w.runIs(run, 0)
					w.pass(58 * time.Second)
					w.want(2, "complete", completedIn(run))
				}
				w.want(6, "in all", all)
			})
		})
	}
}

func TestScheduleWhileARunIsAtWork(t *testing.T) {
	of := func(run uint64, desired swarm.TaskState) func(*store.Task) bool {
		return func(t *store.Task) bool {
			return t.JobIteration.Index == run && t.DesiredState == desired && !completed(t)
		}
	}
	for _, tc := range []struct {
		concurrency                                string
		run, skipped                               uint64
		oldAtWork, oldStopped, newAtWork, finished int
	}{
		{"", 0, 2, 1, 0, 0, 1},
		{"forbid", 0, 2, 1, 0, 0, 1},
		{"allow", 2, 0, 1, 0, 1, 3},
		{"replace", 2, 0, 0, 1, 1, 1},
	} {
		t.Run(tc.concurrency, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.nodes(1)
				w.slow = true
				options := map[string]string{"mesh.schedule.concurrency": tc.concurrency}
				w.schedule(replicatedJob(1, 1), options)
				w.pass(3*time.Minute + 10*time.Second)
				w.runIs(tc.run, tc.skipped)
				w.want(tc.oldAtWork, "of run 0 at work", of(0, swarm.TaskStateComplete))
				w.want(tc.oldStopped, "of run 0 stopped", of(0, swarm.TaskStateShutdown))
				if tc.run > 0 {
					w.want(tc.newAtWork, "of the last run at work", of(tc.run, swarm.TaskStateComplete))
				}
				w.slow = false
				w.pass(time.Second)
				w.want(tc.finished, "complete", completed)
			})
		})
	}
}

func TestScheduleGoesOnAfterAFailedRun(t *testing.T) {
	inWorld(t, func(w *world) {
		w.nodes(1)
		w.broken = 1
		w.schedule(replicatedJob(1, 1), nil)
		w.do(func(tx *store.Tx) {
			spec := *tx.Spec("svc", 1)
			spec.Template.RestartPolicy = &swarm.RestartPolicy{Condition: swarm.RestartPolicyConditionNone}
			tx.Update(&spec)
		})
		w.pass(2*time.Minute + 30*time.Second)
		w.runIs(1, 0) // a run that was given up does not hold up the next
		w.want(2, "in all", all)
	})
}

// What no leader was there for is made up for once, or left out.
func TestMissedTimes(t *testing.T) {
	for rule, want := range map[string]struct{ run, skipped, tasks uint64 }{"run": {0, 0, 1}, "skip": {0, 1, 0}} {
		t.Run(rule, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.nodes(1)
				w.schedule(replicatedJob(1, 1), map[string]string{"mesh.schedule.missed": rule, schedule.Label: "0 * * * *"})
				w.pass(10 * time.Minute)
				w.do(func(tx *store.Tx) { // five hours went by without a leader
					s := *tx.Service("svc")
					s.Schedule = &store.Schedule{Since: time.Now().Add(-5 * time.Hour).UTC()}
					tx.Update(&s)
				})
				w.pass(5 * time.Second)
				w.runIs(want.run, want.skipped)
				w.want(int(want.tasks), "in all", all)
				w.pass(time.Hour)
				w.want(int(want.tasks)+1, "in all", all)
			})
		})
	}
}
