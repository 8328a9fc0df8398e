package meshd

import (
	"fmt"
	"net/netip"

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
	for _, s := range n.Subnets {
		for _, r := range routes {
			if s.Prefix.Overlaps(r.Prefix) {
				return fmt.Errorf("network %s (%s) overlaps a route of this node: %s", n.Name, s.Prefix, r)
			}
		}
	}
	return nil
}
