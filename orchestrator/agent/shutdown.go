package agent

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/tasklife"
)

// stopPoll is how often a shutdown looks how far it is.
const stopPoll = 50 * time.Millisecond

// ShutDown ends this node's tasks in order, since the machine is about to shut down.
// The managers are told; they put tasks on other nodes in their place and end these,
// as when a node is drained: each gets its SIGTERM when no node sends it connections
// any more. Those that the managers do not end in time end all the same, after a call
// of alone, which has to keep others from sending connections here.
//
// It returns when no task runs and the managers know that, or with ctx. From then on
// this node gets no tasks, until another agent takes its place.
func (a *Agent) ShutDown(ctx context.Context, alone func(context.Context)) error {
	a.stopping.Store(true)
	a.Announce()
	known := within(ctx, a.cfg.ManagerPatience, func() bool { return a.picture.stopping(a.cfg.NodeID) || len(a.unfinished()) == 0 })
	if !(known && within(ctx, a.cfg.MovePatience, func() bool { return len(a.staying()) == 0 })) && ctx.Err() == nil {
		a.log.Warn("managers do not end all of this node's tasks; they end all the same", "tasks", len(a.staying()), "told", known)
		alone(ctx)
		for _, w := range a.staying() {
			w.end()
		}
	}
	for !within(ctx, a.cfg.ManagerPatience, func() bool { return len(a.unfinished()) == 0 }) {
		if ctx.Err() != nil {
			return fmt.Errorf("%d tasks still run: %w", len(a.unfinished()), context.Cause(ctx))
		}
	}
	if !within(ctx, a.cfg.ManagerPatience, a.reports.delivered) {
		a.log.Warn("the managers do not know yet that this node's tasks have ended")
	}
	return nil
}

// within waits for a condition; false: it did not come to be in time.
func within(ctx context.Context, limit time.Duration, ok func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	poll := time.NewTicker(stopPoll)
	defer poll.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			return ok()
		case <-poll.C:
		}
	}
	return true
}

// unfinished are the workers whose tasks have not ended.
func (a *Agent) unfinished() []*worker {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []*worker
	for _, w := range a.workers {
		if tasklife.Rank(w.current().State) < tasklife.Rank(swarm.TaskStateComplete) {
			out = append(out, w)
		}
	}
	return out
}

// staying are those of them whose tasks nobody wants to end.
func (a *Agent) staying() []*worker {
	return slices.DeleteFunc(a.unfinished(), func(w *worker) bool { return w.wish().interrupts() })
}
