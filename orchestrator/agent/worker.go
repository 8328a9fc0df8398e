package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/orchestrator/tasklife"
)

// worker drives one task.
type worker struct {
	agent *Agent
	id    string
	wake  chan struct{}

	mu     sync.Mutex
	task   protocol.Assignment
	gone   bool
	status swarm.TaskStatus // written by the worker's goroutine only

	// Below is the goroutine's own.
	container Container
	retries   int
	pulls     int // of which the registry knew nothing
}

// newWorker takes a task up where the managers, or an earlier agent, left it.
func newWorker(a *Agent, task protocol.Assignment, c Container) *worker {
	return &worker{
		agent: a, id: task.Task.ID, wake: make(chan struct{}, 1),
		task: task, status: task.Task.Status, container: c,
	}
}

// assign replaces the assignment. Its status does not count: the worker knows
// better. A task that was gone may come back, when the first manager lagged.
func (w *worker) assign(task protocol.Assignment) {
	w.mu.Lock()
	if tasklife.Rank(task.Task.DesiredState) < tasklife.Rank(w.task.Task.DesiredState) {
		task.Task.DesiredState = w.task.Task.DesiredState
	}
	w.task, w.gone = task, false
	w.mu.Unlock()
	w.poke()
}

// end wants the task to end whatever the managers want of it.
func (w *worker) end() {
	w.mu.Lock()
	if tasklife.Rank(w.task.Task.DesiredState) < tasklife.Rank(swarm.TaskStateShutdown) {
		w.task.Task.DesiredState = swarm.TaskStateShutdown
	}
	w.mu.Unlock()
	w.poke()
}

// release tells the worker that its task is not assigned any more.
func (w *worker) release() {
	w.mu.Lock()
	w.gone = true
	w.mu.Unlock()
	w.poke()
}

func (w *worker) poke() { signal(w.wake) }

func (w *worker) wish() wish {
	w.mu.Lock()
	defer w.mu.Unlock()
	return wish{Desired: w.task.Task.DesiredState, Gone: w.gone}
}

func (w *worker) assignment() protocol.Assignment {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.task
}

// current is the newest status; safe from any goroutine.
func (w *worker) current() swarm.TaskStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.status
}

// run takes steps until nothing is left of the task, or the agent ends.
func (w *worker) run(ctx context.Context) {
	for ctx.Err() == nil {
		s := next(w.status.State, w.wish(), w.container.State)
		if s == stepDone {
			return
		}
		var err error
		if s == stepIdle {
			w.sleep(ctx, nil)
			continue
		}
		if s == stepPrepare || s == stepStart || s == stepWait {
			err = w.interruptible(ctx, s)
		} else {
			err = w.take(ctx, s)
		}
		w.settle(ctx, s, err)
	}
}

// sleep waits for a new wish or the timer.
func (w *worker) sleep(ctx context.Context, timer <-chan time.Time) {
	select {
	case <-ctx.Done():
	case <-w.wake:
	case <-timer:
	}
}

// interruptible runs a step that may last, and cuts it short when it is not
// wanted any more.
func (w *worker) interruptible(ctx context.Context, s step) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- w.take(ctx, s) }()
	for {
		select {
		case err := <-done:
			return err
		case <-w.wake:
			if w.wish().interrupts() {
				cancel()
				return <-done
			}
		}
	}
}

// settle turns a step's error into a status, or into another try.
func (w *worker) settle(ctx context.Context, s step, err error) {
	switch {
	case err == nil:
		w.retries = 0
	case ctx.Err() != nil, errors.Is(err, context.Canceled):
		// The agent ends, or the wish changed: decide anew.
	case errdefs.IsUnavailable(err), s == stepStop, s == stepRemove:
		w.retries++
		w.rest(ctx, w.agent.cfg.Backoff.delay(w.retries), err)
	case errors.Is(err, ErrImage) && w.pulls < pullTries:
		w.pulls++
		w.publish(func(s *swarm.TaskStatus) { s.Err = err.Error() }) // for who waits for the task
		w.rest(ctx, w.agent.cfg.PullBackoff.delay(w.pulls), err)
	default:
		w.fail(err)
	}
}

// pullTries is how often a registry that cannot be asked is asked again before the
// managers are to find another task, perhaps on another node.
const pullTries = 5

// rest waits for the time of the next try, or a new wish.
func (w *worker) rest(ctx context.Context, d time.Duration, why error) {
	w.agent.log.Warn("task step failed, trying again", "task", w.id, "error", why)
	timer := time.NewTimer(d)
	defer timer.Stop()
	w.sleep(ctx, timer.C)
}

func (w *worker) take(ctx context.Context, s step) error {
	switch s {
	case stepAccept:
		w.report(swarm.TaskStateAccepted, "accepted")
	case stepPrepare:
		return w.prepare(ctx)
	case stepStart:
		return w.start(ctx)
	case stepWait:
		return w.wait(ctx)
	case stepStop:
		return w.stop(ctx)
	case stepLost:
		return fmt.Errorf("No such container: %s", Name(w.assignment().Task, w.assignment().ServiceName)) //nolint:staticcheck // Swarm's text
	case stepRemove:
		if err := w.agent.cfg.Runner.Remove(ctx, w.container.ID); err != nil {
			return err
		}
		w.container = Container{}
	case stepIdle, stepDone:
	}
	return nil
}

func (w *worker) prepare(ctx context.Context) error {
	w.report(swarm.TaskStatePreparing, "preparing")
	if w.container.State == ContainerNone || w.container.State == ContainerCreated {
		task, err := w.agent.complete(ctx, w.assignment())
		if err != nil {
			return err
		}
		for _, a := range task.Attachments {
			if err := w.agent.cfg.Dataplane.Overlap(a.Network); err != nil {
				return err
			}
		}
		// On its own networks the engine finds out by itself.
		if len(task.Attachments) > 0 {
			if err := w.agent.cfg.Dataplane.Free(HostPorts(task.Endpoint)); err != nil {
				return err
			}
		}
		id, err := w.agent.cfg.Runner.Prepare(ctx, task)
		if id != "" {
			w.container = Container{ID: id, TaskID: w.id, State: ContainerCreated}
			w.setStatus(func(s *swarm.TaskStatus) { s.ContainerStatus = &swarm.ContainerStatus{ContainerID: id} })
		}
		if err != nil {
			return err
		}
	}
	w.report(swarm.TaskStateReady, "prepared")
	return nil
}

func (w *worker) start(ctx context.Context) error {
	w.report(swarm.TaskStateStarting, "starting")
	if w.container.State != ContainerRunning {
		if err := w.agent.awaitDataplane(ctx, w.assignment()); err != nil {
			return err
		}
	}
	w.container.State = ContainerRunning // whatever comes: it has to be stopped
	pid, err := w.agent.cfg.Runner.Start(ctx, w.container.ID)
	var exit *ExitError
	switch {
	case errors.Is(err, ErrUnhealthy):
		return w.stopUnhealthy(ctx)
	case errors.As(err, &exit):
		w.container.State = ContainerExited
		w.setExit(exit.Exit.Code)
		return err
	case err != nil && !errdefs.IsUnavailable(err) && ctx.Err() == nil:
		w.container.State = ContainerExited
		return fmt.Errorf("starting container failed: %w", err)
	case err != nil:
		return err
	}
	w.setStatus(func(s *swarm.TaskStatus) {
		s.ContainerStatus = &swarm.ContainerStatus{ContainerID: w.container.ID, PID: pid}
		s.PortStatus.Ports = HostPorts(w.task.Endpoint)
	})
	w.report(swarm.TaskStateRunning, "started")
	return nil
}

func (w *worker) wait(ctx context.Context) error {
	exit, err := w.agent.cfg.Runner.Wait(ctx, w.container.ID)
	if errors.Is(err, ErrUnhealthy) {
		return w.stopUnhealthy(ctx)
	}
	if err != nil {
		return err
	}
	w.container.State = ContainerExited
	w.setExit(exit.Code)
	if err := exit.Err(); err != nil {
		return err
	}
	w.report(swarm.TaskStateComplete, "finished")
	return nil
}

// stopUnhealthy ends a container that its health check gave up, and returns
// the task's failure.
func (w *worker) stopUnhealthy(ctx context.Context) error {
	if err := w.agent.cfg.Runner.Stop(ctx, w.container.ID); err != nil {
		return err
	}
	exit, err := w.agent.cfg.Runner.Wait(ctx, w.container.ID)
	if err != nil {
		return err
	}
	w.container.State = ContainerExited
	w.setExit(exit.Code)
	if exit.Code == 0 || tasklife.Rank(w.status.State) < tasklife.Rank(swarm.TaskStateRunning) {
		return ErrUnhealthy
	}
	exit.Cause = ErrUnhealthy.Error()
	return exit.Err()
}

// stop ends the container, but a serving one only when the nodes that send it
// traffic have been told.
func (w *worker) stop(ctx context.Context) error {
	if w.container.State == ContainerCreated {
		// Nothing runs, but the runner gives up what it made for the process.
		if err := w.agent.cfg.Runner.Stop(ctx, w.container.ID); err != nil {
			return err
		}
	}
	if w.container.State == ContainerRunning {
		task := w.assignment()
		if w.status.State == swarm.TaskStateRunning && len(task.Task.NetworksAttachments) > 0 && !w.wish().Gone {
			w.agent.drain(ctx, w.id)
		}
		if err := w.agent.cfg.Runner.Stop(ctx, w.container.ID); err != nil {
			return err
		}
		exit, err := w.agent.cfg.Runner.Wait(ctx, w.container.ID)
		if err != nil {
			return err
		}
		w.container.State = ContainerExited
		w.setExit(exit.Code)
	}
	w.report(swarm.TaskStateShutdown, "shutdown")
	return nil
}

// fail ends the task with its message as it stood, as Swarm does.
func (w *worker) fail(cause error) {
	state := swarm.TaskStateFailed
	if tasklife.Rank(w.status.State) < tasklife.Rank(swarm.TaskStateStarting) {
		state = swarm.TaskStateRejected
	}
	w.publish(func(s *swarm.TaskStatus) { s.State, s.Err = state, cause.Error() })
}

// report moves the task forward; to where it is or was already, it does nothing.
func (w *worker) report(state swarm.TaskState, message string) {
	if tasklife.Rank(state) <= tasklife.Rank(w.status.State) {
		return
	}
	w.publish(func(s *swarm.TaskStatus) { s.State, s.Message, s.Err = state, message, "" })
}

func (w *worker) publish(change func(*swarm.TaskStatus)) {
	w.setStatus(func(s *swarm.TaskStatus) {
		change(s)
		s.Timestamp = w.agent.cfg.Now().UTC()
	})
	w.agent.moved(w.id, w.status, w.wish().Gone)
}

func (w *worker) setExit(code int) {
	w.setStatus(func(s *swarm.TaskStatus) {
		s.ContainerStatus = &swarm.ContainerStatus{ContainerID: w.container.ID, ExitCode: code}
	})
}

func (w *worker) setStatus(change func(*swarm.TaskStatus)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(&w.status)
}
