package runner

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"

	"github.com/meshd/meshd/orchestrator/agent"
	"github.com/meshd/meshd/orchestrator/agent/agenttest"
	"github.com/meshd/meshd/orchestrator/protocol"
)

const testLimit = 30 * time.Second

// startAgent runs a real agent on the real engine, with managers that are not.
func (f *fixture) startAgent(t *testing.T, m *agenttest.Managers, dir string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(f.ctx)
	a := agent.New(agent.Config{
		NodeID: testNode, Managers: []swarm.Peer{{NodeID: "m", Addr: "m:1"}}, Client: m,
		Runner: f.Runner, Engine: f.Runner, Dataplane: agenttest.NewDataplane(), StateDir: dir,
	})
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// testAgent: tasks go through their lives on a real engine, and survive a new agent.
func (f *fixture) testAgent(t *testing.T) {
	m := agenttest.NewManagers(&agenttest.Log{})
	dir := t.TempDir()
	stop := f.startAgent(t, m, dir)
	defer func() { stop() }()
	const n = 20
	var tasks []protocol.Assignment
	for i := range n {
		a := testTask(fmt.Sprintf("ag%d", i)).Assignment
		a.Task.DesiredState, a.Task.Status.State = swarm.TaskStateRunning, swarm.TaskStateAssigned
		tasks = append(tasks, a)
	}
	send := func(msg protocol.Message) {
		eventually(t, testLimit, "session", func() bool { return m.Send(msg) })
	}
	all := func(s swarm.TaskState) {
		t.Helper()
		for _, a := range tasks {
			eventually(t, testLimit, a.Task.ID+" is "+string(s), func() bool { return m.Status(a.Task.ID).State == s })
		}
	}
	eventually(t, testLimit, "session", func() bool { return m.Session() != "" })
	begin := time.Now()
	send(protocol.Message{Heartbeat: time.Minute, Tasks: &protocol.Tasks{Full: true, Set: tasks}})
	all(swarm.TaskStateRunning)
	t.Logf("%d tasks run after %v; started straight through the engine: %v", n, time.Since(begin), f.raw(t, n))

	stop()
	stop = f.startAgent(t, m, dir)
	before := m.Status("ag0").ContainerStatus.ContainerID
	for i := range tasks {
		tasks[i].Task.Status.State = swarm.TaskStateRunning
		tasks[i].Task.DesiredState = swarm.TaskStateShutdown
	}
	send(protocol.Message{Heartbeat: time.Minute, Tasks: &protocol.Tasks{Full: true, Set: tasks}})
	all(swarm.TaskStateShutdown)
	if got := m.Status("ag0").ContainerStatus; got.ContainerID != before {
		t.Errorf("task was run anew by the second agent: %+v", got)
	}
	send(protocol.Message{Tasks: &protocol.Tasks{Full: true}})
	eventually(t, testLimit, "nothing is left", func() bool {
		list, err := f.List(f.ctx)
		return err == nil && len(list) == 0
	})
}

// raw starts n containers in parallel with nothing but the engine's API.
func (f *fixture) raw(t *testing.T, n int) time.Duration {
	t.Helper()
	begin := time.Now()
	ids := make([]string, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			p, err := makePlan(testTask(fmt.Sprintf("raw%d", i)), "")
			if err != nil {
				t.Error(err)
				return
			}
			res, err := f.api.ContainerCreate(f.ctx, p.Create)
			if ids[i] = res.ID; err == nil {
				_, err = f.api.ContainerStart(f.ctx, ids[i], client.ContainerStartOptions{})
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	took := time.Since(begin)
	for _, id := range ids {
		if err := f.Remove(f.ctx, id); err != nil {
			t.Error(err)
		}
	}
	return took
}
