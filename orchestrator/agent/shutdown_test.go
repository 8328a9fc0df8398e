package agent_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/agent"
	"github.com/meshd/meshd/orchestrator/protocol"
)

// serving starts an agent with one task that serves.
func (r *rig) serving() {
	r.t.Helper()
	r.start()
	r.send(full(mesh(task("t1", "assigned", "running"))))
	r.send(network(1, "t1"))
	r.untilState("t1", swarm.TaskStateRunning)
}

// shutDown runs in the background; the channel gets what comes of it.
func (r *rig) shutDown(ctx context.Context) <-chan error {
	done := make(chan error, 1)
	go func() { done <- r.agent.ShutDown(ctx, func(context.Context) { r.log.Add("alone") }) }()
	return done
}

func TestShutDownLeavesItToTheManagers(t *testing.T) {
	r := newRig(t)
	r.cfg.ManagerPatience = time.Minute
	r.serving()
	done := r.shutDown(t.Context())
	r.until("a session says that the machine shuts down", func() bool { return r.mgrs.Request().Stopping })
	release := r.mgrs.HoldDrained()
	m := full(mesh(task("t1", "running", "running")))
	m.Nodes = []protocol.Node{{ID: self, Stopping: true}}
	r.send(m)
	r.send(change(mesh(task("t1", "running", "shutdown"))))
	r.until("the agent asks", func() bool { return r.log.Index("drained t1") >= 0 })
	select {
	case err := <-done:
		t.Fatalf("returned before the task had ended: %v", err)
	default:
	}
	if r.engine.Events.Index("stop t1") >= 0 {
		t.Error("stopped before it was drained")
	}
	release()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if s := r.mgrs.Status("t1"); s.State != swarm.TaskStateShutdown {
		t.Errorf("the managers were told %+v", s)
	}
	if r.log.Index("alone") >= 0 {
		t.Error("the managers did all that was needed")
	}
}

func TestShutDownWithoutManagers(t *testing.T) {
	r := newRig(t)
	r.cfg.ManagerPatience = 50 * time.Millisecond
	r.serving()
	r.mgrs.Refuse(errors.Join(errors.New("no leader"), errdefs.ErrUnavailable))
	if err := <-r.shutDown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r.log.Index("alone") < 0 || r.engine.State("t1") != agent.ContainerExited {
		t.Errorf("log %q, container %v", r.log.All(), r.engine.State("t1"))
	}
}

// A task that has nowhere to go holds nothing up for ever.
func TestShutDownEndsWhatManagersLeave(t *testing.T) {
	r := newRig(t)
	r.cfg.ManagerPatience, r.cfg.MovePatience = time.Minute, 50*time.Millisecond
	r.serving()
	done := r.shutDown(t.Context())
	r.until("a session says that the machine shuts down", func() bool { return r.mgrs.Request().Stopping })
	m := full(mesh(task("t1", "running", "running")))
	m.Nodes = []protocol.Node{{ID: self, Stopping: true}}
	r.send(m)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if r.log.Index("alone") < 0 || r.mgrs.Status("t1").State != swarm.TaskStateShutdown {
		t.Errorf("log %q, the managers were told %+v", r.log.All(), r.mgrs.Status("t1"))
	}
}

func TestShutDownEndsWithItsContext(t *testing.T) {
	r := newRig(t)
	r.cfg.ManagerPatience = 20 * time.Millisecond
	r.serving()
	defer r.engine.Hold("stop t1")()
	ctx, cancel := context.WithCancel(t.Context())
	done := r.shutDown(ctx)
	r.until("the task is being stopped", func() bool { return r.engine.Events.Index("stop t1") >= 0 })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
