package consensus

import (
	"context"
	"testing"
	"time"

	"github.com/meshd/meshd/orchestrator/remote"
)

// A manager that answers and fetches nothing gets no vote, and costs nobody the quorum;
// when it works it gets its vote.
func TestLearnerThatDoesNotCatchUpHasNoVote(t *testing.T) {
	c := newCluster(t, 2)
	late := c.prepare("late", t.TempDir())
	srv := remote.NewServer(remote.Config{Keeper: late.keeper})
	must(t, srv.Listen(late.addr))
	life, end := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(life) }()

	var lead *peer
	eventually(t, time.Minute, "it is a learner", func() bool {
		lead = c.leader(c.peers...)
		short, cancel := context.WithTimeout(ctx(t), 2*time.Second)
		defer cancel()
		err := lead.AddVoter(short, late.id, late.addr)
		_, in := lead.member(late.id)
		return err == nil && in
	})
	if m, _ := lead.member(late.id); m.Voter {
		t.Errorf("a manager that fetches nothing is %+v", m)
	}
	_, err := lead.Propose(ctx(t), createConfig("meanwhile"))
	must(t, err)
	if r, err := lead.Without(ctx(t), late.id); err != nil || r.Voters != 2 {
		t.Errorf("without it there are %+v, %v", r, err)
	}

	end()
	must(t, <-served)
	c.start(late)
	c.peers = append(c.peers, late)
	c.admit(lead, late)
	eventually(t, time.Minute, "it has what was written", func() bool { return has(late.store, "meanwhile") })
}
