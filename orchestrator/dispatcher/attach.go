package dispatcher

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/orchestrator/remote"
	"github.com/meshd/meshd/orchestrator/store"
)

// attachTime bounds the wait for the allocator.
const attachTime = 10 * time.Second

// handleAttach gives a node's container addresses. It answers when they are
// allocated, or takes back what it asked for.
func (d *Dispatcher) handleAttach(w http.ResponseWriter, r *http.Request) {
	var req protocol.AttachRequest
	err := remote.Read(r, &req)
	if err == nil {
		var out protocol.AttachReply
		if out, err = d.attach(r.Context(), remote.Peer(r.Context()).NodeID, req); err == nil {
			remote.Reply(w, out)
			return
		}
	}
	remote.Fail(w, err)
}

func (d *Dispatcher) attach(ctx context.Context, node string, req protocol.AttachRequest) (protocol.AttachReply, error) {
	ctx, cancel := context.WithTimeout(ctx, attachTime)
	defer cancel()
	if d.cfg.Barrier != nil {
		if err := d.cfg.Barrier(ctx); err != nil { // a network made on another manager
			return protocol.AttachReply{}, err
		}
	}
	watch := d.cfg.Store.Watch(nil)
	defer func() { watch.Close() }()
	var before, asked *store.Task
	err := store.Transact(ctx, d.cfg.Store, d.cfg.Proposer, func(tx *store.Tx) (err error) {
		if before, asked, err = request(tx.View, node, req); err != nil {
			return err
		}
		if before == nil {
			tx.Create(asked)
		} else {
			tx.Update(asked)
		}
		return nil
	})
	if err != nil {
		return protocol.AttachReply{}, err
	}
	for {
		reply, done, err := d.allocated(asked.ID, req)
		if err == nil && done {
			return reply, nil
		}
		if err != nil {
			return reply, d.withdraw(ctx, before, asked, err)
		}
		select {
		case <-ctx.Done():
			return reply, d.withdraw(ctx, before, asked, remote.Errorf(errdefs.ErrUnavailable, "the managers did not give the container an address in time"))
		case _, open := <-watch.C:
			if !open { // lagged: look with a fresh watch
				watch = d.cfg.Store.Watch(nil)
			}
		}
	}
}

// request is the attachment as it is, nil for a new one, and as it is to be.
func request(v *store.View, node string, req protocol.AttachRequest) (before, asked *store.Task, err error) {
	mesh := ingress(v)
	if mesh == nil {
		return nil, nil, remote.Errorf(errdefs.ErrUnavailable, "the swarm has no ingress network yet, which carries every container's default route")
	}
	if before = v.Task(req.TaskID); before == nil {
		asked = newAttachment(node, cmp.Or(req.TaskID, store.NewID()))
		asked.Spec.Networks = []swarm.NetworkAttachmentConfig{{Target: mesh.ID}}
	} else {
		if !before.Attached() || before.NodeID != node {
			return nil, nil, remote.Errorf(errdefs.ErrPermissionDenied, "task %s is not an attachment of node %s", req.TaskID, node)
		}
		next := *before
		asked = &next
		asked.Spec.Networks = slices.Clone(before.Spec.Networks)
	}
	if req.ContainerID != "" {
		asked.Name, asked.Spec.NetworkAttachmentSpec = req.Name, &swarm.NetworkAttachmentSpec{ContainerID: req.ContainerID}
	}
	asked.Wanted = slices.Clone(asked.Wanted)
	for _, to := range req.Networks {
		n, err := attachable(v, to)
		if err != nil {
			return nil, nil, err
		}
		asked.Wanted = append(asked.Wanted, to.Addrs...)
		if !slices.ContainsFunc(asked.Spec.Networks, func(c swarm.NetworkAttachmentConfig) bool { return c.Target == n.ID }) {
			asked.Spec.Networks = append(asked.Spec.Networks, swarm.NetworkAttachmentConfig{Target: n.ID, Aliases: to.Aliases})
		}
	}
	return before, asked, nil
}

func newAttachment(node, id string) *store.Task {
	t := &store.Task{}
	t.ID, t.NodeID, t.DesiredState = id, node, swarm.TaskStateRunning
	t.Status = swarm.TaskStatus{State: swarm.TaskStateNew, Message: "created", Timestamp: time.Now().UTC()}
	t.Spec.Runtime, t.Spec.NetworkAttachmentSpec = swarm.RuntimeNetworkAttachment, &swarm.NetworkAttachmentSpec{}
	return t
}

// attachable finds the network that a container is to be put on, or says in
// Docker's words why it cannot be.
func attachable(v *store.View, to protocol.AttachTo) (*store.Network, error) {
	n := findNetwork(v, to.Target)
	switch {
	case n == nil:
		return nil, remote.Errorf(errdefs.ErrNotFound, "network %s not found", to.Target)
	case n.Error != "":
		return nil, remote.Errorf(errdefs.ErrUnavailable, "network %s: %s", n.Spec.Name, n.Error)
	case !n.Spec.Attachable:
		return nil, remote.Errorf(errdefs.ErrPermissionDenied,
			"Could not attach to network %s: rpc error: code = PermissionDenied desc = network %s not manually attachable", n.Spec.Name, n.Spec.Name)
	}
	for _, a := range to.Addrs {
		if !slices.ContainsFunc(subnets(n), func(s protocol.Subnet) bool { return s.Prefix.Contains(a) }) {
			return nil, remote.Errorf(errdefs.ErrInvalidArgument, "invalid address %s: It does not belong to any of this network's subnets", a)
		}
	}
	return n, nil
}

// findNetwork resolves what a user calls a network: its ID, else its name, else
// the start of its ID if no other's starts so.
func findNetwork(v *store.View, ref string) *store.Network {
	if n := v.Network(ref); n != nil {
		return n
	}
	if n := v.NetworkByName(ref); n != nil || ref == "" {
		return n
	}
	var begun []*store.Network
	for _, n := range v.Networks() {
		if strings.HasPrefix(n.ID, ref) {
			begun = append(begun, n)
		}
	}
	if len(begun) != 1 {
		return nil
	}
	return begun[0]
}

// allocated is the answer once the task has addresses on all networks asked for.
func (d *Dispatcher) allocated(id string, req protocol.AttachRequest) (out protocol.AttachReply, done bool, err error) {
	d.cfg.Store.View(func(v *store.View) {
		t := v.Task(id)
		switch {
		case t == nil:
			err = remote.Errorf(errdefs.ErrUnavailable, "attachment %s is gone", id)
			return
		case t.Status.Err != "":
			err = remote.Errorf(errdefs.ErrConflict, "%s", t.Status.Err)
			return
		}
		out.TaskID = id
		wanted := []string{ingress(v).ID}
		for _, to := range req.Networks {
			if n := findNetwork(v, to.Target); n != nil {
				wanted = append(wanted, n.ID)
			}
		}
		for _, network := range wanted {
			i := slices.IndexFunc(t.NetworksAttachments, func(a swarm.NetworkAttachment) bool { return a.Network.ID == network })
			n := v.Network(network)
			if i < 0 || n == nil {
				return
			}
			out.Networks = append(out.Networks, protocol.AttachedTo{
				ID: n.ID, Name: n.Spec.Name, Addrs: t.NetworksAttachments[i].Addresses, Aliases: aliases(t, n.ID),
			})
		}
		done = true
	})
	return out, done, err
}

// withdraw takes back what was asked for, and returns why.
func (d *Dispatcher) withdraw(ctx context.Context, before, asked *store.Task, why error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), attachTime)
	defer cancel()
	err := store.Transact(ctx, d.cfg.Store, d.cfg.Proposer, func(tx *store.Tx) error {
		t := tx.Task(asked.ID)
		switch {
		case t == nil:
		case before == nil:
			tx.Remove(t)
		default:
			next := *t
			next.Spec.Networks, next.NetworksAttachments, next.Wanted = before.Spec.Networks, before.NetworksAttachments, before.Wanted
			next.Status.Err = before.Status.Err
			tx.Update(&next)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%w (and it could not be taken back: %w)", why, err)
	}
	return why
}
