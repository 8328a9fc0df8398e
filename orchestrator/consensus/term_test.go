package consensus

import (
	"testing"
	"time"

	"github.com/meshd/meshd/orchestrator/store"
)

func TestNothingIsProposedAfterTheTerm(t *testing.T) {
	c := newCluster(t, 3)
	lead := c.leader(c.peers...)
	var term store.Proposer
	eventually(t, time.Minute, "the leader may propose", func() bool {
		term = lead.AsLeader()
		_, err := term.Propose(ctx(t), createConfig("before"))
		return err == nil
	})
	must(t, lead.TransferLeadership(ctx(t)))
	eventually(t, time.Minute, "another leader", func() bool { return !lead.IsLeader() })
	if _, err := term.Propose(ctx(t), createConfig("between")); err == nil {
		t.Error("a change of an earlier term was made under another leader")
	}
	next := c.leader(c.peers...)
	eventually(t, time.Minute, "the new leader's store is complete", func() bool { return next.readyTerm.Load() != 0 })
	must(t, next.TransferLeadership(ctx(t)))
	if _, err := term.Propose(ctx(t), createConfig("after")); err == nil {
		t.Error("a change of an earlier term was made in a later one")
	}
}
