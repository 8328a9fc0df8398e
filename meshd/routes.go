package meshd

import (
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/overlay"
)

// hostRoutes are the machine's routes that no network may cover.
func hostRoutes() ([]overlay.HostRoute, error) {
	all, err := overlay.HostRoutes()
	var out []overlay.HostRoute
	for _, r := range all {
		if !r.Wide() {
			out = append(out, r)
		}
	}
	return out, err
}

// hostRanges are their destinations.
func hostRanges() ([]netip.Prefix, error) {
	routes, err := hostRoutes()
	var out []netip.Prefix
	for _, r := range routes {
		out = append(out, r.Prefix)
	}
	return out, err
}

// Overlap implements agent.Dataplane: it says which route of the node leads to
// addresses that are a network's, too.
func (d *dataplane) Overlap(n protocol.Network) error {
	routes, err := d.routes()
	if err != nil {
		return err
	}
	return overlap(n, routes)
}

func overlap(n protocol.Network, routes []overlay.HostRoute) error {
	for _, s := range n.Subnets {
		for _, r := range routes {
			if s.Prefix.Overlaps(r.Prefix) {
				return fmt.Errorf("network %s (%s) overlaps a route of this node: %s", n.Name, s.Prefix, r)
			}
		}
	}
	return nil
}

// overlaps tells in the log, once each, of routes that keep tasks of a network from this
// node. The lock is for who joins while Run looks.
type overlaps struct {
	mu    sync.Mutex
	known map[string]bool
	// last is when that was looked for, among so many networks.
	last     time.Time
	networks int
}

// noteOverlaps looks again after a while.
func (d *dataplane) noteOverlaps(networks []protocol.Network, now time.Time) {
	d.overlaps.mu.Lock()
	due := now.Sub(d.overlaps.last) >= lookAround || d.overlaps.networks != len(networks)
	if due {
		d.overlaps.last, d.overlaps.networks = now, len(networks)
	}
	d.overlaps.mu.Unlock()
	if due {
		d.warnOfRoutes(networks)
	}
}

// warnOfRoutes tells of those that there were not at the last look.
func (d *dataplane) warnOfRoutes(networks []protocol.Network) {
	routes, err := d.routes()
	if err != nil {
		d.log.Warn("cannot look for routes that overlap networks", "error", err)
		return
	}
	d.overlaps.mu.Lock()
	defer d.overlaps.mu.Unlock()
	known := map[string]bool{}
	for _, n := range networks {
		err := overlap(n, routes)
		if err == nil {
			continue
		}
		known[err.Error()] = true
		if !d.overlaps.known[err.Error()] {
			d.log.Warn("this node will reject tasks", "reason", err, "remedy", "take the route away, or give the network another range")
		}
	}
	d.overlaps.known = known
}
