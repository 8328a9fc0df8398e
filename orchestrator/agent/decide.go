package agent

import (
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/tasklife"
)

// step is the next thing to do for a task.
type step int

const (
	stepIdle    step = iota // nothing until something changes
	stepAccept              // report accepted
	stepPrepare             // make the container
	stepStart               // start the process
	stepWait                // wait for its end
	stepStop                // stop it, report shutdown
	stepLost                // the container is gone or cannot be used: report failed
	stepRemove              // remove the container
	stepDone                // nothing is left of the task
)

// wish is what the managers want of a task.
type wish struct {
	Desired swarm.TaskState
	// Gone: the task is not assigned any more.
	Gone bool
}

// interrupts says whether the wish ends what a step is doing.
func (w wish) interrupts() bool {
	return w.Gone || tasklife.Rank(w.Desired) >= tasklife.Rank(swarm.TaskStateShutdown)
}

// next is the one function that decides what happens to a task, from its
// observed state, what is wanted of it and its container.
func next(state swarm.TaskState, w wish, c ContainerState) step {
	ended := tasklife.Rank(state) >= tasklife.Rank(swarm.TaskStateComplete)
	switch {
	case w.Gone && c == ContainerRunning && !ended:
		return stepStop
	case w.Gone && c != ContainerNone:
		return stepRemove
	case w.Gone:
		return stepDone
	case ended:
		return stepIdle
	case w.interrupts():
		return stepStop
	}
	return forward(state, w.Desired, c)
}

// forward is the way of a task that is wanted, up to its desired state.
func forward(state, desired swarm.TaskState, c ContainerState) step {
	if tasklife.Rank(state) < tasklife.Rank(swarm.TaskStateAccepted) {
		return stepAccept
	}
	if tasklife.Rank(state) < tasklife.Rank(swarm.TaskStateReady) {
		return stepPrepare
	}
	if tasklife.Rank(desired) < tasklife.Rank(swarm.TaskStateRunning) {
		return stepIdle
	}
	switch {
	case c == ContainerNone && tasklife.Rank(state) < tasklife.Rank(swarm.TaskStateStarting):
		return stepPrepare // nothing ran yet, so making it anew is safe
	case c == ContainerNone:
		return stepLost
	case c == ContainerExited:
		return stepWait // a task runs once: its container is never started again
	case state == swarm.TaskStateRunning && c == ContainerCreated:
		return stepLost
	case state == swarm.TaskStateRunning:
		return stepWait
	}
	return stepStart
}
