package agent

import (
	"context"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/protocol"
)

// Dataplane makes the kernel equal to a view.
type Dataplane interface {
	// Update sets the newest view and returns at once; older ones may be skipped.
	Update(v View)
	// Ready returns when the kernel holds the network at the revision or a newer one.
	Ready(ctx context.Context, networkID string, revision uint64) error
	// Held returns the revision of each network that the kernel holds, and a
	// channel that is closed when that is no longer the newest answer.
	Held() (revisions map[string]uint64, changed <-chan struct{})
	// Free says which process of the node has one of the ports, which a task is to
	// publish on this node; nil: none.
	Free(ports []swarm.PortConfig) error
	// Overlap says which route of the node leads to a network's addresses in another
	// way; nil: none.
	Overlap(n protocol.Network) error
}

// View is all that the data plane follows from. Its slices are never modified.
type View struct {
	Nodes    []protocol.Node
	Networks []protocol.Network
	// GossipKeys are those of the nodes' gossip, the one to encrypt with first.
	GossipKeys [][]byte
	// KeyEpoch is the one that this node is to have a WireGuard key of.
	KeyEpoch uint64
	// Tasks are the assignments whose task has not ended: the addresses of ended
	// ones may belong to others by now.
	Tasks []protocol.Assignment
}
