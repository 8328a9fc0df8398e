package reaper

import (
	"context"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/control"
	"github.com/meshd/meshd/orchestrator/store"
)

// detach forgets the attachments of nodes that are gone or down, so that their
// addresses come free; addresses are reused as late as possible. A node that comes
// back tells what is attached there, and gets the same addresses if nobody else
// was given them (dispatcher.handleAttached).
func (l *Loop) detach(ctx context.Context) error {
	if !l.all && len(l.nodes) == 0 {
		return nil
	}
	for more := true; more; {
		err := store.Transact(ctx, l.cfg.Store, l.cfg.Proposer, func(tx *store.Tx) error {
			more = false
			for _, t := range l.attachments(tx.View) {
				if n := tx.Node(t.NodeID); n != nil && n.Status.State != swarm.NodeStateDown {
					continue
				}
				if more = tx.Len() >= control.MaxBatch; more {
					break
				}
				tx.Remove(t)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// attachments are those of nodes that changed.
func (l *Loop) attachments(v *store.View) []*store.Task {
	var tasks, out []*store.Task
	if l.all {
		tasks = v.Tasks()
	} else {
		for id := range l.nodes {
			tasks = append(tasks, v.TasksOnNode(id)...)
		}
	}
	for _, t := range tasks {
		if t.Attached() {
			out = append(out, t)
		}
	}
	return out
}
