package dispatcher

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/meshd/meshd/orchestrator/store"
)

// Lag is a network of which a node's kernel holds less than it should.
type Lag struct {
	// Node and Network are IDs.
	Node, Network string
	// Held is the revision that the node has acknowledged, zero if none; Revision is
	// the newest one.
	Held, Revision uint64
	// Since is when the oldest change came up that the node has not acknowledged.
	Since time.Time
}

// Watched are the nodes that have their sessions with this manager, and what holds
// each of them back: their lags. Another manager answers for the other nodes. It
// takes in first what the store holds now.
func (d *Dispatcher) Watched(ctx context.Context) (nodes []string, lags []Lag, err error) {
	if err := d.catchUp(ctx); err != nil {
		return nil, nil, err
	}
	var sessions []*session
	d.each(func(s *session) { sessions = append(sessions, s) })
	d.cfg.Store.View(func(v *store.View) {
		for _, s := range sessions {
			nodes = append(nodes, s.node)
			lags = append(lags, d.lags(v, s)...)
		}
	})
	slices.Sort(nodes)
	slices.SortFunc(lags, func(a, b Lag) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Network, b.Network))
	})
	return nodes, lags, nil
}

func (d *Dispatcher) lags(v *store.View, s *session) []Lag {
	var out []Lag
	for _, n := range networksOf(v, s.node) {
		lag, behind := d.cache.lag(n.ID, d.ledger.acked(s.node, n.ID))
		if !behind {
			continue
		}
		lag.Node = s.node
		if told := s.since(n.ID, d.cfg.Clock()); told.After(lag.Since) {
			lag.Since = told
		}
		out = append(out, lag)
	}
	return out
}

// catchUp waits until every commit that the store holds has been taken in.
func (d *Dispatcher) catchUp(ctx context.Context) error {
	newest := d.cfg.Store.Changed()
	poll := time.NewTicker(d.cfg.Coalesce)
	defer poll.Stop()
	for d.cache.processed() < newest {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-poll.C:
		}
	}
	return nil
}

// lag compares what a node holds of a network with what it should.
func (c *cache) lag(network string, held uint64) (lag Lag, behind bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.feeds[network]
	if f == nil {
		return Lag{}, false // no session has asked for it yet
	}
	since := f.missed(held)
	return Lag{Network: network, Held: held, Revision: f.next, Since: since}, !since.IsZero()
}
