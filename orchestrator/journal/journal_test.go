package journal

import (
	"context"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/store/storetest"
)

func node(spec swarm.NodeSpec, state swarm.NodeState, manager *swarm.ManagerStatus) *store.Node {
	n := &store.Node{}
	n.ID, n.Spec, n.Status.State, n.ManagerStatus, n.Description.Hostname = "n", spec, state, manager, "node9"
	return n
}

func secret(name string) *store.Secret {
	s := &store.Secret{}
	s.ID, s.Spec.Name = name, name
	return s
}

// start runs a journal until the test ends.
func start(t *testing.T, j *Journal) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- j.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

// told waits until the journal has all of the store, and returns what is behind index.
func told(t *testing.T, j *Journal, index uint64) (out []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := j.UpTo(ctx, j.store.Changed()); err != nil {
		t.Fatal(err)
	}
	entries, _, _ := j.After(index)
	for _, e := range entries {
		out = append(out, string(e.Action)+" "+e.Actor.Attributes["name"])
	}
	return out
}

func TestJournal(t *testing.T) {
	st, p := storetest.New()
	storetest.Create(t, st, p, secret("before"))
	j := New(st)
	storetest.Create(t, st, p, secret("a"), &store.Task{Task: swarm.Task{ID: "t"}})
	start(t, j)
	storetest.Create(t, st, p, secret("b"))
	index := st.Changed()
	storetest.Do(t, st, p, func(tx *store.Tx) { tx.Remove(tx.Secret("a")) })
	if got := told(t, j, 0); !slices.Equal(got, []string{"create a", "create b", "remove a"}) {
		t.Errorf("all: %q", got)
	}
	if got := told(t, j, index); !slices.Equal(got, []string{"remove a"}) {
		t.Errorf("behind %d: %q", index, got)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := j.UpTo(ctx, 1000); err == nil {
		t.Error("the journal has a commit that nobody made")
	}
}

func TestJournalForgetsTheOldest(t *testing.T) {
	st, p := storetest.New()
	j := New(st)
	start(t, j)
	for i := range kept/8 + 2 {
		var all []store.Object
		for k := range 8 {
			all = append(all, secret(fmt.Sprintf("s%d.%d", i, k)))
		}
		storetest.Create(t, st, p, all...)
	}
	if got := told(t, j, 0); len(got) != kept || got[0] != "create s2.0" {
		t.Errorf("%d events are kept, from %q on", len(got), got[0])
	}
}

// TestJournalOverASnapshot: what another manager's snapshot has changed is told; what a
// replica begins with is not.
func TestJournalOverASnapshot(t *testing.T) {
	ahead, p := storetest.New()
	storetest.Create(t, ahead, p, secret("a"), secret("b"))
	st := store.New()
	j := New(st)
	restore(t, st, ahead)
	start(t, j)
	if got := told(t, j, 0); len(got) != 0 {
		t.Errorf("at the beginning: %q", got)
	}
	storetest.Do(t, ahead, p, func(tx *store.Tx) {
		next := *tx.Secret("a")
		next.Spec.Labels = map[string]string{"k": "v"}
		tx.Update(&next)
		tx.Remove(tx.Secret("b"))
		tx.Create(secret("c"))
	})
	restore(t, st, ahead)
	got := told(t, j, 0)
	if slices.Sort(got); !slices.Equal(got, []string{"create c", "remove b", "update a"}) {
		t.Errorf("over a snapshot: %q", got)
	}
}

func restore(t *testing.T, to, from *store.Store) {
	t.Helper()
	r, w := io.Pipe()
	write := from.Snapshot()
	go func() { _ = w.CloseWithError(write(w)) }()
	if err := to.Restore(r); err != nil {
		t.Fatal(err)
	}
}

func TestEventMessages(t *testing.T) {
	was := node(swarm.NodeSpec{Role: swarm.NodeRoleWorker}, swarm.NodeStateReady, nil)
	is := node(swarm.NodeSpec{Role: swarm.NodeRoleManager}, swarm.NodeStateDown, &swarm.ManagerStatus{Leader: true, Reachability: swarm.ReachabilityReachable})
	m, ok := message(store.Event{Action: store.Update, Old: was, New: is}, time.Unix(5, 0))
	for k, want := range map[string]string{
		"name": "node9", "role.old": "worker", "role.new": "manager", "state.new": "down", "reachability.new": "reachable", "availability.new": "",
		"leader.old": "false", "leader.new": "true",
	} {
		if got := m.Actor.Attributes[k]; !ok || got != want {
			t.Errorf("node: %s is %q, want %q", k, got, want)
		}
	}
	service := func(image string, replicas uint64, state swarm.UpdateState) *store.Service {
		s := &store.Service{}
		s.Spec.TaskTemplate.ContainerSpec = &swarm.ContainerSpec{Image: image}
		s.Spec.Mode.Replicated = &swarm.ReplicatedService{Replicas: &replicas}
		s.UpdateStatus = &swarm.UpdateStatus{State: state}
		return s
	}
	m, _ = message(store.Event{Action: store.Update, Old: service("a", 1, ""), New: service("b", 2, "updating")}, time.Unix(5, 0))
	for k, want := range map[string]string{"image.old": "a", "image.new": "b", "replicas.new": "2", "updatestate.new": "updating"} {
		if got := m.Actor.Attributes[k]; got != want {
			t.Errorf("service: %s is %q, want %q", k, got, want)
		}
	}
	if _, ok := message(store.Event{Action: store.Create, New: &store.Task{}}, time.Unix(5, 0)); ok {
		t.Error("Docker tells nothing of tasks")
	}
}
