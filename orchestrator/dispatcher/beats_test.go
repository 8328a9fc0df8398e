package dispatcher

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/orchestrator/store"
)

func newPipe() (*io.PipeReader, *io.PipeWriter) { return io.Pipe() }

func (w *world) node(id string) *store.Node {
	var out *store.Node
	w.store.View(func(v *store.View) { out = v.Node(id) })
	return out
}

func TestJudge(t *testing.T) {
	now := time.Unix(1000, 0)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	for _, c := range []struct {
		name        string
		state       swarm.NodeState
		beat, since time.Time
		want        swarm.NodeState
	}{
		{"first beat", swarm.NodeStateUnknown, now, now, swarm.NodeStateReady},
		{"back", swarm.NodeStateDown, ago(time.Second), ago(time.Second), swarm.NodeStateReady},
		{"silent", swarm.NodeStateReady, ago(4 * time.Second), ago(4 * time.Second), swarm.NodeStateDown},
		{"silent, but in grace", swarm.NodeStateReady, ago(4 * time.Second), ago(time.Second), swarm.NodeStateReady},
		{"grace does not revive", swarm.NodeStateDown, time.Time{}, now, swarm.NodeStateDown},
		{"never heard", swarm.NodeStateUnknown, time.Time{}, ago(4 * time.Second), swarm.NodeStateDown},
	} {
		j := judge{now: now, lease: 3 * time.Second, leader: "x",
			heard: func(string, time.Time) (time.Time, time.Time) { return c.beat, c.since }}
		n := &store.Node{Node: swarm.Node{ID: "n"}}
		n.Status.State = c.state
		next := j.node(n)
		if got := c.state; next == nil && got != c.want || next != nil && next.Status.State != c.want {
			t.Errorf("%s: %+v", c.name, next)
		}
		if next != nil && next.Status.State == swarm.NodeStateDown && next.Status.Message != "heartbeat failure" {
			t.Errorf("%s: message %q", c.name, next.Status.Message)
		}
	}
}

func TestJudgeShutdowns(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, c := range []struct {
		name        string
		state       swarm.NodeState
		silence     time.Duration
		wantState   swarm.NodeState
		wantMessage string
	}{
		{"while it shuts down", swarm.NodeStateReady, 0, swarm.NodeStateDisconnected, stoppingMessage},
		{"when it has fallen silent", swarm.NodeStateDisconnected, 4 * time.Second, swarm.NodeStateDown, stoppedMessage},
		{"a late beat does not revive it", swarm.NodeStateDown, 0, swarm.NodeStateDown, ""},
	} {
		j := judge{now: now, lease: 3 * time.Second, leader: "x",
			heard: func(string, time.Time) (time.Time, time.Time) { return now.Add(-c.silence), now.Add(-c.silence) }}
		n := &store.Node{Node: swarm.Node{ID: "n"}, Stopping: true}
		n.Status.State = c.state
		next := j.node(n)
		if next == nil {
			next = n
		}
		if next.Status.State != c.wantState || next.Status.Message != c.wantMessage {
			t.Errorf("%s: %+v", c.name, next.Status)
		}
	}
}

func TestJudgeManagers(t *testing.T) {
	now := time.Unix(1000, 0)
	heard := func(id string, _ time.Time) (time.Time, time.Time) {
		if id == "gone" {
			return time.Time{}, now.Add(-time.Minute)
		}
		return now, now
	}
	j := judge{now: now, lease: time.Second, heard: heard, leader: "l", addr: "l:1", members: map[string]string{"l": "l:0", "f": "f:1", "gone": "g:1"}}
	for id, want := range map[string]*swarm.ManagerStatus{
		"l":    {Leader: true, Reachability: swarm.ReachabilityReachable, Addr: "l:1"},
		"f":    {Reachability: swarm.ReachabilityReachable, Addr: "f:1"},
		"gone": {Reachability: swarm.ReachabilityUnreachable, Addr: "g:1"},
		"w":    nil,
	} {
		n := &store.Node{Node: swarm.Node{ID: id, ManagerStatus: &swarm.ManagerStatus{Leader: true}}}
		got := j.node(n)
		if got == nil || !sameManager(got.ManagerStatus, want) {
			t.Errorf("%s: %+v", id, got)
		}
		if again := j.node(got); again != nil {
			t.Errorf("%s is never settled: %+v", id, again)
		}
	}
}

// TestLeases runs the leader's loop in virtual time.
func TestLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ctx, cancel := context.WithCancel(t.Context())
		d := New(Config{Store: w.store, Proposer: w.proposer, Leader: func() (string, string, bool) { return "n1", "n1:2377", true }})
		done := make(chan error, 1)
		go func() { done <- d.Run(ctx) }()
		for range 10 { // n1 and n2 beat, n3 is silent
			time.Sleep(time.Second)
			d.beat("n1")
			d.beat("n2")
		}
		synctest.Wait()
		if w.node("n1").Status.State != swarm.NodeStateReady || w.node("n3").Status.State != swarm.NodeStateDown {
			t.Errorf("n1 %+v, n3 %+v", w.node("n1").Status, w.node("n3").Status)
		}
		if m := w.node("n1").ManagerStatus; m == nil || !m.Leader || m.Addr != "n1:2377" {
			t.Errorf("leader's manager status: %+v", m)
		}
		d.beat("n3")
		time.Sleep(d.cfg.Coalesce)
		synctest.Wait()
		if got := w.node("n3").Status; got.State != swarm.NodeStateReady || got.Message != "" {
			t.Errorf("n3 is back: %+v", got)
		}
		// Declared down by others: a beat that was under way does not revive it.
		w.change(func(tx *store.Tx) {
			n := *tx.Node("n2")
			n.Status.State = swarm.NodeStateDown
			tx.Update(&n)
		})
		synctest.Wait()
		d.beat("n2")
		time.Sleep(300 * time.Millisecond)
		if got := w.node("n2").Status.State; got != swarm.NodeStateDown {
			t.Errorf("n2 left and is %s", got)
		}
		time.Sleep(time.Second)
		d.beat("n2")
		time.Sleep(d.cfg.Coalesce)
		synctest.Wait()
		if got := w.node("n2").Status.State; got != swarm.NodeStateReady {
			t.Errorf("n2 came back and is %s", got)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// wire carries one dispatcher's calls to another through JSON.
type wire struct {
	mu   sync.Mutex
	to   *Dispatcher
	fail error
}

func (w *wire) Call(ctx context.Context, _, path string, in, out any) error {
	w.mu.Lock()
	to, fail := w.to, w.fail
	w.mu.Unlock()
	if fail != nil {
		return fail
	}
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	switch path {
	case pathRelay:
		var r relayed
		if err := json.Unmarshal(body, &r); err != nil {
			return err
		}
		for _, n := range r.Beats {
			to.beat(n)
		}
		for n, a := range r.Acks {
			to.ledger.ack(n, a)
		}
		out.(*relayReply).Ledger = to.ledger.id
		return nil
	case pathRelayDrained:
		reply, err := to.drained(ctx, in.(protocol.DrainedRequest).TaskID)
		*out.(*protocol.DrainedReply) = reply
		return err
	}
	return errors.New("no such path")
}

func follower() (string, string, bool) { return "n1", "n1:2377", false }

func TestFollowersRelayAndDrainsWaitForAcks(t *testing.T) {
	w := newWorld(t)
	w.add(task("w1", "web", "n1", 11, swarm.TaskStateRunning))
	w.add(task("w2", "web", "n2", 12, swarm.TaskStateRunning))
	leader := w.start(Config{DrainTimeout: time.Minute})
	f := w.start(Config{Leader: follower, Caller: &wire{to: leader}, Relay: 20 * time.Millisecond, DrainTimeout: time.Minute})

	w.set("w1", swarm.TaskStateRunning, swarm.TaskStateShutdown)
	left := w.index()
	poll(t, "the leader to see the drain", func() bool { i, ok := leader.cache.leftAt("w1"); return ok && i == left })
	type answer struct {
		reply protocol.DrainedReply
		err   error
	}
	answered := make(chan answer, 1)
	go func() {
		reply, err := f.askDrained(context.Background(), protocol.DrainedRequest{TaskID: "w1"})
		answered <- answer{reply, err}
	}()
	ack := func(d *Dispatcher, node string, revision uint64) {
		d.beat(node)
		d.ledger.ack(node, map[string]uint64{"mesh": revision, "user": revision})
		d.poke()
	}
	ack(leader, "n1", left)
	ack(f, "n3", left)
	ack(f, "n2", left-1)
	poll(t, "n2 alone to be late", func() bool {
		late, _ := leader.late("w1")
		return len(late) == 1 && late[0] == "n2"
	})
	select {
	case a := <-answered:
		t.Fatalf("answered before n2 had it: %+v", a)
	default:
	}
	ack(f, "n2", left)
	if a := <-answered; a.err != nil || len(a.reply.Late) != 0 {
		t.Errorf("answer: %+v", a)
	}
}

// A new leader is told what its predecessor was told before, of the nodes that are still there.
func TestNewLeaderLearnsAcknowledgements(t *testing.T) {
	w := newWorld(t)
	first, second := w.start(Config{}), w.start(Config{})
	way := &wire{to: first}
	f := w.start(Config{Leader: follower, Caller: way, Relay: 20 * time.Millisecond})
	connect(t, f, "n2")
	f.beat("n2")
	for _, node := range []string{"n2", "n3"} {
		f.ledger.ack(node, map[string]uint64{"user": 7})
	}
	poll(t, "the first leader to know", func() bool {
		return first.ledger.acked("n2", "user") == 7 && first.ledger.acked("n3", "user") == 7
	})
	way.mu.Lock()
	way.to = second
	way.mu.Unlock()
	f.beat("n2") // nothing new but that it lives
	poll(t, "the second leader to know", func() bool { return second.ledger.acked("n2", "user") == 7 })
	if held := second.ledger.acked("n3", "user"); held != 0 {
		t.Errorf("n3 has gone to another manager, and is said to hold %d", held)
	}
}

func TestDrainNamesTheLate(t *testing.T) {
	w := newWorld(t)
	w.add(task("d1", "db", "n1", 11, swarm.TaskStateRunning))
	w.add(task("d2", "db", "n2", 12, swarm.TaskStateRunning))
	d := w.start(Config{DrainTimeout: 100 * time.Millisecond})
	w.set("d1", swarm.TaskStateRunning, swarm.TaskStateShutdown)
	poll(t, "the drain to be known", func() bool { _, ok := d.cache.leftAt("d1"); return ok })
	d.ledger.ack("n1", map[string]uint64{"user": w.index()})
	reply, err := d.drained(context.Background(), "d1")
	if err != nil || len(reply.Late) != 1 || reply.Late[0] != "n2" {
		t.Errorf("got %+v, %v", reply, err)
	}
	reply, err = d.drained(context.Background(), "no such task")
	if err != nil || len(reply.Late) != 0 {
		t.Errorf("unknown task: %+v, %v", reply, err)
	}
}

func TestReportsAreBatchedAndForwardOnly(t *testing.T) {
	w := newWorld(t)
	w.add(task("w1", "web", "n1", 11, swarm.TaskStateAssigned))
	w.add(task("w2", "web", "n2", 12, swarm.TaskStateRunning))
	d := w.start(Config{})
	before := w.index()
	var wg sync.WaitGroup
	send := func(node, id string, states ...swarm.TaskState) {
		wg.Go(func() {
			r := report{node: node}
			for _, s := range states {
				r.updates = append(r.updates, protocol.StatusUpdate{TaskID: id, Status: swarm.TaskStatus{State: s}})
			}
			if err := d.submit(context.Background(), r); err != nil {
				t.Error(err)
			}
		})
	}
	send("n1", "w1", "accepted", "preparing", "ready")
	send("n2", "w2", "starting") // backward
	send("n3", "w2", "failed")   // not its own
	send("n1", "gone", "failed") // unknown
	for range 20 {
		send("n1", "w1", "running")
	}
	wg.Wait()
	w.store.View(func(v *store.View) {
		if got := v.Task("w1").Status; got.State != swarm.TaskStateRunning || got.Timestamp.IsZero() {
			t.Errorf("w1: %+v", got)
		}
		if got := v.Task("w2").Status.State; got != swarm.TaskStateRunning {
			t.Errorf("w2: %s", got)
		}
	})
	if n := w.index() - before; n > 8 { // of 25 requests
		t.Errorf("%d commits for one burst", n)
	}
	err := d.checkOwner("n3", protocol.StatusReport{Updates: []protocol.StatusUpdate{{TaskID: "w1"}}})
	if !errdefs.IsPermissionDenied(err) {
		t.Errorf("foreign task: %v", err)
	}
}

func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting for %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
