package consensus

import (
	"testing"
	"time"

	"github.com/meshd/meshd/orchestrator/store"
)

func TestNothingIsProposedAfterTheTerm(t *testing.T) {
	c := newCluster(t, 3)
	var lead, next *peer
	var term store.Proposer
	eventually(t, time.Minute, "the leader may propose", func() bool {
		lead = c.leader(c.peers...)
		term = lead.AsLeader()
		_, err := term.Propose(ctx(t), createConfig("before"))
		return err == nil
	})
	must(t, lead.TransferLeadership(ctx(t)))
	eventually(t, time.Minute, "another leader", func() bool { return !lead.IsLeader() })
	if _, err := term.Propose(ctx(t), createConfig("between")); err == nil {
		t.Error("a change of an earlier term was made under another leader")
	}
	eventually(t, time.Minute, "the new leader's store is complete", func() bool {
		next = c.leader(c.peers...)
		return next.readyTerm.Load() != 0
	})
	must(t, next.TransferLeadership(ctx(t)))
	if _, err := term.Propose(ctx(t), createConfig("after")); err == nil {
		t.Error("a change of an earlier term was made in a later one")
	}
}
