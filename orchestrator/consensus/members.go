package consensus

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/hashicorp/raft"

	"github.com/meshd/meshd/orchestrator/remote"
)

// Member is a manager taking part in raft.
type Member struct {
	ID     string
	Addr   string
	Voter  bool
	Leader bool
}

// final is a refusal that no other try would change.
func final(format string, args ...any) error {
	return remote.Errorf(errdefs.ErrFailedPrecondition, format, args...)
}

// changeTimeout bounds one change of the members.
const changeTimeout = 10 * time.Second

// probeTimeout is how long a manager may take to answer when its vote is counted on.
const probeTimeout = 1500 * time.Millisecond

// Members lists the members of raft as this node knows them.
func (n *Node) Members() []Member {
	f := n.raft.GetConfiguration()
	if f.Error() != nil {
		return nil
	}
	leader, _ := n.Leader()
	var out []Member
	for _, s := range f.Configuration().Servers {
		out = append(out, Member{
			ID: string(s.ID), Addr: string(s.Address), Voter: s.Suffrage == raft.Voter, Leader: string(s.ID) == leader,
		})
	}
	return out
}

func (n *Node) member(id string) (Member, bool) {
	for _, m := range n.Members() {
		if m.ID == id {
			return m, true
		}
	}
	return Member{}, false
}

// AddVoter makes a manager a voter, or changes its address. It must answer at
// addr already: adding one that does not could cost the quorum. A new one that does not
// catch up within some seconds stays a learner, which is no error.
func (n *Node) AddVoter(ctx context.Context, id, addr string) error {
	return n.onLeader(ctx, pathAdd, memberRequest{ID: id, Addr: addr}, nil, func(ctx context.Context) error {
		return n.addVoter(ctx, id, addr)
	})
}

func (n *Node) addVoter(ctx context.Context, id, addr string) error {
	if m, ok := n.member(id); ok && m.Addr == addr && m.Voter {
		return nil
	}
	if id != n.cfg.NodeID {
		if err := n.probe(ctx, id, addr); err != nil {
			return final("the new manager cannot be reached from the leader: %v", err)
		}
	}
	for _, m := range n.Members() {
		if m.Addr != addr || m.ID == id {
			continue
		}
		// The probe has shown who lives there now.
		if err := n.raft.RemoveServer(raft.ServerID(m.ID), 0, changeTimeout).Error(); err != nil {
			return classify(err)
		}
	}
	if m, _ := n.member(id); !m.Voter {
		return n.learn(ctx, id, addr)
	}
	return classify(n.raft.AddVoter(raft.ServerID(id), raft.ServerAddress(addr), 0, changeTimeout).Error())
}

// probe checks that a manager answers at its address.
func (n *Node) probe(ctx context.Context, id, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*probeTimeout)
	defer cancel()
	c, got, err := n.cfg.Client.DialRaft(ctx, addr)
	if err != nil {
		return err
	}
	c.Close()
	if got.NodeID != id {
		return fmt.Errorf("at %s answers node %s, not %s", addr, got.NodeID, id)
	}
	return nil
}

// Remove takes a manager out of raft; one that is no member is no error. A
// leader that is to be removed hands over first. The removed node does not
// always learn of it: whoever asked must close its Node.
func (n *Node) Remove(ctx context.Context, id string) error {
	return n.onLeader(ctx, pathRemove, memberRequest{ID: id}, nil, func(ctx context.Context) error {
		return n.remove(id)
	})
}

func (n *Node) remove(id string) error {
	if _, ok := n.member(id); !ok {
		return nil
	}
	if left := n.voters(id); len(left) == 0 {
		return final("node %s is the last manager of the swarm", id)
	}
	if id == n.cfg.NodeID {
		if err := n.giveLeadership(); err != nil {
			return remote.Errorf(errdefs.ErrAborted, "leadership could not be handed over: %v", err)
		}
		return errNotLeader() // the new leader does it
	}
	return classify(n.raft.RemoveServer(raft.ServerID(id), 0, changeTimeout).Error())
}

// TransferLeadership gives leadership to the voter that is most up to date.
func (n *Node) TransferLeadership(ctx context.Context) error {
	return n.onLeader(ctx, pathTransfer, nil, nil, func(context.Context) error { return n.transfer() })
}

func (n *Node) transfer() error {
	if err := n.giveLeadership(); err != nil {
		return final("leadership could not be handed over: %v", err)
	}
	return nil
}

// Rest is what would be left of the managers that vote, without one of them.
type Rest struct {
	Voters int
	// Silent are those that do not answer now, by node ID.
	Silent []string
}

// Quorum says whether they could go on. Nobody cannot.
func (r Rest) Quorum() bool { return r.Voters-len(r.Silent) > r.Voters/2 }

// Without asks the other managers than id whether they are there.
func (n *Node) Without(ctx context.Context, id string) (Rest, error) {
	var r Rest
	err := n.onLeader(ctx, pathWithout, memberRequest{ID: id}, &r, func(ctx context.Context) error {
		r = n.without(ctx, id)
		return nil
	})
	return r, err
}

func (n *Node) without(ctx context.Context, id string) Rest {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	rest := n.voters(id)
	out := Rest{Voters: len(rest)}
	var mu sync.Mutex
	var probes sync.WaitGroup
	for _, m := range rest {
		if m.ID == n.cfg.NodeID {
			continue
		}
		probes.Go(func() {
			if n.probe(ctx, m.ID, m.Addr) != nil {
				mu.Lock()
				defer mu.Unlock()
				out.Silent = append(out.Silent, m.ID)
			}
		})
	}
	probes.Wait()
	slices.Sort(out.Silent)
	return out
}

// voters are the members that vote, but for one.
func (n *Node) voters(but string) []Member {
	return slices.DeleteFunc(n.Members(), func(m Member) bool { return m.ID == but || !m.Voter })
}

// Reachable says of each member whether it answers the leader's heartbeats.
func (n *Node) Reachable(ctx context.Context) (map[string]bool, error) {
	var r reachableReply
	err := n.onLeader(ctx, pathReachable, nil, &r, func(context.Context) error {
		r.Members = n.reachable()
		return nil
	})
	return r.Members, err
}

func (n *Node) reachable() map[string]bool {
	out := map[string]bool{}
	for _, m := range n.Members() {
		out[m.ID] = m.ID == n.cfg.NodeID || n.peers.reachable(m.ID)
	}
	return out
}
