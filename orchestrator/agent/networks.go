package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/meshd/meshd/orchestrator/protocol"
)

// endpointPatience is how long a start waits for the managers to list the
// task's endpoint. They do so when they assign it; longer waits help nobody.
const endpointPatience = 2 * time.Second

// complete adds to an assignment what the node knows about its networks; it
// waits for those that managers have not told about yet.
func (a *Agent) complete(ctx context.Context, t protocol.Assignment) (Task, error) {
	out := Task{Assignment: t, Node: a.desc}
	for _, att := range t.Task.NetworksAttachments {
		n, err := a.await(ctx, att.Network.ID, func(protocol.Network) bool { return true })
		if err != nil {
			return Task{}, err
		}
		out.Attachments = append(out.Attachments, Attachment{Network: n, Addrs: att.Addresses})
	}
	// The mesh network comes first: it is what the default route leads to.
	slices.SortStableFunc(out.Attachments, func(x, y Attachment) int {
		switch {
		case x.Network.Ingress == y.Network.Ingress:
			return 0
		case x.Network.Ingress:
			return -1
		}
		return 1
	})
	return out, nil
}

// awaitDataplane returns when the kernel holds all networks of a task, at a
// revision that knows the task.
func (a *Agent) awaitDataplane(ctx context.Context, t protocol.Assignment) error {
	limit, cancel := context.WithTimeout(ctx, a.cfg.ReadyTimeout)
	defer cancel()
	for _, att := range t.Task.NetworksAttachments {
		revision, err := a.revisionWith(limit, att.Network.ID, t.Task.ID)
		if err == nil {
			err = a.cfg.Dataplane.Ready(limit, att.Network.ID, revision)
		}
		if err != nil && ctx.Err() == nil && errors.Is(limit.Err(), context.DeadlineExceeded) {
			return fmt.Errorf("network %s was not ready on this node within %v", att.Network.Spec.Name, a.cfg.ReadyTimeout)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// revisionWith returns the revision of a network that lists a task's endpoint,
// or the newest one if managers do not list it in time.
func (a *Agent) revisionWith(ctx context.Context, networkID, taskID string) (uint64, error) {
	limit, cancel := context.WithTimeout(ctx, endpointPatience)
	defer cancel()
	n, err := a.await(limit, networkID, func(n protocol.Network) bool {
		return slices.ContainsFunc(n.Endpoints, func(e protocol.Endpoint) bool { return e.TaskID == taskID })
	})
	if err != nil && ctx.Err() == nil {
		n, err = a.await(ctx, networkID, func(protocol.Network) bool { return true })
	}
	return n.Revision, err
}

// await returns a network as soon as it is as wanted.
func (a *Agent) await(ctx context.Context, id string, ok func(protocol.Network) bool) (protocol.Network, error) {
	for {
		n, known, changed := a.picture.network(id)
		if known && ok(n) {
			return n, nil
		}
		select {
		case <-ctx.Done():
			return n, ctx.Err()
		case <-changed:
		}
	}
}
