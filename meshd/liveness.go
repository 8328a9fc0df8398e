package meshd

import (
	"context"
	"log/slog"
	"net/netip"

	"golang.org/x/sync/errgroup"

	"github.com/meshd/meshd/orchestrator/agent"
	"github.com/meshd/meshd/overlay/gossip"
)

// liveness masks nodes that cannot serve right now out of this node's names and
// load balancers. Whom to watch, and with which keys, the managers say; who is
// dead, the nodes find out among themselves.
//
// | goroutine | owns                      | ends with |
// |-----------|---------------------------|-----------|
// | gossip    | see package gossip        | Run's ctx |
// | masker    | what the data plane masks | Run's ctx |
type liveness struct {
	data   *dataplane
	gossip *gossip.Gossip
	port   uint16
	log    *slog.Logger
}

func newLiveness(d *Daemon, m membership) *liveness {
	port := d.cfg.gossipPort()
	return &liveness{data: d.data, port: port, log: d.log, gossip: gossip.New(gossip.Config{
		NodeID: m.NodeID, Addr: netip.AddrPortFrom(m.DataAddr, port), Logger: d.log,
	})}
}

// learn takes from a view on its way to the data plane whom to watch.
func (l *liveness) learn(v agent.View) {
	if err := l.gossip.SetKeys(v.GossipKeys); err != nil {
		l.log.Error("the managers sent keys that gossip cannot use", "error", err)
	}
	var members []gossip.Member
	for _, n := range v.Nodes {
		members = append(members, gossip.Member{
			ID: n.ID, Addr: netip.AddrPortFrom(n.DataAddr, l.port), GivenUp: n.Down, Leaving: n.Stopping,
		})
	}
	l.gossip.SetSeeds(members)
}

// leave tells the other nodes that this one serves no more.
func (l *liveness) leave() {
	if err := l.gossip.Leave(); err != nil {
		l.log.Warn("other nodes may not know yet that this one shuts down", "error", err)
	}
}

// Run watches the other nodes until ctx ends.
func (l *liveness) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.gossip.Run(ctx) })
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-l.gossip.Changes():
				l.data.mask(l.gossip.Down())
			}
		}
	})
	return g.Wait()
}

// liveWatch lets liveness look into the views on their way to the data plane.
type liveWatch struct {
	roleWatch
	live *liveness
}

// Update implements agent.Dataplane.
func (w liveWatch) Update(v agent.View) {
	w.live.learn(v)
	w.roleWatch.Update(v)
}

// mask takes nodes out of names and load balancers until it is called without
// them. dead is not modified any more.
func (d *dataplane) mask(dead map[string]bool) {
	d.mu.Lock()
	d.dead = dead
	d.mu.Unlock()
	d.poke()
}

func (d *dataplane) masked() map[string]bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dead
}
