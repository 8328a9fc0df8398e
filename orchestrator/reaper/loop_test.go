package reaper

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/store/storetest"
)

type world struct {
	*testing.T
	store *store.Store
	prop  *storetest.Proposer
	n     int
}

func inWorld(t *testing.T, fn func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		s, prop := storetest.New()
		w := &world{T: t, store: s, prop: prop}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		loop := New(Config{Store: s, Proposer: prop, Log: slog.New(slog.DiscardHandler)})
		go func() { done <- loop.Run(ctx) }()
		for _, id := range []string{"up", "down"} {
			n := &store.Node{}
			n.ID, n.Status.State = id, swarm.NodeState(map[string]string{"up": "ready", "down": "down"}[id])
			w.do(func(tx *store.Tx) { tx.Create(n) })
		}
		svc := &store.Service{SpecVersion: 1}
		svc.ID, svc.Spec.Name = "svc", "svc"
		w.do(func(tx *store.Tx) { tx.Create(svc) })
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
	<-time.After(time.Second) // later objects are younger
}

func (w *world) task(node string, state, desired swarm.TaskState) string {
	w.n++
	t := &store.Task{SpecVersion: 1}
	t.ID, t.ServiceID, t.Slot, t.NodeID = fmt.Sprintf("t%04d", w.n), "svc", 1, node
	t.Status.State, t.DesiredState = state, desired
	w.do(func(tx *store.Tx) { tx.Create(t) })
	return t.ID
}

func (w *world) left() string {
	var ids []string
	w.store.View(func(v *store.View) {
		for _, t := range v.Tasks() {
			ids = append(ids, t.ID)
		}
	})
	return strings.Join(ids, " ")
}

func TestWhatMayGo(t *testing.T) {
	for _, tc := range []struct {
		node           string
		state, desired swarm.TaskState
		goes           bool
	}{
		{"up", swarm.TaskStateRunning, swarm.TaskStateRunning, false},
		{"up", swarm.TaskStateRunning, swarm.TaskStateRemove, false},
		{"up", swarm.TaskStateShutdown, swarm.TaskStateRemove, true},
		{"down", swarm.TaskStateRunning, swarm.TaskStateRemove, true},
		{"down", swarm.TaskStateRunning, swarm.TaskStateShutdown, false},
		{"gone", swarm.TaskStateRunning, swarm.TaskStateRemove, true},
		{"", swarm.TaskStatePending, swarm.TaskStateShutdown, true},
		{"", swarm.TaskStateNew, swarm.TaskStateRemove, true},
		{"", swarm.TaskStateNew, swarm.TaskStateRunning, false},
		{"up", swarm.TaskStateFailed, swarm.TaskStateShutdown, false}, // history
	} {
		inWorld(t, func(w *world) {
			w.task(tc.node, tc.state, tc.desired)
			if gone := w.left() == ""; gone != tc.goes {
				t.Errorf("%+v: gone %v", tc, gone)
			}
		})
	}
}

func TestHistoryIsTrimmed(t *testing.T) {
	inWorld(t, func(w *world) {
		for range 7 {
			w.task("up", swarm.TaskStateFailed, swarm.TaskStateShutdown)
		}
		w.task("up", swarm.TaskStateRunning, swarm.TaskStateRunning)
		if got := w.left(); got != "t0004 t0005 t0006 t0007 t0008" {
			t.Errorf("left: %s", got)
		}
		limit := func(n int64) {
			w.do(func(tx *store.Tx) {
				c := &store.Cluster{}
				if old := tx.Cluster(); old != nil {
					*c = *old
				}
				c.Spec.Orchestration.TaskHistoryRetentionLimit = &n
				if tx.Cluster() == nil {
					tx.Create(c)
				} else {
					tx.Update(c)
				}
			})
		}
		limit(2)
		if got := w.left(); got != "t0007 t0008" {
			t.Errorf("left with limit 2: %s", got)
		}
		// The newest one stays always.
		limit(0)
		if got := w.left(); got != "t0008" {
			t.Errorf("left with limit 0: %s", got)
		}
		limit(-1)
		for range 20 {
			w.task("up", swarm.TaskStateFailed, swarm.TaskStateShutdown)
		}
		if got := strings.Count(w.left(), "t"); got != 21 {
			t.Errorf("%d left without limit", got)
		}
	})
}

func TestHistoryAges(t *testing.T) {
	inWorld(t, func(w *world) {
		w.do(func(tx *store.Tx) {
			s := *tx.Service("svc")
			s.Spec.Labels = map[string]string{LabelHistory: "1h"}
			tx.Update(&s)
		})
		w.task("up", swarm.TaskStateFailed, swarm.TaskStateShutdown)
		<-time.After(30 * time.Minute)
		w.task("up", swarm.TaskStateFailed, swarm.TaskStateShutdown)
		w.task("up", swarm.TaskStateComplete, swarm.TaskStateShutdown)
		for _, after := range []struct {
			pass time.Duration
			left string
		}{
			{29 * time.Minute, "t0001 t0002 t0003"},
			{2 * time.Minute, "t0002 t0003"},
			{30 * time.Minute, "t0003"}, // the newest one stays always
			{24 * time.Hour, "t0003"},
		} {
			<-time.After(after.pass)
			synctest.Wait()
			if got := w.left(); got != after.left {
				t.Errorf("%v later: %s, not %s", after.pass, got, after.left)
			}
		}
	})
}

func TestKeepsFor(t *testing.T) {
	for value, want := range map[string]time.Duration{"36h": 36 * time.Hour, "1m": time.Minute, "59s": 0, "-1h": 0, "": 0, "7 days": 0} {
		s := &swarm.ServiceSpec{}
		s.Labels = map[string]string{LabelHistory: value}
		got, err := KeepsFor(s)
		if got != want || (err == nil) != (want > 0) || err != nil && !strings.Contains(err.Error(), LabelHistory) {
			t.Errorf("%q: %v, %v", value, got, err)
		}
	}
	if got, err := KeepsFor(&swarm.ServiceSpec{}); got != 0 || err != nil {
		t.Errorf("without the label: %v, %v", got, err)
	}
}

func TestNodeThatGoesTakesItsTasks(t *testing.T) {
	inWorld(t, func(w *world) {
		w.task("up", swarm.TaskStateRunning, swarm.TaskStateRemove)
		w.do(func(tx *store.Tx) {
			n := *tx.Node("up")
			n.Status.State = swarm.NodeStateDown
			tx.Update(&n)
		})
		if w.left() != "" {
			t.Errorf("left: %s", w.left())
		}
	})
}

func TestSpecs(t *testing.T) {
	inWorld(t, func(w *world) {
		template := func(n uint64) swarm.TaskSpec { return swarm.TaskSpec{ForceUpdate: n} }
		old := ""
		w.do(func(tx *store.Tx) {
			for n := uint64(1); n <= 5; n++ {
				tx.Create(&store.Spec{ServiceID: "svc", Number: n, Template: template(n)})
			}
			s := *tx.Service("svc")
			s.SpecVersion = 5
			s.PreviousSpec = &swarm.ServiceSpec{TaskTemplate: template(4)}
			tx.Update(&s)
			k := &store.Task{SpecVersion: 2}
			k.ID, k.ServiceID, k.NodeID, old = "old", "svc", "up", "old"
			k.Status.State, k.DesiredState = swarm.TaskStateRunning, swarm.TaskStateRunning
			tx.Create(k)
		})
		specs := func() (out []uint64) {
			w.store.View(func(v *store.View) {
				for _, s := range v.SpecsOf("svc") {
					out = append(out, s.Number)
				}
			})
			return out
		}
		if got := specs(); !slices.Equal(got, []uint64{2, 4, 5}) {
			t.Errorf("left: %v", got)
		}
		w.do(func(tx *store.Tx) { tx.Remove(tx.Service("svc")) })
		if got := specs(); !slices.Equal(got, []uint64{2}) {
			t.Errorf("left of a removed service: %v", got)
		}
		w.do(func(tx *store.Tx) {
			k := *tx.Task(old)
			k.Status.State, k.DesiredState = swarm.TaskStateShutdown, swarm.TaskStateRemove
			tx.Update(&k)
		})
		if got := specs(); len(got) != 0 || w.left() != "" {
			t.Errorf("left in the end: %v %s", got, w.left())
		}
	})
}

func TestManyAtOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		w.do(func(tx *store.Tx) {
			for i := range 1700 {
				k := &store.Task{SpecVersion: 1}
				k.ID, k.ServiceID, k.Slot, k.NodeID = fmt.Sprintf("t%04d", i), "svc", i+1, "up"
				k.Status.State, k.DesiredState = swarm.TaskStateShutdown, swarm.TaskStateRemove
				tx.Create(k)
			}
		})
		if w.left() != "" {
			t.Errorf("%d left", strings.Count(w.left(), "t"))
		}
	})
}

// A scheduled job keeps the tasks of as many runs as it says; slot 0 is a slot.
func TestHistoryOfAScheduledJob(t *testing.T) {
	inWorld(t, func(w *world) {
		run := func(n uint64) {
			w.do(func(tx *store.Tx) {
				s := *tx.Service("svc")
				s.Spec.Mode = swarm.ServiceMode{ReplicatedJob: &swarm.ReplicatedJob{}}
				s.Spec.Labels = map[string]string{"mesh.schedule": "@hourly", "mesh.schedule.history": "2"}
				s.JobStatus = &swarm.JobStatus{JobIteration: swarm.Version{Index: n}}
				tx.Update(&s)
			})
		}
		task := func(n uint64, node string) {
			w.n++
			t := &store.Task{SpecVersion: 1}
			t.ID, t.ServiceID, t.NodeID = fmt.Sprintf("t%04d", w.n), "svc", node
			t.JobIteration = &swarm.Version{Index: n}
			t.Status.State, t.DesiredState = swarm.TaskStateComplete, swarm.TaskStateComplete
			w.do(func(tx *store.Tx) { tx.Create(t) })
		}
		for n := range uint64(5) {
			run(n)
			task(n, []string{"up", "down"}[n%2])
		}
		if got := w.left(); got != "t0003 t0004 t0005" {
			t.Errorf("left: %s", got)
		}
	})
}
