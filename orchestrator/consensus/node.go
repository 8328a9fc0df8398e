// Package consensus replicates the store between managers with raft.
package consensus

import (
	"context"
	"errors"
	"log/slog"

	"github.com/meshd/meshd/orchestrator/remote"
	"github.com/meshd/meshd/orchestrator/store"
)

// Config of a Node.
type Config struct {
	// Dir holds the log, the snapshots and their key.
	Dir    string
	NodeID string
	// Addr is host:port of the control port, as other managers dial it.
	Addr   string
	Store  *store.Store
	Server *remote.Server
	Client *remote.Client
	// Fatal is told once that this replica cannot go on; it applies nothing after that.
	Fatal  func(error)
	Logger *slog.Logger
}

// Member is a manager taking part in raft.
type Member struct {
	ID, Addr string
	Voter    bool
	Leader   bool
}

// Node is this manager's part in raft. It implements store.Proposer.
type Node struct{}

var errSoon = errors.New("consensus: not built yet")

// Open starts raft from what is on disk.
func Open(cfg Config) (*Node, error) { return nil, errSoon }

// Bootstrap makes this node the only voter of a new cluster.
func (n *Node) Bootstrap() error { return errSoon }

// Run works until the context ends, then shuts raft down and joins everything.
func (n *Node) Run(ctx context.Context) error { return errSoon }

// Propose implements store.Proposer.
func (n *Node) Propose(ctx context.Context, b store.Batch) (uint64, error) { return 0, errSoon }

// Barrier returns when this node's store holds every write acknowledged before the call.
func (n *Node) Barrier(ctx context.Context) error { return errSoon }

// Leader returns the leader's node ID and address, empty when there is none.
func (n *Node) Leader() (nodeID, addr string) { return "", "" }

// IsLeader says whether this node leads.
func (n *Node) IsLeader() bool { return false }

// LeaderChanges tells whether this node leads, first the present state, then changes
// (newest wins). stop ends the subscription.
func (n *Node) LeaderChanges() (changes <-chan bool, stop func()) { return nil, func() {} }

// Members lists the members of raft.
func (n *Node) Members() []Member { return nil }

// AddVoter makes a manager a voter.
func (n *Node) AddVoter(ctx context.Context, id, addr string) error { return errSoon }

// Remove takes a manager out of raft.
func (n *Node) Remove(ctx context.Context, id string) error { return errSoon }

// TransferLeadership gives leadership to another voter.
func (n *Node) TransferLeadership(ctx context.Context) error { return errSoon }

// HasQuorumWithout says whether the others could go on if id was gone.
func (n *Node) HasQuorumWithout(ctx context.Context, id string) (bool, error) { return false, errSoon }

// Reachable says of each member whether the leader can reach it.
func (n *Node) Reachable(ctx context.Context) (map[string]bool, error) { return nil, errSoon }

// Snapshot writes a snapshot now.
func (n *Node) Snapshot() error { return errSoon }

// ForceNewCluster makes the state on disk that of a cluster whose only manager is this node.
func ForceNewCluster(cfg Config) error { return errSoon }
