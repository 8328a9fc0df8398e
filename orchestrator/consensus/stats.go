package consensus

// Stats is where this manager's part in raft stands.
type Stats struct {
	// Leading: this node leads. Leader is who does, by node ID; empty if nobody known.
	Leading bool
	Leader  string
	Term    uint64
	// LastIndex, CommitIndex and AppliedIndex are positions in the log: the last
	// entry written, the last one that a quorum has, the last one in this node's store.
	LastIndex, CommitIndex, AppliedIndex uint64
	// Members is the number of managers.
	Members int
}

// Stats reads all at about the same time.
func (n *Node) Stats() Stats {
	leader, _ := n.Leader()
	return Stats{
		Leading: n.IsLeader(), Leader: leader, Term: n.raft.CurrentTerm(),
		LastIndex: n.raft.LastIndex(), CommitIndex: n.raft.CommitIndex(), AppliedIndex: n.raft.AppliedIndex(),
		Members: len(n.Members()),
	}
}
