package meshd

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/admission"
	"github.com/meshd/meshd/orchestrator/remote"
)

// Leave implements api.Node. Raft has the last word on whether a manager may
// leave unforced: who is reachable in the store may be seconds old.
func (d *Daemon) Leave(ctx context.Context, force bool) error {
	release, err := d.begin(true)
	if err != nil {
		return err
	}
	defer release()
	d.mu.Lock()
	n := d.node
	d.mu.Unlock()
	if n == nil { // only a broken or a locked state is left
		if d.Status().State == swarm.LocalNodeStateLocked && !force {
			return errLockedLeave
		}
		return errors.Join(d.runner.RemoveAll(ctx), d.forget())
	}
	if n.manager != nil && !force {
		if err := n.manager.mayLeave(ctx, n.snapshot().NodeID); err != nil {
			return err
		}
	}
	if err := n.announceLeave(ctx, force); err != nil && !force {
		return err
	}
	id := n.snapshot().NodeID
	if err := d.drop(n); err != nil {
		return err
	}
	if err := d.runner.RemoveAll(ctx); err != nil {
		d.log.Warn("containers of the swarm's tasks are left over", "error", err)
	}
	d.log.Info("left the swarm", "node", id)
	return nil
}

// leaveTimeout bounds the farewell; a cluster that cannot answer must not hold us.
const leaveTimeout = 10 * time.Second

func (n *node) announceLeave(ctx context.Context, force bool) error {
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	err := errors.New("no manager is known")
	for _, p := range n.others() {
		if err = admission.Leave(ctx, n.client, p.Addr, force); err == nil {
			return nil
		}
	}
	return err
}

// others are the managers to say good-bye to, a remaining one if there is any.
func (n *node) others() []swarm.Peer {
	m := n.snapshot()
	peers := m.Managers
	if n.manager != nil {
		peers = append(n.manager.peers(), peers...)
	}
	var others, self []swarm.Peer
	for _, p := range peers {
		if p.NodeID == m.NodeID {
			self = append(self, p)
		} else {
			others = append(others, p)
		}
	}
	return append(others, self...)
}

// mayLeave refuses what would leave the cluster without a quorum.
func (m *manager) mayLeave(ctx context.Context, id string) error {
	rest, err := m.Without(ctx, id)
	if err == nil && rest.Quorum() {
		return nil
	}
	members := len(m.Members())
	return remote.Errorf(errdefs.ErrUnavailable, "You are attempting to leave the swarm on a node that is participating as a manager. "+
		"Removing this node leaves %d managers out of %d. Without a Raft quorum your swarm will be inaccessible. "+
		"The only way to restore a swarm that has lost consensus is to reinitialize it with `--force-new-cluster`. "+
		"Use `--force` to suppress this message.", members-1, members)
}

// drop ends a node and forgets all that it kept.
func (d *Daemon) drop(n *node) error {
	n.end()
	d.mu.Lock()
	d.node = nil
	d.mu.Unlock()
	d.data.leave()
	return d.forget()
}

// forget removes what a membership leaves on disk.
func (d *Daemon) forget() error {
	d.mu.Lock()
	d.failure = nil
	d.mu.Unlock()
	var errs []error
	for _, path := range []string{d.cfg.membershipFile(), d.cfg.certDir(), d.cfg.raftDir(), d.cfg.agentDir()} {
		errs = append(errs, os.RemoveAll(path))
	}
	return errors.Join(errs...)
}
