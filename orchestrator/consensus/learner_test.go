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
	lead := c.leader(c.peers...)
	late := c.prepare("late", t.TempDir())
	srv := remote.NewServer(remote.Config{Keeper: late.keeper})
	must(t, srv.Listen(late.addr))
	life, end := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(life) }()

	short, cancel := context.WithTimeout(ctx(t), 2*time.Second)
	defer cancel()
	must(t, lead.AddVoter(short, late.id, late.addr))
	if m, in := lead.member(late.id); !in || m.Voter {
		t.Errorf("a manager that fetches nothing is %+v, %v", m, in)
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
	eventually(t, time.Minute, "it has a vote", func() bool {
		if err := lead.AddVoter(ctx(t), late.id, late.addr); err != nil {
			t.Log(err)
		}
		m, _ := lead.member(late.id)
		return m.Voter
	})
	eventually(t, time.Minute, "it has what was written", func() bool { return has(late.store, "meanwhile") })
}
