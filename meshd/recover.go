package meshd

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/admission"
	"github.com/meshd/meshd/orchestrator/consensus"
	"github.com/meshd/meshd/orchestrator/remote"
)

// recoverCluster makes this manager the only one of its cluster, with all state
// that it has, when the others are lost for good. They, should they come back,
// are no part of it any more.
func (d *Daemon) recoverCluster(ctx context.Context, r swarm.InitRequest) (string, error) {
	if !d.op.TryLock() {
		return "", errBusy
	}
	defer d.op.Unlock()
	d.mu.Lock()
	old := d.node
	d.mu.Unlock()
	if old == nil || old.manager == nil {
		return "", remote.Errorf(errdefs.ErrFailedPrecondition,
			"--force-new-cluster recovers the swarm that this node is a manager of; it is none")
	}
	m := old.snapshot()
	if r.AdvertiseAddr != "" {
		moved, err := addresses(r.ListenAddr, r.AdvertiseAddr, r.DataPathAddr)
		if err != nil {
			return "", err
		}
		m.ListenAddr, m.AdvertiseAddr, m.DataAddr = moved.ListenAddr, moved.AdvertiseAddr, moved.DataAddr
		m.AdvertiseDevice, m.DataDevice = moved.AdvertiseDevice, moved.DataDevice
	}
	old.end()
	err := consensus.ForceNewCluster(consensus.Config{
		Dir: d.cfg.raftDir(), Vault: old.vault, NodeID: m.NodeID, Addr: m.AdvertiseAddr.String(), Logger: d.log,
	})
	m.Managers = []swarm.Peer{{NodeID: m.NodeID, Addr: m.AdvertiseAddr.String()}}
	n, oerr := d.openNode(m, old.keeper, old.vault) // also after a failure: as it was is better than not at all
	if oerr != nil {
		return "", errors.Join(err, oerr)
	}
	d.startNode(n)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := n.manager.Barrier(ctx); err != nil {
		return "", fmt.Errorf("the recovered swarm does not answer: %w", err)
	}
	if err := admission.Recover(ctx, n.manager.store, n.manager, m.NodeID); err != nil {
		return "", fmt.Errorf("take the lost managers out of the recovered swarm: %w", err)
	}
	d.log.Warn("the swarm was recovered with this node as its only manager", "node", m.NodeID)
	return m.NodeID, m.save(d.cfg.membershipFile())
}
