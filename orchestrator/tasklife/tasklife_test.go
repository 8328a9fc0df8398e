package tasklife

import (
	"testing"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
)

func TestOrder(t *testing.T) {
	order := []swarm.TaskState{
		"nonsense", swarm.TaskStateNew, swarm.TaskStateAllocated, swarm.TaskStatePending, swarm.TaskStateAssigned,
		swarm.TaskStateAccepted, swarm.TaskStatePreparing, swarm.TaskStateReady, swarm.TaskStateStarting,
		swarm.TaskStateRunning, swarm.TaskStateComplete, swarm.TaskStateShutdown, swarm.TaskStateFailed,
		swarm.TaskStateRejected, swarm.TaskStateRemove, swarm.TaskStateOrphaned,
	}
	for i := 1; i < len(order); i++ {
		if !Before(order[i-1], order[i]) || Before(order[i], order[i-1]) || Before(order[i], order[i]) {
			t.Errorf("%s must come before %s", order[i-1], order[i])
		}
	}
}

func TestPredicates(t *testing.T) {
	for _, tc := range []struct {
		state, desired                swarm.TaskState
		ended, wanted, placed, failed bool
	}{
		{swarm.TaskStateNew, swarm.TaskStateRunning, false, true, false, false},
		{swarm.TaskStateAssigned, swarm.TaskStateReady, false, true, true, false},
		{swarm.TaskStateRunning, swarm.TaskStateShutdown, false, false, true, false},
		{swarm.TaskStateComplete, swarm.TaskStateRunning, true, true, true, false},
		{swarm.TaskStateRejected, swarm.TaskStateRemove, true, false, true, true},
	} {
		k := &store.Task{}
		k.Status.State, k.DesiredState = tc.state, tc.desired
		if Ended(k) != tc.ended || Wanted(k) != tc.wanted || Placed(k) != tc.placed || Failed(k) != tc.failed {
			t.Errorf("%s/%s: ended %v wanted %v placed %v failed %v", tc.state, tc.desired, Ended(k), Wanted(k), Placed(k), Failed(k))
		}
	}
}
