package dispatcher

import (
	"context"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/orchestrator/remote"
	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/tasklife"
)

// handleAttached makes a node's attachments equal to what is attached there.
func (d *Dispatcher) handleAttached(w http.ResponseWriter, r *http.Request) {
	var req protocol.AttachedReport
	err := remote.Read(r, &req)
	if err == nil {
		var out protocol.AttachedReply
		if out, err = d.attached(r.Context(), remote.Peer(r.Context()).NodeID, req); err == nil {
			remote.Reply(w, out)
			return
		}
	}
	remote.Fail(w, err)
}

func (d *Dispatcher) attached(ctx context.Context, node string, report protocol.AttachedReport) (reply protocol.AttachedReply, err error) {
	d.beat(node)
	ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	err = store.Transact(ctx, d.cfg.Store, d.cfg.Proposer, func(tx *store.Tx) error {
		reply = compare(tx, node, report)
		return nil
	})
	return reply, err
}

// compare collects what makes the store equal to a node's report.
func compare(tx *store.Tx, node string, report protocol.AttachedReport) (reply protocol.AttachedReply) {
	there := map[string]bool{}
	for _, c := range report.Containers {
		there[c.TaskID] = true
		old := tx.Task(c.TaskID)
		if old != nil && (!old.Attached() || old.NodeID != node) {
			refuse(&reply, c, func(string) string { return "task " + c.TaskID + " is none of this node's attachments" })
			continue
		}
		refuse(&reply, c, func(network string) string { return obstacle(tx.View, old, c, network) })
		next := observed(tx.View, old, node, c, report.Partial)
		switch {
		case old == nil && len(next.Spec.Networks) > 0:
			tx.Create(next)
		case old != nil && !reflect.DeepEqual(old, next):
			tx.Update(next)
		}
		reply.Again = reply.Again || len(next.NetworksAttachments) < len(next.Spec.Networks)
	}
	if report.Partial {
		return reply
	}
	for _, t := range tx.TasksOnNode(node) {
		if t.Attached() && !there[t.ID] {
			tx.Remove(t)
		}
	}
	return reply
}

// refuse names the networks that a container is not to stay on.
func refuse(reply *protocol.AttachedReply, c protocol.Attached, obstacle func(network string) string) {
	for _, n := range c.Networks {
		if reason := obstacle(n.ID); reason != "" {
			reply.Refused = append(reply.Refused, protocol.Refused{TaskID: c.TaskID, Network: n.ID, Reason: reason})
		}
	}
}

// obstacle says why a container cannot stay on a network; empty if it can.
func obstacle(v *store.View, t *store.Task, c protocol.Attached, network string) string {
	if v.Network(network) == nil {
		return "the network is gone"
	}
	if t == nil || !wishes(t, network) {
		return "" // the allocator has not spoken
	}
	i := slices.IndexFunc(t.NetworksAttachments, func(a swarm.NetworkAttachment) bool { return a.Network.ID == network })
	if i < 0 {
		return t.Status.Err
	}
	if !slices.Equal(addrsOn(t, network), addrsIn(c, network)) {
		return "its address is not the one that the managers gave it"
	}
	return ""
}

func wishes(t *store.Task, network string) bool {
	return slices.ContainsFunc(t.Spec.Networks, func(c swarm.NetworkAttachmentConfig) bool { return c.Target == network })
}

// observed is an attachment as its node sees it; old is what is stored, nil if
// nothing. Of a partial report, networks that it does not name may be on their way.
func observed(v *store.View, old *store.Task, node string, c protocol.Attached, partial bool) *store.Task {
	if old == nil {
		old = newAttachment(node, c.TaskID)
	}
	next := *old
	next.Name, next.Spec.NetworkAttachmentSpec = c.Name, &swarm.NetworkAttachmentSpec{ContainerID: c.ContainerID}
	next.Spec.Networks, next.NetworksAttachments, next.Beside = nil, nil, c.Beside
	next.Wanted = slices.Clone(old.Wanted)
	keep := func(network string) bool {
		named := slices.ContainsFunc(c.Networks, func(n protocol.AttachedTo) bool { return n.ID == network })
		return v.Network(network) != nil && (named && obstacle(v, old, c, network) == "" || partial && !named)
	}
	for _, n := range old.Spec.Networks {
		if keep(n.Target) {
			if i := slices.IndexFunc(c.Networks, func(to protocol.AttachedTo) bool { return to.ID == n.Target }); i >= 0 {
				n.Aliases = c.Networks[i].Aliases
			}
			next.Spec.Networks = append(next.Spec.Networks, n)
		}
	}
	for _, n := range c.Networks {
		if !wishes(old, n.ID) && keep(n.ID) {
			next.Spec.Networks = append(next.Spec.Networks, swarm.NetworkAttachmentConfig{Target: n.ID, Aliases: n.Aliases})
			next.Wanted = append(next.Wanted, addrsIn(c, n.ID)...)
		}
	}
	for _, a := range old.NetworksAttachments {
		if wishes(&next, a.Network.ID) {
			next.NetworksAttachments = append(next.NetworksAttachments, a)
		}
	}
	next.Status = statusOf(old.Status, c)
	return &next
}

// statusOf is where an attachment is: starting while its container stands still.
func statusOf(old swarm.TaskStatus, c protocol.Attached) swarm.TaskStatus {
	if tasklife.Before(old.State, swarm.TaskStateAssigned) {
		return old // it has no addresses yet
	}
	next := old
	next.State, next.Message, next.Err = swarm.TaskStateStarting, "container is not running", ""
	if c.Running {
		next.State, next.Message = swarm.TaskStateRunning, "attached"
	}
	next.PortStatus.Ports = c.Ports
	if old.State != next.State {
		next.Timestamp = time.Now().UTC()
	}
	if old.ContainerStatus == nil || old.ContainerStatus.ContainerID != c.ContainerID {
		next.ContainerStatus = &swarm.ContainerStatus{ContainerID: c.ContainerID}
	}
	return next
}

// addrsIn are the addresses of a container on a network.
func addrsIn(c protocol.Attached, network string) []netip.Addr {
	var out []netip.Addr
	for _, n := range c.Networks {
		for _, p := range n.Addrs {
			if n.ID == network {
				out = append(out, p.Addr())
			}
		}
	}
	return out
}
