package dispatcher

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/certs"
	"github.com/meshd/meshd/orchestrator/placement"
	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/orchestrator/store"
)

func newRand(t *testing.T) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

// start runs a dispatcher over the world; leader says who it believes leads.
func (w *world) start(cfg Config) *Dispatcher {
	w.t.Helper()
	cfg.Store, cfg.Proposer = w.store, w.proposer
	if cfg.Leader == nil {
		cfg.Leader = func() (string, string, bool) { return "n1", "n1:2377", true }
	}
	if cfg.Lease == 0 {
		cfg.Lease = time.Hour
	}
	d := New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("Run: %v", err)
		}
	})
	<-d.ready
	if _, _, leads := cfg.Leader(); leads { // its first look changes a node
		d.poke()
		poll(w.t, "the leader to be known", func() bool { return w.node("n1").ManagerStatus != nil })
	}
	return d
}

// agent is the receiving end of a session without a network between.
type agent struct {
	t        *testing.T
	messages chan *protocol.Message
	ended    chan error
	stop     context.CancelCauseFunc
}

func connect(t *testing.T, d *Dispatcher, node string) *agent {
	t.Helper()
	ctx, end := context.WithCancelCause(context.Background())
	s, err := d.open(node, end)
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{t: t, messages: make(chan *protocol.Message), ended: make(chan error, 1), stop: end}
	go func() {
		defer d.close(s)
		a.ended <- d.stream(ctx, s, func(m *protocol.Message) error {
			select {
			case a.messages <- m:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
	}()
	t.Cleanup(func() { end(nil) })
	return a
}

// until reads messages until one satisfies ok.
func (a *agent) until(what string, ok func(*protocol.Message) bool) *protocol.Message {
	a.t.Helper()
	deadline := time.After(time.Minute)
	for {
		select {
		case m := <-a.messages:
			if ok(m) {
				return m
			}
		case err := <-a.ended:
			a.t.Fatalf("session ended waiting for %s: %v", what, err)
		case <-deadline:
			a.t.Fatalf("no message with %s", what)
		}
	}
}

func networkIn(m *protocol.Message, id string) *protocol.NetworkChange {
	for i, n := range m.Networks {
		if n.ID == id {
			return &m.Networks[i]
		}
	}
	return nil
}

func stateIn(m *protocol.Message, network, task string) protocol.EndpointState {
	if n := networkIn(m, network); n != nil {
		for _, e := range n.Endpoints {
			if e.TaskID == task {
				return e.State
			}
		}
	}
	return ""
}

func TestSessionStartsWithTheWholePictureAndGoesOnWithDeltas(t *testing.T) {
	w := newWorld(t)
	w.add(task("w1", "web", "n1", 11, swarm.TaskStateRunning))
	d := w.start(Config{})
	a := connect(t, d, "n1")

	first := <-a.messages
	if first.Tasks == nil || !first.Tasks.Full || len(first.Tasks.Set) != 1 || len(first.Nodes) != 3 || first.Heartbeat == 0 {
		t.Fatalf("first message: %+v", first)
	}
	if networkIn(first, "mesh") == nil || networkIn(first, "user") == nil {
		t.Fatalf("networks of the first message: %+v", first.Networks)
	}

	w.add(task("w2", "web", "n2", 12, swarm.TaskStateAssigned))
	m := a.until("w2 starting", func(m *protocol.Message) bool { return stateIn(m, "user", "w2") == protocol.EndpointStarting })
	if m.Tasks != nil {
		t.Errorf("another node's task changed this one's: %+v", m.Tasks)
	}
	old := networkIn(m, "user").Revision

	w.set("w2", swarm.TaskStateRunning, swarm.TaskStateRunning)
	m = a.until("w2 serving", func(m *protocol.Message) bool { return stateIn(m, "mesh", "w2") == protocol.EndpointServing })
	if n := networkIn(m, "user"); n == nil || n.Revision <= old || n.Revision < w.index() {
		t.Errorf("revision did not rise above %d: %+v", old, n)
	}

	w.set("w1", swarm.TaskStateRunning, swarm.TaskStateRemove)
	m = a.until("w1 to stop", func(m *protocol.Message) bool { return m.Tasks != nil })
	if len(m.Tasks.Set) != 1 || m.Tasks.Set[0].Task.DesiredState != swarm.TaskStateRemove {
		t.Fatalf("tasks: %+v", m.Tasks)
	}
	w.set("w1", swarm.TaskStateShutdown, swarm.TaskStateRemove)
	m = a.until("w1 gone", func(m *protocol.Message) bool { return m.Tasks != nil })
	if len(m.Tasks.Remove) != 1 || len(m.NetworksGone) != 1 || m.NetworksGone[0] != "user" {
		t.Fatalf("message: %+v", m)
	}
}

func TestOwnStatusIsNotSentBack(t *testing.T) {
	w := newWorld(t)
	w.add(task("d1", "db", "n1", 13, swarm.TaskStateAssigned))
	d := w.start(Config{Heartbeat: 30 * time.Millisecond})
	a := connect(t, d, "n1")
	<-a.messages
	w.set("d1", swarm.TaskStatePreparing, swarm.TaskStateRunning)
	a.until("a heartbeat", func(m *protocol.Message) bool {
		if m.Tasks != nil {
			t.Fatalf("the node's own report came back: %+v", m.Tasks)
		}
		return m.Heartbeat > 0
	})
}

func TestMeshLeavesOutOthersPrivateTasks(t *testing.T) {
	w := newWorld(t)
	d := w.start(Config{})
	a, b := connect(t, d, "n1"), connect(t, d, "n2")
	before := networkIn(<-b.messages, "mesh").Revision
	<-a.messages
	w.add(task("d1", "db", "n1", 13, swarm.TaskStateRunning))
	a.until("its own task", func(m *protocol.Message) bool { return stateIn(m, "mesh", "d1") == protocol.EndpointServing })
	w.add(task("w1", "web", "n1", 11, swarm.TaskStateRunning))
	m := b.until("the published task", func(m *protocol.Message) bool { return networkIn(m, "mesh") != nil })
	if stateIn(m, "mesh", "w1") != protocol.EndpointServing || stateIn(m, "mesh", "d1") != "" {
		t.Errorf("mesh: %+v", networkIn(m, "mesh"))
	}
	if networkIn(m, "mesh").Revision <= before {
		t.Error("the revision did not rise")
	}
}

func TestSlowSessionHoldsUpNobody(t *testing.T) {
	w := newWorld(t)
	d := w.start(Config{})
	connect(t, d, "n2") // never reads
	a := connect(t, d, "n1")
	<-a.messages
	for i := range byte(50) {
		w.add(task("w"+string(rune('A'+i)), "web", "n2", 20+i, swarm.TaskStateRunning))
	}
	seen := map[string]bool{} // in one message or in several: each brings what is new
	a.until("all 50", func(m *protocol.Message) bool {
		if n := networkIn(m, "mesh"); n != nil {
			for _, e := range n.Endpoints {
				seen[e.TaskID] = true
			}
		}
		return len(seen) >= 50
	})
}

func TestShutdownOfANode(t *testing.T) {
	w := newWorld(t)
	w.add(task("w1", "web", "n2", 11, swarm.TaskStateRunning))
	d := w.start(Config{})
	say := func(stopping bool) {
		t.Helper()
		req := protocol.SessionRequest{Description: w.node("n2").Description, Stopping: stopping}
		if err := d.submit(t.Context(), report{node: "n2", description: &req}); err != nil {
			t.Fatal(err)
		}
	}
	say(true)
	if n := w.node("n2"); n.Status.State != swarm.NodeStateDisconnected || !member(n).Stopping || placement.Usable(n) {
		t.Errorf("while it shuts down: %+v", n.Status)
	}
	w.set("w1", swarm.TaskStateRunning, swarm.TaskStateShutdown)
	if late, _ := d.late("w1"); !slices.Contains(late, "n2") {
		t.Errorf("its own clients are not waited for, only those of %v", late)
	}
	if d.seeOff("n2"); w.node("n2").Status.State == swarm.NodeStateDown {
		t.Error("given up with a task that still ends")
	}
	w.set("w1", swarm.TaskStateShutdown, swarm.TaskStateShutdown)
	if d.seeOff("n2"); w.node("n2").Status.State != swarm.NodeStateDown {
		t.Errorf("after its last session: %+v", w.node("n2").Status)
	}
	say(false)
	poll(t, "n2 to be ready again", func() bool {
		d.beat("n2")
		return w.node("n2").Status.State == swarm.NodeStateReady
	})
}

func TestSessionsEnd(t *testing.T) {
	w := newWorld(t)
	d := w.start(Config{})
	a := connect(t, d, "n1")
	<-a.messages
	b := connect(t, d, "n1")
	if err := <-a.ended; !errors.Is(err, errReplaced) {
		t.Errorf("replaced session: %v", err)
	}
	<-b.messages
	w.change(func(tx *store.Tx) { tx.Remove(tx.Node("n1")) })
	if err := <-b.ended; !errors.Is(err, certs.ErrBlocked) {
		t.Errorf("removed node's session: %v", err)
	}
}

// TestCutOffWatcherResyncs: the store is replaced under the sessions.
func TestCutOffWatcherResyncs(t *testing.T) {
	w := newWorld(t)
	d := w.start(Config{})
	a := connect(t, d, "n1")
	<-a.messages
	other := newWorld(t)
	other.add(task("w9", "web", "n1", 19, swarm.TaskStateRunning))
	pr, pw := newPipe()
	go func() { pw.CloseWithError(other.store.Snapshot()(pw)) }()
	if err := w.store.Restore(pr); err != nil {
		t.Fatal(err)
	}
	m := a.until("the restored task", func(m *protocol.Message) bool { return m.Tasks != nil })
	if len(m.Tasks.Set) != 1 || stateIn(m, "user", "w9") != protocol.EndpointServing {
		t.Errorf("after restore: %+v", m)
	}
}
