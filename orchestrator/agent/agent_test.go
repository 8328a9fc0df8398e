package agent_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/certs"
	"github.com/meshd/meshd/orchestrator/agent"
	"github.com/meshd/meshd/orchestrator/agent/agenttest"
	"github.com/meshd/meshd/orchestrator/protocol"
)

const self = "self"

// rig is an agent among fakes. The fakes outlive the agent, as the real ones do.
type rig struct {
	t      *testing.T
	log    *agenttest.Log
	engine *agenttest.Engine
	mgrs   *agenttest.Managers
	plane  *agenttest.Dataplane
	cfg    agent.Config
	agent  *agent.Agent
	stop   func()
}

func newRig(t *testing.T, managers ...swarm.Peer) *rig {
	t.Helper()
	r := &rig{t: t, log: &agenttest.Log{}, engine: agenttest.NewEngine(), plane: agenttest.NewDataplane()}
	r.mgrs = agenttest.NewManagers(r.log)
	if len(managers) == 0 {
		managers = []swarm.Peer{{NodeID: "m1", Addr: "m1:2377"}}
	}
	r.cfg = agent.Config{
		NodeID: self, Managers: managers, Client: r.mgrs, Runner: r.engine, Engine: r.engine, Dataplane: r.plane,
		DataAddr: netip.MustParseAddr("192.0.2.1"), StateDir: t.TempDir(),
		Logger:      slog.New(slog.NewTextHandler(quiet{}, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Backoff:     agent.Backoff{Min: time.Millisecond, Max: 10 * time.Millisecond},
		PullBackoff: agent.Backoff{Min: time.Millisecond, Max: 10 * time.Millisecond},
		AckPeriod:   20 * time.Millisecond, DrainTimeout: 200 * time.Millisecond, ReadyTimeout: 5 * time.Second,
	}
	t.Cleanup(func() { r.halt() })
	return r
}

type quiet struct{}

func (quiet) Write(p []byte) (int, error) {
	if os.Getenv("AGENT_LOG") != "" {
		return os.Stderr.Write(p)
	}
	return len(p), nil
}

// start runs an agent; halt ends it and waits for all its goroutines.
func (r *rig) start() { r.run(agent.New(r.cfg)) }

func (r *rig) run(a *agent.Agent) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	r.agent = a
	go func() { done <- a.Run(ctx) }()
	r.stop = func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				r.t.Errorf("Run: %v", err)
			}
		case <-time.After(time.Minute):
			r.t.Error("Run does not return")
		}
	}
}

func (r *rig) halt() {
	if r.stop != nil {
		r.stop()
		r.stop = nil
	}
}

// send delivers a message, once a session is there.
func (r *rig) send(m protocol.Message) {
	r.t.Helper()
	r.until("a session takes the message", func() bool { return r.mgrs.Send(m) })
}

func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !ok() {
		if time.Now().After(deadline) {
			r.t.Fatalf("never: %s; log %q, engine %q", what, r.log.All(), r.engine.Events.All())
		}
		time.Sleep(time.Millisecond)
	}
}

func (r *rig) untilState(id string, s swarm.TaskState) swarm.TaskStatus {
	r.t.Helper()
	r.until(fmt.Sprintf("%s is %s", id, s), func() bool { return r.mgrs.Status(id).State == s })
	return r.mgrs.Status(id)
}

// full is the message that says everything.
func full(tasks ...protocol.Assignment) protocol.Message {
	return protocol.Message{Heartbeat: time.Minute, Tasks: &protocol.Tasks{Full: true, Set: tasks}}
}

func change(tasks ...protocol.Assignment) protocol.Message {
	return protocol.Message{Tasks: &protocol.Tasks{Set: tasks}}
}

// task is one on the engine's own network; mesh puts it on network n1.
func task(id string, state, desired swarm.TaskState) protocol.Assignment {
	return protocol.Assignment{ServiceName: "web", Task: swarm.Task{
		ID: id, NodeID: self, Slot: 1, DesiredState: desired, Status: swarm.TaskStatus{State: state},
	}}
}

func mesh(a protocol.Assignment) protocol.Assignment {
	n := swarm.Network{ID: "n1"}
	n.Spec.Name = "ov"
	a.Task.NetworksAttachments = []swarm.NetworkAttachment{{Network: n, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24")}}}
	return a
}

func network(revision uint64, tasks ...string) protocol.Message {
	n := protocol.NetworkChange{Network: protocol.Network{ID: "n1", Name: "ov", Revision: revision}}
	for _, id := range tasks {
		n.Endpoints = append(n.Endpoints, protocol.Endpoint{TaskID: id})
	}
	return protocol.Message{Networks: []protocol.NetworkChange{n}}
}

// A port that a process of the node has is not taken from it by a task.
func TestTaskNamesWhoHasItsPort(t *testing.T) {
	r := newRig(t)
	r.plane.Take(8080, "nginx (process 7)")
	a := mesh(task("t1", "assigned", "running"))
	a.Endpoint = &swarm.EndpointSpec{Ports: []swarm.PortConfig{{TargetPort: 80, PublishedPort: 8080, PublishMode: swarm.PortConfigPublishModeHost}}}
	b := a
	b.Task.ID = "t2"
	b.Endpoint = &swarm.EndpointSpec{Ports: []swarm.PortConfig{{TargetPort: 80, PublishedPort: 8080, PublishMode: swarm.PortConfigPublishModeIngress}}}
	r.start()
	m := full(a, b)
	m.Networks = network(1, "t1", "t2").Networks
	r.send(m)
	if s := r.untilState("t1", swarm.TaskStateRejected); s.Err != "port 8080 is in use by nginx (process 7)" {
		t.Errorf("rejected: %+v", s)
	}
	r.untilState("t2", swarm.TaskStateRunning)
}

// Where the node has other uses for a network's addresses, its tasks do not start.
func TestTaskNamesTheRouteInItsNetworksWay(t *testing.T) {
	r := newRig(t)
	r.plane.Route("n1", "10.7.0.0/16 dev eth7")
	r.start()
	m := full(mesh(task("t1", "assigned", "running")))
	m.Networks = network(1, "t1").Networks
	r.send(m)
	if s := r.untilState("t1", swarm.TaskStateRejected); s.Err != "network ov overlaps 10.7.0.0/16 dev eth7" {
		t.Errorf("rejected: %+v", s)
	}
}

func TestTaskRunsAndCompletes(t *testing.T) {
	r := newRig(t)
	r.start()
	r.send(full(task("t1", "assigned", "running")))
	s := r.untilState("t1", swarm.TaskStateRunning)
	if s.Message != "started" || s.Err != "" || s.ContainerStatus == nil || s.ContainerStatus.ContainerID != "c-t1" || s.ContainerStatus.PID != 42 {
		t.Errorf("running: %+v", s)
	}
	r.engine.Exit("t1", agent.Exit{})
	if s := r.untilState("t1", swarm.TaskStateComplete); s.Message != "finished" || s.Err != "" {
		t.Errorf("complete: %+v", s)
	}
	r.send(protocol.Message{Tasks: &protocol.Tasks{Remove: []string{"t1"}}})
	r.until("the container is removed", func() bool { return r.engine.State("t1") == agent.ContainerNone })
	if got, want := r.engine.Events.All(), []string{"prepare t1", "start t1", "remove t1"}; !slices.Equal(got, want) {
		t.Errorf("engine did %q, want %q", got, want)
	}
	forwardOnly(t, r.mgrs.Statuses("t1"))
}

// forwardOnly fails if a reported state is not after the one before it.
func forwardOnly(t *testing.T, statuses []swarm.TaskStatus) {
	t.Helper()
	last := swarm.TaskState("assigned")
	for _, s := range statuses {
		if rankOf(s.State) <= rankOf(last) {
			t.Errorf("%s after %s", s.State, last)
		}
		last = s.State
	}
}

func rankOf(s swarm.TaskState) int {
	return slices.Index([]swarm.TaskState{
		"assigned", "accepted", "preparing", "ready", "starting", "running", "complete", "shutdown", "failed", "rejected"}, s)
}

func TestFailures(t *testing.T) {
	tests := []struct {
		name  string
		spoil func(*agenttest.Engine)
		after func(*agenttest.Engine)
		want  swarm.TaskStatus
	}{
		{"exit code", nil, func(e *agenttest.Engine) { e.Exit("t1", agent.Exit{Code: 3}) },
			swarm.TaskStatus{State: "failed", Message: "started", Err: "task: non-zero exit (3)"}},
		{"out of memory", nil, func(e *agenttest.Engine) { e.Exit("t1", agent.Exit{Code: 137, Cause: "out of memory"}) },
			swarm.TaskStatus{State: "failed", Message: "started", Err: "task: non-zero exit (137): out of memory"}},
		{"unhealthy", nil, func(e *agenttest.Engine) { e.Unhealthy("t1") },
			swarm.TaskStatus{State: "failed", Message: "started", Err: "dockerexec: unhealthy container"}},
		{"never healthy", func(e *agenttest.Engine) { e.Fail("start t1", agent.ErrUnhealthy) }, nil,
			swarm.TaskStatus{State: "failed", Message: "starting", Err: "dockerexec: unhealthy container"}},
		{"no image", func(e *agenttest.Engine) { e.Fail("prepare t1", errors.New("No such image: x")) }, nil,
			swarm.TaskStatus{State: "rejected", Message: "preparing", Err: "No such image: x"}},
		{"no command", func(e *agenttest.Engine) { e.Fail("start t1", errors.New("exec: not found")) }, nil,
			swarm.TaskStatus{State: "failed", Message: "starting", Err: "starting container failed: exec: not found"}},
		{"ends at once", func(e *agenttest.Engine) { e.Fail("start t1", agent.Exit{Code: 2}.Err()) }, nil,
			swarm.TaskStatus{State: "failed", Message: "starting", Err: "task: non-zero exit (2)"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			if tt.spoil != nil {
				tt.spoil(r.engine)
			}
			r.start()
			r.send(full(task("t1", "assigned", "running")))
			if tt.after != nil {
				r.untilState("t1", swarm.TaskStateRunning)
				tt.after(r.engine)
			}
			got := r.untilState("t1", tt.want.State)
			if got.Message != tt.want.Message || got.Err != tt.want.Err {
				t.Errorf("got %q, %q; want %q, %q", got.Message, got.Err, tt.want.Message, tt.want.Err)
			}
		})
	}
}

func TestEngineAwayIsNoFailure(t *testing.T) {
	r := newRig(t)
	r.engine.SetDown(true)
	r.start()
	r.engine.SetDown(false)
	r.until("a session", func() bool { return r.mgrs.Session() != "" })
	r.engine.SetDown(true)
	r.send(full(task("t1", "assigned", "running")))
	r.until("the agent tried twice", func() bool {
		return strings.Count(strings.Join(r.engine.Events.All(), ","), "prepare t1") >= 2
	})
	r.engine.SetDown(false)
	r.untilState("t1", swarm.TaskStateRunning)
	forwardOnly(t, r.mgrs.Statuses("t1"))
}

// A registry that cannot be asked is asked again, and the task says so meanwhile; new credentials are tried at once.
func TestRegistryAway(t *testing.T) {
	away := fmt.Errorf("No such image: x: connection refused: %w", agent.ErrImage)
	r := newRig(t)
	r.cfg.PullBackoff = agent.Backoff{Min: time.Hour, Max: time.Hour}
	r.engine.Fail("prepare t1", away)
	r.start()
	r.send(full(task("t1", "assigned", "running")))
	r.until("the managers know what is missing", func() bool {
		all := r.mgrs.Statuses("t1")
		return len(all) > 0 && all[len(all)-1].State == swarm.TaskStatePreparing && all[len(all)-1].Err == away.Error()
	})
	r.engine.Fail("prepare t1", nil)
	known := task("t1", "assigned", "running")
	known.RegistryAuth = "sesame"
	r.send(full(known))
	if got := r.untilState("t1", swarm.TaskStateRunning); got.Err != "" {
		t.Errorf("it runs, and still says %q", got.Err)
	}
}

func TestRegistryStaysAway(t *testing.T) {
	r := newRig(t)
	r.engine.Fail("prepare t1", agent.ErrImage)
	r.start()
	r.send(full(task("t1", "assigned", "running")))
	r.untilState("t1", swarm.TaskStateRejected)
	if n := strings.Count(strings.Join(r.engine.Events.All(), ","), "prepare t1"); n != 6 {
		t.Errorf("the image was asked for %d times, want 6", n)
	}
}

func TestReadyWaitsForDesired(t *testing.T) {
	r := newRig(t)
	r.start()
	r.send(full(task("t1", "assigned", "ready")))
	if s := r.untilState("t1", swarm.TaskStateReady); s.Message != "prepared" {
		t.Errorf("%+v", s)
	}
	if r.engine.Events.Index("start t1") >= 0 {
		t.Error("started although only ready is desired")
	}
	r.send(change(task("t1", "ready", "running")))
	r.untilState("t1", swarm.TaskStateRunning)
	// Desired states only move forward: a late message changes nothing.
	r.send(change(task("t1", "running", "shutdown")))
	r.send(change(task("t1", "running", "running")))
	r.untilState("t1", swarm.TaskStateShutdown)
}

func TestStartWaitsForDataplane(t *testing.T) {
	r := newRig(t)
	r.plane.Freeze()
	r.start()
	r.send(full(mesh(task("t1", "assigned", "running"))))
	r.until("the task is on its way", func() bool { return r.mgrs.Status("t1").State == swarm.TaskStatePreparing })
	if r.engine.Events.Index("prepare t1") >= 0 {
		t.Error("prepared before the network is known")
	}
	r.send(network(7))
	r.untilState("t1", swarm.TaskStateStarting)
	r.send(network(8, "t1"))
	r.until("the data plane has revision 8", func() bool {
		n := r.plane.View().Networks
		return len(n) == 1 && n[0].Revision == 8
	})
	if r.engine.Events.Index("start t1") >= 0 {
		t.Error("started before the kernel holds the network")
	}
	r.plane.Thaw()
	r.untilState("t1", swarm.TaskStateRunning)
	r.until("the revision is acknowledged", func() bool {
		// Later ones may say that nothing changed.
		return slices.ContainsFunc(r.mgrs.Acks(), func(a protocol.Ack) bool { return a.Networks["n1"] == 8 })
	})
}

// A node answers heartbeats: of its own accord it says seldom that it lives.
func TestHeartbeatsAreAnswered(t *testing.T) {
	r := newRig(t)
	r.cfg.AckPeriod = time.Hour
	r.start()
	for range 3 {
		before := len(r.mgrs.Acks())
		r.send(protocol.Message{Heartbeat: time.Hour})
		r.until("it is answered", func() bool { return len(r.mgrs.Acks()) > before })
	}
}

func TestStartGivesUpOnDataplane(t *testing.T) {
	r := newRig(t)
	r.cfg.ReadyTimeout = 20 * time.Millisecond
	r.plane.Freeze()
	r.start()
	r.send(full(mesh(task("t1", "assigned", "running"))))
	r.send(network(8, "t1"))
	if s := r.untilState("t1", swarm.TaskStateFailed); !strings.Contains(s.Err, "network ov was not ready on this node") {
		t.Errorf("%+v", s)
	}
}

func TestDrainBeforeStop(t *testing.T) {
	r := newRig(t)
	r.cfg.DrainTimeout = time.Minute
	r.start()
	r.send(full(mesh(task("t1", "assigned", "running"))))
	r.send(network(1, "t1"))
	r.untilState("t1", swarm.TaskStateRunning)
	release := r.mgrs.HoldDrained()
	r.send(change(mesh(task("t1", "running", "shutdown"))))
	r.until("the agent asks", func() bool { return r.log.Index("drained t1") >= 0 })
	if r.engine.Events.Index("stop t1") >= 0 {
		t.Error("stopped before it was drained")
	}
	release()
	if s := r.untilState("t1", swarm.TaskStateShutdown); s.Message != "shutdown" {
		t.Errorf("%+v", s)
	}
	if r.engine.State("t1") != agent.ContainerExited {
		t.Error("the container must stay until the task is reaped")
	}
	r.until("its addresses are not its own any more", func() bool { return len(r.plane.View().Tasks) == 0 })
	r.send(protocol.Message{Tasks: &protocol.Tasks{Remove: []string{"t1"}}})
	r.until("removed", func() bool { return r.engine.State("t1") == agent.ContainerNone })
}

func TestDrainIsBounded(t *testing.T) {
	r := newRig(t)
	r.start()
	r.send(full(mesh(task("t1", "assigned", "running"))))
	r.send(network(1, "t1"))
	r.untilState("t1", swarm.TaskStateRunning)
	defer r.mgrs.HoldDrained()()
	r.send(change(mesh(task("t1", "running", "shutdown"))))
	r.untilState("t1", swarm.TaskStateShutdown)
}

func TestShutdownInterrupts(t *testing.T) {
	for _, op := range []string{"prepare t1", "start t1"} {
		t.Run(op, func(t *testing.T) {
			r := newRig(t)
			defer r.engine.Hold(op)()
			r.start()
			r.send(full(task("t1", "assigned", "running")))
			r.until(op, func() bool { return r.engine.Events.Index(op) >= 0 })
			r.send(change(task("t1", "running", "remove")))
			r.untilState("t1", swarm.TaskStateShutdown)
			if s := r.engine.State("t1"); s == agent.ContainerRunning {
				t.Error("still running")
			}
		})
	}
}

func TestManagerLoss(t *testing.T) {
	m1, m2 := swarm.Peer{NodeID: "m1", Addr: "m1:2377"}, swarm.Peer{NodeID: "m2", Addr: "m2:2377"}
	r := newRig(t, m1)
	saved := make(chan []swarm.Peer, 10)
	r.cfg.SaveManagers = func(p []swarm.Peer) { saved <- p }
	r.start()
	m := full(task("t1", "assigned", "running"), task("t2", "assigned", "running"))
	m.Managers = []swarm.Peer{m1, m2}
	r.send(m)
	r.untilState("t1", swarm.TaskStateRunning)
	r.untilState("t2", swarm.TaskStateRunning)
	if got := <-saved; !slices.Equal(got, m.Managers) {
		t.Errorf("saved %v", got)
	}
	r.mgrs.SetDown("m1:2377", true)
	r.mgrs.SetDown("m2:2377", true)
	r.engine.Exit("t1", agent.Exit{Code: 1})
	r.until("the container's end was seen", func() bool { return r.engine.State("t1") == agent.ContainerExited })
	if r.engine.State("t2") != agent.ContainerRunning {
		t.Error("a task stopped because managers are away")
	}
	r.mgrs.SetDown("m2:2377", false)
	r.untilState("t1", swarm.TaskStateFailed)
	r.until("m2 has the session", func() bool { return r.mgrs.Session() == "m2:2377" })
}

// A node that was removed from the swarm stops its tasks, and does not take them up again.
func TestRemovedNodeStopsItsTasks(t *testing.T) {
	r := newRig(t)
	ended := make(chan error, 1)
	go func() { ended <- agent.New(r.cfg).Run(t.Context()) }()
	r.send(full(task("t1", "assigned", "running")))
	r.untilState("t1", swarm.TaskStateRunning)
	r.mgrs.Refuse(certs.ErrBlocked)
	select {
	case err := <-ended:
		if !errors.Is(err, agent.ErrRemoved) {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the agent goes on")
	}
	if s := r.engine.State("t1"); s != agent.ContainerNone {
		t.Errorf("the task's container is %v", s)
	}
	r.mgrs.Refuse(nil)
	r.start() // takes up what is saved, then looks for a manager
	r.until("a session", func() bool { return strings.Count(strings.Join(r.log.All(), ","), "session m1:2377") >= 2 })
	if s := r.engine.State("t1"); s != agent.ContainerNone {
		t.Errorf("after a restart the task's container is %v", s)
	}
}

func TestPrefersOwnManager(t *testing.T) {
	r := newRig(t, swarm.Peer{NodeID: "m1", Addr: "m1:1"}, swarm.Peer{NodeID: self, Addr: "own:1"}, swarm.Peer{NodeID: "m2", Addr: "m2:1"})
	r.start()
	r.until("a session with its own", func() bool { return r.mgrs.Session() == "own:1" })
	r.mgrs.SetDown("own:1", true)
	r.until("a session with another", func() bool { return strings.HasPrefix(r.mgrs.Session(), "m") })
}

func TestSilentManagerIsLeft(t *testing.T) {
	r := newRig(t)
	r.start()
	r.send(protocol.Message{Heartbeat: 10 * time.Millisecond})
	r.until("a second session", func() bool {
		return strings.Count(strings.Join(r.log.All(), ","), "session m1:2377") >= 2
	})
}

func TestUnknownSessionIsOpenedAnew(t *testing.T) {
	r := newRig(t)
	r.start()
	r.send(full())
	r.mgrs.Refuse(errdefs.ErrNotFound)
	r.until("a second session", func() bool {
		return strings.Count(strings.Join(r.log.All(), ","), "session m1:2377") >= 2
	})
	r.mgrs.Refuse(nil)
	r.send(full(task("t1", "assigned", "running")))
	r.untilState("t1", swarm.TaskStateRunning)
}

func TestAdoption(t *testing.T) {
	r := newRig(t)
	r.start()
	r.send(full(task("t1", "assigned", "running"), task("t2", "assigned", "running"), task("t3", "assigned", "running")))
	for _, id := range []string{"t1", "t2", "t3"} {
		r.untilState(id, swarm.TaskStateRunning)
	}
	r.halt()
	for _, id := range []string{"t1", "t2", "t3"} {
		if r.engine.State(id) != agent.ContainerRunning {
			t.Fatalf("the agent's end stopped %s", id)
		}
	}
	// While no agent looks, t2 ends and somebody else's task appears.
	r.engine.Exit("t2", agent.Exit{Code: 9})
	r.engine.Add("orphan", agent.ContainerRunning, agent.Exit{})
	before := len(r.engine.Events.All())
	r.mgrs.SetDown("m1:2377", true)
	r.start()
	r.until("the saved assignments are known", func() bool { return len(r.plane.View().Tasks) > 0 })
	r.mgrs.SetDown("m1:2377", false)
	if s := r.untilState("t2", swarm.TaskStateFailed); s.Err != "task: non-zero exit (9)" {
		t.Errorf("%+v", s)
	}
	if r.engine.State("orphan") != agent.ContainerRunning {
		t.Error("orphan touched before a manager has said what is assigned")
	}
	// A change is not the whole truth yet.
	r.send(change(task("t1", "running", "running")))
	if r.engine.State("orphan") != agent.ContainerRunning {
		t.Error("orphan touched after a partial message")
	}
	r.send(full(task("t1", "running", "running"), task("t2", "failed", "shutdown")))
	r.until("the orphan is gone", func() bool { return r.engine.State("orphan") == agent.ContainerNone })
	r.until("so is t3, not assigned any more", func() bool { return r.engine.State("t3") == agent.ContainerNone })
	for _, e := range r.engine.Events.All()[before:] {
		if strings.HasPrefix(e, "prepare") || strings.HasPrefix(e, "start") || strings.HasSuffix(e, "t1") {
			t.Errorf("adoption did %q", e)
		}
	}
	r.engine.Exit("t1", agent.Exit{})
	r.untilState("t1", swarm.TaskStateComplete)
}

func TestAdoptionWithoutFile(t *testing.T) {
	r := newRig(t)
	r.engine.Add("t1", agent.ContainerRunning, agent.Exit{})
	r.engine.Add("t2", agent.ContainerExited, agent.Exit{Code: 5})
	r.start()
	r.send(full(task("t1", "running", "running"), task("t2", "starting", "running"), task("t3", "running", "running")))
	r.untilState("t2", swarm.TaskStateFailed)
	if s := r.untilState("t3", swarm.TaskStateFailed); s.Err != "No such container: web.1.t3" {
		t.Errorf("%+v", s)
	}
	if got := r.engine.Events.All(); len(got) != 0 {
		t.Errorf("adoption did %q", got)
	}
	r.engine.Exit("t1", agent.Exit{Code: 1})
	r.untilState("t1", swarm.TaskStateFailed)
}

func TestDamagedFileIsNoEnd(t *testing.T) {
	r := newRig(t)
	if err := os.WriteFile(filepath.Join(r.cfg.StateDir, "assignments.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.send(full(task("t1", "assigned", "running")))
	r.untilState("t1", swarm.TaskStateRunning)
}

func TestSecretsStayOffTheDisk(t *testing.T) {
	r := newRig(t)
	r.start()
	a := task("t1", "assigned", "running")
	a.RegistryAuth = "sesame"
	a.Secrets = []swarm.Secret{{ID: "its-id", Spec: swarm.SecretSpec{Data: []byte("sesame")}}}
	r.send(full(a))
	r.untilState("t1", swarm.TaskStateRunning)
	r.halt()
	data, err := os.ReadFile(filepath.Join(r.cfg.StateDir, "assignments.json"))
	if err != nil || !strings.Contains(string(data), "t1") || !strings.Contains(string(data), "its-id") || strings.Contains(string(data), "sesame") || strings.Contains(string(data), "c2VzYW1l") {
		t.Errorf("%v %s", err, data)
	}
}

func TestMissedStatusIsSentAgain(t *testing.T) {
	r := newRig(t)
	r.start()
	r.send(full(task("t1", "assigned", "running")))
	r.untilState("t1", swarm.TaskStateRunning)
	n := len(r.mgrs.Statuses("t1"))
	r.send(full(task("t1", "accepted", "running"))) // a manager that knows less
	r.until("it is told", func() bool { return len(r.mgrs.Statuses("t1")) > n })
	if s := r.mgrs.Status("t1"); s.State != swarm.TaskStateRunning {
		t.Errorf("%+v", s)
	}
}

func TestTaskComesBack(t *testing.T) {
	r := newRig(t)
	r.start()
	r.send(full(task("t1", "assigned", "running")))
	r.untilState("t1", swarm.TaskStateRunning)
	r.send(full()) // a manager that lags
	r.until("the container is gone", func() bool { return r.engine.State("t1") == agent.ContainerNone })
	r.send(full(task("t1", "running", "running")))
	// It is not run a second time: managers must see that it ended.
	r.until("managers are told", func() bool { return rankOf(r.mgrs.Status("t1").State) > rankOf("running") })
	if n := strings.Count(strings.Join(r.engine.Events.All(), ","), "start t1"); n != 1 {
		t.Errorf("started %d times", n)
	}
}

func TestLaggingManagerIsNotBelieved(t *testing.T) {
	r := newRig(t)
	r.cfg.LagPatience = time.Hour
	at := func(index uint64, m protocol.Message) protocol.Message {
		m.Tasks.Index = index
		return m
	}
	r.start()
	r.send(at(10, full(task("t1", "assigned", "running"))))
	r.untilState("t1", swarm.TaskStateRunning)
	sessions := func() int { return strings.Count(strings.Join(r.log.All(), ","), "session ") }
	for restarted := range 2 { // the second time with what is on disk
		before := sessions()
		r.send(at(9, full()))
		r.until("another session", func() bool { return sessions() > before })
		if r.engine.State("t1") != agent.ContainerRunning {
			t.Fatal("a lagging manager stopped a task")
		}
		if restarted == 0 {
			r.halt()
			r.start()
		}
	}
	r.halt()
	r.cfg.LagPatience = time.Nanosecond // restored from an older state: believed in the end
	r.start()
	r.until("believed", func() bool {
		r.mgrs.Send(at(9, full()))
		return r.engine.State("t1") == agent.ContainerNone
	})
}

func TestNetworksArePruned(t *testing.T) {
	r := newRig(t)
	r.start()
	r.send(full())
	r.send(network(3))
	r.send(protocol.Message{NetworksGone: []string{"other"}})
	r.until("pruned, but for n1", func() bool { return slices.Equal(r.engine.Kept(), []string{"n1"}) })
	r.send(protocol.Message{NetworksGone: []string{"n1"}})
	r.until("pruned", func() bool { return len(r.engine.Kept()) == 0 })
}

func TestManyTasksStartTogether(t *testing.T) {
	r := newRig(t)
	var all []protocol.Assignment
	var releases []func()
	for i := range 30 {
		id := fmt.Sprintf("t%02d", i)
		all = append(all, task(id, "assigned", "running"))
		releases = append(releases, r.engine.Hold("start "+id))
	}
	r.start()
	r.send(full(all...))
	r.until("all start at once", func() bool { return r.engine.PeakStarts() == 30 })
	for _, release := range releases {
		release()
	}
	for _, a := range all {
		r.untilState(a.Task.ID, swarm.TaskStateRunning)
	}
}
