package meshd

import (
	"context"

	"github.com/meshd/meshd/orchestrator/agent"
	"github.com/meshd/meshd/orchestrator/protocol"
)

// Attach implements api.Node.
func (d *Daemon) Attach(ctx context.Context, r protocol.AttachRequest) (agent.AttachmentPlan, error) {
	d.mu.Lock()
	n := d.node
	d.mu.Unlock()
	if n == nil {
		return agent.AttachmentPlan{}, errNotInSwarm
	}
	return n.attach(ctx, r)
}

func (n *node) attach(ctx context.Context, r protocol.AttachRequest) (agent.AttachmentPlan, error) {
	a := n.agent.Load()
	if a == nil {
		return agent.AttachmentPlan{}, errBusy
	}
	return a.Attach(ctx, r)
}
