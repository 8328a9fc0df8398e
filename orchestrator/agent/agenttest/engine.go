// Package agenttest holds fakes of what an agent talks to: an engine that keeps
// containers in memory, managers that say what a test tells them to, and a data
// plane that holds whatever it is given.
package agenttest

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/agent"
	"github.com/meshd/meshd/orchestrator/protocol"
)

// Engine is a fake agent.Runner and agent.Engine. Containers survive the agent
// that made them.
type Engine struct {
	// Events gets "prepare t1", "start t1", "stop t1", "remove t1" in order.
	Events Log

	mu         sync.Mutex
	containers map[string]*fakeContainer
	fail       map[string]error // "prepare t1" -> what to answer
	hold       map[string]chan struct{}
	down       bool
	kept       []string
	starting   int
	peak       int

	attached    []protocol.Attached
	attachments chan struct{}
}

type fakeContainer struct {
	agent.Container
	exit      agent.Exit
	unhealthy bool
	changed   chan struct{}
}

// NewEngine returns an engine without containers.
func NewEngine() *Engine {
	return &Engine{containers: map[string]*fakeContainer{}, fail: map[string]error{}, hold: map[string]chan struct{}{}, attachments: make(chan struct{}, 1)}
}

// Fail makes an operation on a task, e.g. "start t1", fail with err; nil heals it.
func (e *Engine) Fail(op string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fail[op] = err
}

// Hold makes an operation on a task wait until release is called.
func (e *Engine) Hold(op string) (release func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := make(chan struct{})
	e.hold[op] = c
	return sync.OnceFunc(func() { close(c) })
}

// SetDown makes the engine unreachable, or reachable again.
func (e *Engine) SetDown(down bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.down = down
}

// EnsureNetwork implements agent.Engine.
func (e *Engine) EnsureNetwork(context.Context, protocol.Network) error { return nil }

// Attach sets which containers of no task are attached.
func (e *Engine) Attach(attached ...protocol.Attached) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.attached = attached
	select {
	case e.attachments <- struct{}{}:
	default:
	}
}

// Attached implements agent.Engine.
func (e *Engine) Attached(context.Context) ([]protocol.Attached, <-chan struct{}, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.attached, e.attachments, nil
}

// Detach implements agent.Engine.
func (e *Engine) Detach(_ context.Context, container, network string) error {
	e.Events.Add("detach " + container + " " + network)
	return nil
}

// Add puts a container there that an earlier agent made.
func (e *Engine) Add(taskID string, s agent.ContainerState, exit agent.Exit) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.addLocked(taskID).State = s
	e.containers["c-"+taskID].exit = exit
}

// Exit ends a task's process.
func (e *Engine) Exit(taskID string, exit agent.Exit) {
	e.change(taskID, func(c *fakeContainer) { c.State, c.exit = agent.ContainerExited, exit })
}

// Unhealthy makes a task's health check fail.
func (e *Engine) Unhealthy(taskID string) {
	e.change(taskID, func(c *fakeContainer) { c.unhealthy = true })
}

// State is that of a task's container.
func (e *Engine) State(taskID string) agent.ContainerState {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c := e.containers["c-"+taskID]; c != nil {
		return c.State
	}
	return agent.ContainerNone
}

// Kept is what the last PruneNetworks was told to keep.
func (e *Engine) Kept() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.kept
}

// PeakStarts is how many starts were under way at once.
func (e *Engine) PeakStarts() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.peak
}

// Prepare implements agent.Runner.
func (e *Engine) Prepare(ctx context.Context, t agent.Task) (string, error) {
	if err := e.begin(ctx, "prepare", t.Task.ID); err != nil {
		return "", err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.addLocked(t.Task.ID).ID, nil
}

// Start implements agent.Runner.
func (e *Engine) Start(ctx context.Context, id string) (int, error) {
	e.mu.Lock()
	e.starting++
	e.peak = max(e.peak, e.starting)
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		e.starting--
		e.mu.Unlock()
	}()
	task := taskOf(id)
	e.mu.Lock()
	if c := e.containers[id]; c != nil && c.State == agent.ContainerCreated {
		c.State = agent.ContainerRunning
	}
	e.mu.Unlock()
	if err := e.begin(ctx, "start", task); err != nil {
		return 0, err
	}
	return 42, nil
}

// Wait implements agent.Runner.
func (e *Engine) Wait(ctx context.Context, id string) (agent.Exit, error) {
	for {
		e.mu.Lock()
		c := e.containers[id]
		if c == nil {
			e.mu.Unlock()
			return agent.Exit{Code: 255, Cause: "No such container: " + id}, nil
		}
		state, exit, unhealthy, changed := c.State, c.exit, c.unhealthy, c.changed
		c.unhealthy = false
		e.mu.Unlock()
		if state == agent.ContainerExited || state == agent.ContainerCreated {
			return exit, nil
		}
		if unhealthy {
			return agent.Exit{}, agent.ErrUnhealthy
		}
		select {
		case <-ctx.Done():
			return agent.Exit{}, ctx.Err()
		case <-changed:
		}
	}
}

// Stop implements agent.Runner.
func (e *Engine) Stop(ctx context.Context, id string) error {
	if err := e.begin(ctx, "stop", taskOf(id)); err != nil {
		return err
	}
	e.change(taskOf(id), func(c *fakeContainer) {
		if c.State == agent.ContainerRunning {
			c.State = agent.ContainerExited
		}
	})
	return nil
}

// Remove implements agent.Runner.
func (e *Engine) Remove(ctx context.Context, id string) error {
	if err := e.begin(ctx, "remove", taskOf(id)); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if c := e.containers[id]; c != nil {
		close(c.changed)
		delete(e.containers, id)
	}
	return nil
}

// List implements agent.Runner.
func (e *Engine) List(context.Context) ([]agent.Container, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.down {
		return nil, errDown
	}
	var out []agent.Container
	for _, c := range e.containers {
		out = append(out, c.Container)
	}
	return out, nil
}

// Run implements agent.Engine.
func (e *Engine) Run(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// Describe implements agent.Engine.
func (e *Engine) Describe(context.Context) (swarm.NodeDescription, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.down {
		return swarm.NodeDescription{}, errDown
	}
	return swarm.NodeDescription{Hostname: "fake"}, nil
}

// PruneNetworks implements agent.Engine.
func (e *Engine) PruneNetworks(_ context.Context, keep []string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.kept = keep
	return nil
}

var errDown = fmt.Errorf("fake engine is down: %w", errdefs.ErrUnavailable)

func taskOf(id string) string { return id[len("c-"):] }

func (e *Engine) addLocked(taskID string) *fakeContainer {
	c := &fakeContainer{
		Container: agent.Container{ID: "c-" + taskID, TaskID: taskID, State: agent.ContainerCreated},
		changed:   make(chan struct{}),
	}
	e.containers[c.ID] = c
	return c
}

func (e *Engine) change(taskID string, f func(*fakeContainer)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c := e.containers["c-"+taskID]; c != nil {
		f(c)
		close(c.changed)
		c.changed = make(chan struct{})
	}
}

// begin logs an operation, waits while it is held, and says how it ends.
func (e *Engine) begin(ctx context.Context, op, taskID string) error {
	key := op + " " + taskID
	e.Events.Add(key)
	e.mu.Lock()
	hold, err, down := e.hold[key], e.fail[key], e.down
	e.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if down {
		return errDown
	}
	return err
}
