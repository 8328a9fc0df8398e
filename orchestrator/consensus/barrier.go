package consensus

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
)

// Barrier returns when this node's store holds every write that was
// acknowledged, by any manager, before the call. Without a leader it fails like
// Propose.
func (n *Node) Barrier(ctx context.Context) error {
	ctx, cancel := patient(ctx)
	defer cancel()
	var r barrierReply
	err := n.onLeader(ctx, pathBarrier, nil, &r, func(ctx context.Context) (err error) {
		r.Index, err = n.readIndex(ctx)
		return err
	})
	if err != nil {
		return err
	}
	return n.fsm.wait(ctx, r.Index)
}

// readIndex is the index of the last entry that is committed now, as leader.
func (n *Node) readIndex(ctx context.Context) (uint64, error) {
	term := n.readyTerm.Load()
	if term == 0 || term != n.raft.CurrentTerm() {
		return 0, errNotLeader()
	}
	commit := n.raft.CommitIndex()
	if err := n.raft.VerifyLeader().Error(); err != nil {
		return 0, classify(err)
	}
	if term != n.raft.CurrentTerm() {
		return 0, errNotLeader()
	}
	index, err := n.lastCommand(commit)
	if err != nil {
		return 0, err
	}
	return index, n.fsm.wait(ctx, index)
}

// lastCommand is the newest entry up to index that reaches the store; raft's
// own entries (elections, members) never do, so nobody could wait for them.
func (n *Node) lastCommand(index uint64) (uint64, error) {
	applied := n.fsm.appliedIndex()
	for ; index > applied; index-- {
		var l raft.Log
		err := n.disk.logs.GetLog(index, &l)
		switch {
		case errors.Is(err, raft.ErrLogNotFound):
			return n.fsm.appliedIndex(), nil // compacted, so applied by now
		case err != nil:
			return 0, fmt.Errorf("consensus: read log entry %d: %w", index, err)
		case l.Type == raft.LogCommand:
			return index, nil
		}
	}
	return applied, nil
}
