package consensus

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/hashicorp/raft"

	"github.com/meshd/meshd/orchestrator/remote"
)

var errLeaderMoved = errors.New("the leader moved")

// LeaderChanges tells whether this node leads, first as it is now, then every
// change; who reads late sees the newest only. "Leads" means that its store
// also holds all that earlier leaders committed. stop ends the subscription.
// The channel is closed when the node closes.
func (n *Node) LeaderChanges() (changes <-chan bool, stop func()) { return n.subs.add() }

// watch follows raft's news of this node's leadership.
func (n *Node) watch() {
	for {
		select {
		case <-n.stop:
			n.readyTerm.Store(0)
			n.subs.set(false)
			return
		case lead := <-n.notify:
			n.readyTerm.Store(0)
			n.subs.set(false)
			if lead {
				n.takeOver()
			}
		}
	}
}

// takeOver waits until all that earlier leaders committed is applied here. It
// fails at once when leadership is lost again, for which the next news stands.
func (n *Node) takeOver() {
	n.peers.reset()
	term := n.raft.CurrentTerm()
	if err := n.raft.Barrier(0).Error(); err != nil {
		n.cfg.Logger.Info("leadership was lost before it began", "error", err)
		return
	}
	n.readyTerm.Store(term)
	n.cfg.Logger.Info("this manager leads the swarm", "term", term)
	n.subs.set(true)
}

// subscriptions spreads the newest value to whoever listens.
type subscriptions struct {
	mu    sync.Mutex
	lead  bool
	ended bool
	chans map[chan bool]struct{}
}

func (s *subscriptions) add() (<-chan bool, func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := make(chan bool, 1)
	if s.ended {
		close(c)
		return c, func() {}
	}
	c <- s.lead
	if s.chans == nil {
		s.chans = map[chan bool]struct{}{}
	}
	s.chans[c] = struct{}{}
	return c, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.chans, c)
	}
}

func (s *subscriptions) set(lead bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lead == lead {
		return
	}
	s.lead = lead
	for c := range s.chans {
		select {
		case <-c: // not read yet: older than this
		default:
		}
		c <- lead
	}
}

func (s *subscriptions) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	for c := range s.chans {
		close(c)
	}
	s.chans = nil
}

// wanted filters raft's observations.
func wanted(o *raft.Observation) bool {
	switch o.Data.(type) {
	case raft.FailedHeartbeatObservation, raft.ResumedHeartbeatObservation, raft.LeaderObservation, raft.PeerObservation, raft.RaftState:
		return true
	}
	return false
}

// observe keeps the set of peers that this leader cannot reach, and notices
// when raft shuts itself down.
func (n *Node) observe() {
	for {
		select {
		case <-n.stop:
			return
		case o := <-n.observed:
			switch d := o.Data.(type) {
			case raft.FailedHeartbeatObservation:
				if time.Since(d.LastContact) > heartbeatTimeout {
					n.peers.set(string(d.PeerID), false)
				}
			case raft.ResumedHeartbeatObservation:
				n.peers.set(string(d.PeerID), true)
			case raft.LeaderObservation:
				n.moves.tell()
			case raft.PeerObservation:
				n.peers.set(string(d.Peer.ID), true)
			case raft.RaftState:
				if d == raft.Shutdown {
					close(n.removed)
					return
				}
			}
		}
	}
}

// peerSet holds the peers that do not answer the leader's heartbeats.
type peerSet struct {
	mu     sync.Mutex
	silent map[string]struct{}
}

func (p *peerSet) set(id string, reachable bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if reachable {
		delete(p.silent, id)
		return
	}
	if p.silent == nil {
		p.silent = map[string]struct{}{}
	}
	p.silent[id] = struct{}{}
}

func (p *peerSet) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = nil
}

func (p *peerSet) reachable(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, silent := p.silent[id]
	return !silent
}

// moves tells waiting calls that raft sees another leader than before.
type moves struct {
	mu sync.Mutex
	c  chan struct{} // closed at the next move
}

func (m *moves) next() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.c == nil {
		m.c = make(chan struct{})
	}
	return m.c
}

func (m *moves) tell() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.c != nil {
		close(m.c)
		m.c = nil
	}
}

// otherLeader is where the leader is, if that is another manager.
func (n *Node) otherLeader() (addr string, err error) {
	_, addr = n.Leader()
	if addr == "" || addr == n.cfg.Addr {
		return "", errNotLeader()
	}
	return addr, nil
}

// callLeader makes a call to the leader and gives it up when another leads: a
// leader that lost its power does not answer, and pings would take seconds to
// notice.
func (n *Node) callLeader(ctx context.Context, path string, in, out any) error {
	moved := n.moves.next()
	addr, err := n.otherLeader()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan struct{})
	watched := n.spawn(func() {
		defer close(done)
		select {
		case <-moved:
			cancel(errLeaderMoved)
		case <-ctx.Done():
		}
	})
	if !watched {
		return errStopped()
	}
	err = n.cfg.Client.Call(ctx, addr, path, in, out)
	cancel(nil)
	<-done
	if err != nil && errors.Is(context.Cause(ctx), errLeaderMoved) {
		return remote.Errorf(errdefs.ErrUnavailable, "the leader changed while it was asked")
	}
	return err
}
