package meshd

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/meshd/meshd/orchestrator/agent"
	"github.com/meshd/meshd/orchestrator/agent/agenttest"
)

// simEngine is an engine that takes its time, fails now and then, and watches
// that no two of its containers have the same port of the machine.
type simEngine struct {
	*agenttest.Engine
	t testing.TB

	mu     sync.Mutex // guards what follows
	rng    *rand.Rand
	tasks  map[string]agent.Task // by container
	faulty bool
}

func newSimEngine(t testing.TB, seed uint64) *simEngine {
	return &simEngine{Engine: agenttest.NewEngine(), t: t, rng: rand.New(rand.NewPCG(seed, 2)), tasks: map[string]agent.Task{}}
}

// setFaulty says whether one start in ten fails.
func (e *simEngine) setFaulty(faulty bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.faulty = faulty
}

// dawdle takes a while, and says whether the work fails.
func (e *simEngine) dawdle(ctx context.Context, most time.Duration) error {
	e.mu.Lock()
	pause, fails := time.Duration(e.rng.Int64N(int64(most))), e.faulty && e.rng.IntN(10) == 0
	e.mu.Unlock()
	select {
	case <-time.After(pause):
	case <-ctx.Done():
		return ctx.Err()
	}
	if fails {
		return errors.New("a fault of the simulation")
	}
	return nil
}

// Prepare implements agent.Runner.
func (e *simEngine) Prepare(ctx context.Context, t agent.Task) (string, error) {
	if err := e.dawdle(ctx, 300*time.Millisecond); err != nil {
		return "", err
	}
	id, err := e.Engine.Prepare(ctx, t)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tasks[id] = t
	return id, err
}

// Start implements agent.Runner.
func (e *simEngine) Start(ctx context.Context, id string) (int, error) {
	if err := e.dawdle(ctx, 500*time.Millisecond); err != nil {
		return 0, err
	}
	e.checkPorts(id)
	return e.Engine.Start(ctx, id)
}

// Stop implements agent.Runner.
func (e *simEngine) Stop(ctx context.Context, id string) error {
	e.dawdle(ctx, 300*time.Millisecond) // a stop does not fail
	return e.Engine.Stop(ctx, id)
}

// checkPorts looks for a running container with a port that this one is to have.
func (e *simEngine) checkPorts(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	want := map[uint32]bool{}
	for _, p := range agent.HostPorts(e.tasks[id].Endpoint) {
		want[p.PublishedPort] = true
	}
	for other, t := range e.tasks {
		if other == id || e.State(t.Task.ID) != agent.ContainerRunning {
			continue
		}
		for _, p := range agent.HostPorts(t.Endpoint) {
			if want[p.PublishedPort] {
				e.t.Errorf("tasks %s and %s both have port %d of node %s", e.tasks[id].Task.ID, t.Task.ID, p.PublishedPort, t.Task.NodeID)
			}
		}
	}
}

// alive are the tasks whose containers run.
func (e *simEngine) alive() []agent.Task {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []agent.Task
	for _, t := range e.tasks {
		if e.State(t.Task.ID) == agent.ContainerRunning {
			out = append(out, t)
		}
	}
	return out
}

// endOne ends a container; which one, pick says.
func (e *simEngine) endOne(pick func(n int) int, exit agent.Exit) {
	if all := e.alive(); len(all) > 0 {
		e.Exit(all[pick(len(all))].Task.ID, exit)
	}
}

// endAll is a power cut.
func (e *simEngine) endAll() {
	for _, t := range e.alive() {
		e.Exit(t.Task.ID, agent.Exit{Code: 137})
	}
}
