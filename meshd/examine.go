package meshd

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meshd/meshd/meshd/doctor"
	"github.com/meshd/meshd/overlay"
)

// lookAtWays is for how long a node and its peers, which do so at the same time, try
// the ways between them; it bounds every wait for a peer's port, too.
const lookAtWays = 2500 * time.Millisecond

// Examine implements api.Examiner.
func (d *Daemon) Examine(ctx context.Context) doctor.Report {
	var r doctor.Report
	r.Hostname, _ = os.Hostname()
	d.mu.Lock()
	n := d.node
	d.mu.Unlock()
	c := doctor.Config{Engine: d.cfg.Engine}
	if n == nil {
		c.Ports = doctor.DefaultPorts()
	}
	var group errgroup.Group
	group.Go(func() error {
		r.Findings = doctor.Machine(ctx, c)
		return nil
	})
	if n != nil {
		r.Node = n.membership.NodeID
		group.Go(func() error {
			var err error
			r.Ways, err = n.ways(ctx)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		r.Findings = append(r.Findings, doctor.Finding{Check: "overlay", Level: doctor.Problem, Says: err.Error(), Advice: "see meshd's log, and meshctl net check"})
	}
	r.Findings = append(r.Findings, doctor.DataPath(d.datapath.driver, d.datapath.why), doctor.Balancer(d.edge.why))
	r.Time = time.Now()
	if n != nil {
		r.Findings = append(r.Findings, doctor.Encryption(d.silentPeers(r.Time))...)
		r.Findings = append(r.Findings, doctor.Certificate(n.keeper.NotAfter(), r.Time))
	}
	return r
}

// ways tries this node's peers.
func (n *node) ways(ctx context.Context) ([]doctor.Way, error) {
	ctx, cancel := context.WithTimeout(ctx, lookAtWays)
	defer cancel()
	n.d.data.mu.Lock()
	peers := n.d.data.view.Nodes
	n.d.data.mu.Unlock()
	var (
		ways    []doctor.Way
		arrived map[netip.Addr]overlay.Arrival
		group   errgroup.Group
		m       = n.snapshot()
	)
	for _, p := range peers {
		if p.ID != m.NodeID {
			ways = append(ways, doctor.Way{Peer: p.ID, Addr: p.DataAddr})
		}
	}
	group.Go(func() (err error) {
		arrived, err = n.d.overlay.Reach(ctx)
		return err
	})
	for i := range ways {
		group.Go(func() error {
			n.try(ctx, m, &ways[i])
			return nil
		})
	}
	err := group.Wait()
	for i := range ways {
		ways[i].Arrived = arrived[ways[i].Addr]
	}
	return ways, err
}

// try calls the ports of one peer.
func (n *node) try(ctx context.Context, m membership, w *doctor.Way) {
	gossip := netip.AddrPortFrom(w.Addr, n.live.port)
	var group errgroup.Group
	group.Go(func() error {
		w.GossipTCP = why(dial(ctx, gossip.String()))
		return nil
	})
	group.Go(func() error {
		w.GossipUDP = why(n.live.gossip.Ping(ctx, w.Peer, gossip))
		return nil
	})
	for _, p := range m.Managers {
		if p.NodeID == w.Peer {
			w.Control = why(dial(ctx, p.Addr))
		}
	}
	_ = group.Wait() // what was found stands in the way
}

func dial(ctx context.Context, addr string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("%s does not answer: %w", addr, err)
	}
	return conn.Close()
}

func why(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
