package meshd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/admission"
	"github.com/meshd/meshd/orchestrator/agent"
	"github.com/meshd/meshd/orchestrator/remote"
)

// errRoleChanged ends a node whose role is another than its certificate says.
var errRoleChanged = errors.New("this node's role has changed")

// roleRetry is the pause between attempts to take up a new role; a demoted
// manager has to be out of raft before it gets a worker's certificate.
const roleRetry = time.Second

// roleWatch looks into the views on their way to the data plane for what the
// managers say this node's role is.
type roleWatch struct {
	*dataplane
	self string
	role chan swarm.NodeRole // newest wins
}

// Update implements agent.Dataplane.
func (w roleWatch) Update(v agent.View) {
	for _, n := range v.Nodes {
		if n.ID != w.self || n.Role == "" {
			continue
		}
		select {
		case <-w.role:
		default:
		}
		w.role <- n.Role
	}
	w.dataplane.Update(v)
}

// awaitRole returns errRoleChanged when the managers gave this node another role.
func (n *node) awaitRole(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case role := <-n.roles.role:
			if admission.CertRole(role) != n.keeper.Identity().Role {
				return fmt.Errorf("%w to %s", errRoleChanged, role)
			}
		}
	}
}

// changeRole brings an ended node back in the role that the managers gave it.
// Its containers go on meanwhile.
func (d *Daemon) changeRole(old *node) {
	d.op.Lock()
	defer d.op.Unlock()
	d.mu.Lock()
	left := d.node != old // the demotion was the farewell of a node that left
	d.mu.Unlock()
	if left {
		return
	}
	if !d.insist(old.recertify) {
		return
	}
	m := old.snapshot()
	if err := old.keeper.Keep(nil); err != nil { // its data key goes
		d.log.Error("this node's private key is not rewritten", "error", err)
		return
	}
	if err := os.RemoveAll(d.cfg.raftDir()); err != nil {
		d.log.Error("the former raft log cannot be removed", "error", err)
		return
	}
	next, err := d.openNode(m, old.keeper, nil)
	if err != nil {
		d.log.Error("this node cannot take up its new role", "error", err)
		return
	}
	d.startNode(next)
	if d.insist(func(ctx context.Context) error { return next.enter(ctx, m.Managers) }) {
		d.log.Info("this node has a new role", "role", old.keeper.Identity().Role)
	}
}

// insist tries until it works; false when the daemon ends first.
func (d *Daemon) insist(try func(context.Context) error) bool {
	for d.ctx.Err() == nil {
		ctx, cancel := context.WithTimeout(d.ctx, startTimeout)
		err := try(ctx)
		cancel()
		if err == nil {
			return true
		}
		d.log.Warn("this node's new role is not taken up yet; trying again", "error", err)
		select {
		case <-d.ctx.Done():
		case <-time.After(roleRetry):
		}
	}
	return false
}

// recertify gets the certificate of the new role from another manager.
func (n *node) recertify(ctx context.Context) error {
	m, before := n.snapshot(), n.keeper.Identity().Role
	client := remote.NewClient(n.keeper)
	defer client.Close()
	err := errors.New("no other manager is known")
	for _, p := range n.others() {
		if p.NodeID == m.NodeID {
			continue // it has ended
		}
		if err = admission.Renew(ctx, client, p.Addr, n.keeper); err == nil {
			break
		}
	}
	if err == nil && n.keeper.Identity().Role == before {
		err = errors.New("the managers still certify the former role")
	}
	return err
}
