package agent

import (
	"testing"

	"github.com/moby/moby/api/types/swarm"
)

func TestNext(t *testing.T) {
	const (
		assigned, preparing, ready = swarm.TaskStateAssigned, swarm.TaskStatePreparing, swarm.TaskStateReady
		starting, running          = swarm.TaskStateStarting, swarm.TaskStateRunning
		shutdown, failed           = swarm.TaskStateShutdown, swarm.TaskStateFailed
		remove, complete           = swarm.TaskStateRemove, swarm.TaskStateComplete
	)
	tests := []struct {
		name    string
		state   swarm.TaskState
		desired swarm.TaskState
		gone    bool
		c       ContainerState
		want    step
	}{
		{"new to this node", assigned, running, false, ContainerNone, stepAccept},
		{"accepted", swarm.TaskStateAccepted, running, false, ContainerNone, stepPrepare},
		{"prepare again after a restart", preparing, running, false, ContainerCreated, stepPrepare},
		{"held back at ready", ready, ready, false, ContainerCreated, stepIdle},
		{"let go from ready", ready, running, false, ContainerCreated, stepStart},
		{"container lost before it ran", ready, running, false, ContainerNone, stepPrepare},
		{"starting", starting, running, false, ContainerCreated, stepStart},
		{"adopted while starting", starting, running, false, ContainerRunning, stepStart},
		{"never started twice", starting, running, false, ContainerExited, stepWait},
		{"ready, but it ran already", ready, running, false, ContainerExited, stepWait},
		{"adopted before it was reported", assigned, running, false, ContainerRunning, stepAccept},
		{"running", running, running, false, ContainerRunning, stepWait},
		{"a job runs", running, complete, false, ContainerRunning, stepWait},
		{"ended while nobody looked", running, running, false, ContainerExited, stepWait},
		{"container lost", running, running, false, ContainerNone, stepLost},
		{"engine forgot that it ran", running, running, false, ContainerCreated, stepLost},
		{"to be stopped", running, shutdown, false, ContainerRunning, stepStop},
		{"to be removed", running, remove, false, ContainerRunning, stepStop},
		{"stopped before it was made", assigned, shutdown, false, ContainerNone, stepStop},
		{"stopped while prepared", ready, shutdown, false, ContainerCreated, stepStop},
		{"ended, kept for its logs", failed, shutdown, false, ContainerExited, stepIdle},
		{"shut down, kept", shutdown, remove, false, ContainerExited, stepIdle},
		{"gone while running", running, running, true, ContainerRunning, stepStop},
		{"gone, ended", shutdown, shutdown, true, ContainerExited, stepRemove},
		{"gone, made only", ready, ready, true, ContainerCreated, stepRemove},
		{"gone, nothing left", shutdown, shutdown, true, ContainerNone, stepDone},
		{"orphan", "", "", true, ContainerRunning, stepStop},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := next(tt.state, wish{tt.desired, tt.gone}, tt.c); got != tt.want {
				t.Errorf("got step %d, want %d", got, tt.want)
			}
		})
	}
}

// TestNextNeverStuck walks every combination until it rests: each step must
// bring the task on, whatever the starting point.
func TestNextNeverStuck(t *testing.T) {
	states := []swarm.TaskState{"assigned", "accepted", "preparing", "ready", "starting", "running", "complete", "shutdown", "failed", "rejected"}
	for _, state := range states {
		for _, desired := range []swarm.TaskState{"ready", "running", "complete", "shutdown", "remove"} {
			for _, gone := range []bool{false, true} {
				for _, c := range []ContainerState{ContainerNone, ContainerCreated, ContainerRunning, ContainerExited} {
					walk(t, state, wish{desired, gone}, c)
				}
			}
		}
	}
}

func walk(t *testing.T, state swarm.TaskState, w wish, c ContainerState) {
	from := [3]any{state, w, c}
	for range 12 {
		switch next(state, w, c) {
		case stepIdle, stepDone:
			return
		case stepAccept:
			state = swarm.TaskStateAccepted
		case stepPrepare:
			state = swarm.TaskStateReady
			if c == ContainerNone {
				c = ContainerCreated
			}
		case stepStart:
			state, c = swarm.TaskStateRunning, ContainerRunning
		case stepWait:
			state, c = swarm.TaskStateComplete, ContainerExited
		case stepStop:
			state = swarm.TaskStateShutdown
			if c == ContainerRunning {
				c = ContainerExited
			}
		case stepLost:
			state = swarm.TaskStateFailed
		case stepRemove:
			c = ContainerNone
		}
	}
	t.Errorf("never rests from %v", from)
}
