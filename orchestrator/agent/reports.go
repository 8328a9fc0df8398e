package agent

import (
	"sync"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/protocol"
)

// reports queues what managers have not heard yet, newest status per task.
type reports struct {
	mu      sync.Mutex
	pending map[string]swarm.TaskStatus
	// underWay is how many the last batch had that was taken.
	underWay int
	wake     chan struct{}
}

func newReports() *reports {
	return &reports{pending: map[string]swarm.TaskStatus{}, wake: make(chan struct{}, 1)}
}

func (r *reports) put(taskID string, s swarm.TaskStatus) {
	r.mu.Lock()
	r.pending[taskID] = s
	r.mu.Unlock()
	r.poke()
}

func (r *reports) poke() { signal(r.wake) }

// drop forgets a task that managers do not know any more.
func (r *reports) drop(taskID string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.pending, taskID)
}

// maxReport bounds one report; the rest follows at once.
const maxReport = 500

// take removes a batch from the queue; give it back if it was not delivered.
func (r *reports) take() []protocol.StatusUpdate {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []protocol.StatusUpdate
	for id, s := range r.pending {
		if len(out) == maxReport {
			break
		}
		out = append(out, protocol.StatusUpdate{TaskID: id, Status: s})
		delete(r.pending, id)
	}
	r.underWay = len(out)
	return out
}

// delivered says that managers have heard everything.
func (r *reports) delivered() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.pending)+r.underWay == 0
}

// giveBack returns an undelivered batch, unless something newer is queued.
func (r *reports) giveBack(updates []protocol.StatusUpdate) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.underWay = 0
	for _, u := range updates {
		if _, newer := r.pending[u.TaskID]; !newer {
			r.pending[u.TaskID] = u.Status
		}
	}
}
