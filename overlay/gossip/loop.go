package gossip

import (
	"context"
	"maps"
	"time"

	"github.com/hashicorp/memberlist"
	"golang.org/x/sync/errgroup"
)

// maxChecks bounds the machines that are asked for a sign of life at a time.
const maxChecks = 64

// sight is what the loop has seen of the others.
type sight struct {
	ring *memberlist.Keyring
	met  map[string]bool
	gone map[string]lost
	// left are those that said that they serve no more; it holds until they are back.
	left map[string]bool
	mask map[string]bool
	// failed: the port could not be opened when last tried.
	failed bool
}

func (g *Gossip) loop(ctx context.Context, checks *errgroup.Group) error {
	s := &sight{met: map[string]bool{}, gone: map[string]lost{}, left: map[string]bool{}, mask: map[string]bool{}}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-g.wake:
		case <-timer.C:
		case a := <-g.answers:
			s.answered(a, time.Now())
		}
		timer.Reset(g.look(ctx, s, checks))
	}
}

// look takes in what changed and returns when to look again though nothing does.
func (g *Gossip) look(ctx context.Context, s *sight, checks *errgroup.Group) time.Duration {
	keys, members := g.wishes()
	list := g.open()
	if len(keys) == 0 {
		return reopen
	}
	if list == nil {
		if list = g.start(s, keys); list == nil {
			return reopen
		}
	}
	if err := setKeys(s.ring, keys); err != nil {
		g.log.Error("gossip goes on with its former keys", "error", err)
	}
	s.see(g.cfg.NodeID, members, alive(list), leaving(list))
	g.decide(s)
	return g.ask(ctx, s, members, checks)
}

// ask looks for signs of life of those that are gone, each when it is due, and
// returns when the next is.
func (g *Gossip) ask(ctx context.Context, s *sight, members []Member, checks *errgroup.Group) time.Duration {
	next, now := reopen, time.Now()
	for _, m := range members {
		l, ok := s.gone[m.ID]
		if !ok || l.asking || s.left[m.ID] || m.GivenUp && l.silent {
			continue
		}
		if wait := l.due.Sub(now); wait > 0 {
			next = min(next, wait)
			continue
		}
		l.asking = checks.TryGo(func() error {
			g.check(ctx, m)
			return nil
		})
		s.gone[m.ID] = l // if all hands are full, their answers wake the loop
	}
	return next
}

// answered notes what a check found.
func (s *sight) answered(a answer, now time.Time) {
	l, ok := s.gone[a.id]
	if !ok {
		return
	}
	l.asking, l.silent, l.due = false, a.silent, now.Add(recheckLiving)
	if a.silent {
		l.due = now.Add(recheckSilent)
	}
	s.gone[a.id] = l
}

// see compares who is alive with who was met; leaving are those of them that say that
// they leave.
func (s *sight) see(self string, members []Member, alive, leaving map[string]bool) {
	listed := map[string]bool{}
	for _, m := range members {
		listed[m.ID] = true
		switch {
		case m.ID == self:
		case alive[m.ID]:
			s.met[m.ID] = true
			delete(s.gone, m.ID)
			s.left[m.ID] = leaving[m.ID]
		case s.met[m.ID]:
			s.gone[m.ID] = s.gone[m.ID]
		}
	}
	for id := range s.met {
		if !listed[id] {
			delete(s.met, id)
			delete(s.gone, id)
			delete(s.left, id)
		}
	}
}

func (g *Gossip) decide(s *sight) {
	_, members := g.wishes()
	s.mask = mask(g.cfg.NodeID, members, s.gone, s.left, s.mask)
	expected := maps.Clone(s.left)
	for _, m := range members {
		if m.Leaving {
			expected[m.ID] = true
		}
	}
	g.publish(s.mask, expected)
}

// start opens the member list; nil when that fails, e.g. for a port in use: then
// this node masks nobody, and the managers' word alone counts.
func (g *Gossip) start(s *sight, keys [][]byte) *memberlist.Memberlist {
	ring, err := memberlist.NewKeyring(keys, keys[0])
	if err != nil {
		g.log.Error("gossip has no usable keys", "error", err)
		return nil
	}
	list, err := memberlist.Create(g.config(ring))
	if err != nil {
		if !s.failed {
			g.log.Error("gossip does not run: dead nodes are noticed later, by managers only", "address", g.cfg.Addr, "error", err, "retry", reopen)
		}
		s.failed = true
		return nil
	}
	s.ring, s.failed = ring, false
	g.mu.Lock()
	g.list = list
	g.mu.Unlock()
	signal(g.seek)
	return list
}

// check asks a machine that memberlist has lost for a sign of life.
func (g *Gossip) check(ctx context.Context, m Member) {
	tctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	silent := !g.cfg.Reach(tctx, m.Addr)
	if ctx.Err() != nil {
		return
	}
	select {
	case g.answers <- answer{m.ID, silent}:
	case <-ctx.Done():
	}
}
