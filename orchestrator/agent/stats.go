package agent

import "github.com/moby/moby/api/types/swarm"

// TaskStates counts this node's tasks by the state that they are in, ended ones
// that the managers still know included.
func (a *Agent) TaskStates() map[swarm.TaskState]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := map[swarm.TaskState]int{}
	for _, w := range a.workers {
		out[w.current().State]++
	}
	return out
}
