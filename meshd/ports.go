package meshd

import (
	"fmt"
	"slices"
	"time"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/ipvs"
	"github.com/meshd/meshd/meshd/observe"
)

// Free implements agent.Dataplane: it says which process of the node has one of
// the ports.
func (d *dataplane) Free(ports []swarm.PortConfig) error {
	sockets, err := d.sockets()
	if err != nil {
		return err
	}
	for _, p := range ports {
		protocol := ipvs.TCP
		if p.Protocol == network.UDP {
			protocol = ipvs.UDP
		}
		i := slices.IndexFunc(sockets, func(s observe.Socket) bool {
			return s.Protocol == protocol && uint32(s.Addr.Port()) == p.PublishedPort && !s.Addr.Addr().IsLoopback()
		})
		if i >= 0 {
			return fmt.Errorf("port %d/%s is in use on this node by %s", p.PublishedPort, p.Protocol, observe.ProcessOf(sockets[i]))
		}
	}
	return nil
}

// clashes tells in the log, once each, of processes whose port a service publishes.
// Only Run uses it.
type clashes struct {
	known map[observe.Clash]bool
	last  time.Time
	ports int
}

// noteClashes looks again when other ports are published, or after a while.
func (d *dataplane) noteClashes(s ipvs.State, now time.Time) {
	ports := 0
	for _, svc := range s.Services {
		if svc.Published() {
			ports++
		}
	}
	if ports == 0 || ports == d.clashes.ports && now.Sub(d.clashes.last) < lookAround {
		return
	}
	d.clashes.last, d.clashes.ports = now, ports
	sockets, err := d.sockets()
	if err != nil {
		d.log.Warn("cannot look for processes with published ports", "error", err)
		return
	}
	known := map[observe.Clash]bool{}
	for _, c := range observe.Clashes(s, sockets) {
		known[c] = true
		if !d.clashes.known[c] {
			d.log.Warn("a process of this node has a port that a service publishes; connections from outside go to the service",
				"port", c.String(), "service", c.Service, "process", c.Process)
		}
	}
	d.clashes.known = known
}
