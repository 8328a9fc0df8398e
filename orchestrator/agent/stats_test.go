package agent_test

import (
	"context"
	"testing"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/agent"
)

func TestTaskStatesAreCounted(t *testing.T) {
	r := newRig(t)
	a := agent.New(r.cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	r.send(full(task("t1", "assigned", "running"), task("t2", "assigned", "running"), task("t3", "assigned", "running")))
	for _, id := range []string{"t1", "t2", "t3"} {
		r.untilState(id, swarm.TaskStateRunning)
	}
	r.engine.Exit("t2", agent.Exit{})
	r.untilState("t2", swarm.TaskStateComplete)
	if got := a.TaskStates(); got[swarm.TaskStateRunning] != 2 || got[swarm.TaskStateComplete] != 1 || len(got) != 2 {
		t.Errorf("states: %v", got)
	}
}
