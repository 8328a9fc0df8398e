package dispatcher

import (
	"context"
	"slices"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/orchestrator/store"
)

// drainPoll is how often a drain looks whether a node it waits for went down.
const drainPoll = 50 * time.Millisecond

// drained waits until every live subscriber of the task's networks holds a
// revision in which the task is out of its load balancers.
func (d *Dispatcher) drained(ctx context.Context, task string) (protocol.DrainedReply, error) {
	timeout := time.NewTimer(d.cfg.DrainTimeout)
	defer timeout.Stop()
	poll := time.NewTicker(drainPoll)
	defer poll.Stop()
	for {
		news := d.ledger.changes() // before looking, so that none is missed
		late, wait := d.late(task)
		if !wait {
			return protocol.DrainedReply{}, nil
		}
		select {
		case <-ctx.Done():
			return protocol.DrainedReply{}, ctx.Err()
		case <-timeout.C:
			return protocol.DrainedReply{Late: late}, nil
		case <-news:
		case <-poll.C:
		}
	}
}

// late lists the nodes that may still send to the task, and whether there is
// anything to wait for: also while the task has not left yet.
func (d *Dispatcher) late(task string) (nodes []string, wait bool) {
	left, known := d.cache.leftAt(task)
	d.cfg.Store.View(func(v *store.View) {
		t := v.Task(task)
		if t == nil {
			return
		}
		if o := offer(t); o == protocol.EndpointStarting || o == protocol.EndpointServing {
			wait = true
			return
		}
		if !known {
			left = store.Version(t)
		}
		for _, n := range d.toldOn(v, t) {
			for _, id := range subscribers(v, n) {
				if d.ledger.acked(id, n.ID) < left && !slices.Contains(nodes, id) {
					nodes = append(nodes, id)
				}
			}
		}
		wait = len(nodes) > 0
	})
	return nodes, wait
}

// toldOn are the networks on which other nodes are told of a task: on the mesh network
// only if its service publishes ports.
func (d *Dispatcher) toldOn(v *store.View, t *store.Task) []*store.Network {
	var out []*store.Network
	for _, a := range t.NetworksAttachments {
		if n := v.Network(a.Network.ID); n != nil && (!n.Spec.Ingress || d.cache.publishes(t.ServiceID)) {
			out = append(out, n)
		}
	}
	return out
}

// sends says that a node may send connections to tasks: it is up, if only for as long
// as it takes to shut down.
func sends(n *store.Node) bool {
	return n != nil && (n.Status.State == swarm.NodeStateReady || n.Status.State == swarm.NodeStateDisconnected)
}

// subscribers are the nodes, as far as they are up, that know a network.
func subscribers(v *store.View, n *store.Network) []string {
	var out []string
	if n.Spec.Ingress {
		for _, node := range v.Nodes() {
			if sends(node) {
				out = append(out, node.ID)
			}
		}
		return out
	}
	for _, t := range v.TasksOnNetwork(n.ID) {
		node := v.Node(t.NodeID)
		if live(t) && sends(node) && !slices.Contains(out, t.NodeID) {
			out = append(out, t.NodeID)
		}
	}
	return out
}
