package consensus

import (
	"testing"
	"time"
)

func TestStatsTellWhereRaftStands(t *testing.T) {
	c := newCluster(t, 3)
	lead := c.leader(c.peers...)
	if _, err := lead.Propose(ctx(t), createConfig("one")); err != nil {
		t.Fatal(err)
	}
	want := lead.Stats()
	if !want.Leading || want.Leader != lead.id || want.Members != 3 || want.Term == 0 || want.CommitIndex == 0 || want.CommitIndex > want.LastIndex {
		t.Errorf("leader: %+v", want)
	}
	for _, p := range c.others(lead) {
		eventually(t, time.Minute, "a follower is where the leader was", func() bool {
			s := p.Stats()
			return !s.Leading && s.Leader == lead.id && s.Term == want.Term && s.AppliedIndex >= want.CommitIndex
		})
	}
}
