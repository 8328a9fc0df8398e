// Package tasklife is the order of a task's states, which only move forward.
package tasklife

import (
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
)

// Rank numbers the states in the order in which a task goes through them; an
// unknown state comes before all others.
func Rank(s swarm.TaskState) int {
	switch s {
	case swarm.TaskStateNew:
		return 1
	case swarm.TaskStateAllocated:
		return 2
	case swarm.TaskStatePending:
		return 3
	case swarm.TaskStateAssigned:
		return 4
	case swarm.TaskStateAccepted:
		return 5
	case swarm.TaskStatePreparing:
		return 6
	case swarm.TaskStateReady:
		return 7
	case swarm.TaskStateStarting:
		return 8
	case swarm.TaskStateRunning:
		return 9
	case swarm.TaskStateComplete:
		return 10
	case swarm.TaskStateShutdown:
		return 11
	case swarm.TaskStateFailed:
		return 12
	case swarm.TaskStateRejected:
		return 13
	case swarm.TaskStateRemove:
		return 14
	case swarm.TaskStateOrphaned:
		return 15
	}
	return 0
}

// Before says whether a comes earlier in a task's life than b.
func Before(a, b swarm.TaskState) bool { return Rank(a) < Rank(b) }

// Ended says whether the task was observed to have stopped for good.
func Ended(t *store.Task) bool { return Before(swarm.TaskStateRunning, t.Status.State) }

// Wanted says whether the task is meant to run, now or after a delay; of a job's
// task, that it is still to complete.
func Wanted(t *store.Task) bool {
	if t.DesiredState == swarm.TaskStateComplete {
		return !Ended(t)
	}
	return !Before(swarm.TaskStateRunning, t.DesiredState)
}

// Placed says whether the task was handed to a node, which may have started it.
func Placed(t *store.Task) bool { return !Before(t.Status.State, swarm.TaskStateAssigned) }

// Failed says whether the task ended badly by itself.
func Failed(t *store.Task) bool {
	return t.Status.State == swarm.TaskStateFailed || t.Status.State == swarm.TaskStateRejected
}
