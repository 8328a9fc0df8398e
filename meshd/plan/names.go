package plan

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/meshd/meshd/dns"
	"github.com/meshd/meshd/orchestrator/protocol"
)

// zoneNames are a network's names, and which service has what part in them.
//
// A service in mode vip is its VIP even while no task serves, so that a client
// that resolved early is not stuck with nothing. Tasks' names give way to
// services': a task's host name may be its service's name.
type zoneNames struct {
	zone   dns.Zone
	shares map[string]*share // by service ID
	// users count the shares that have a task's name; nearly all have one.
	users map[string]int
}

// share is what one service and its tasks have in a network's names.
type share struct {
	service protocol.Service
	tasks   []protocol.Endpoint
	// names are the service's; those of tasks, sorted, are own, and whose they are.
	names map[string]dns.Name
	own   []taskName
}

type taskName struct {
	name  string
	is    dns.Name
	tasks []protocol.Endpoint
}

func newZoneNames(network string) *zoneNames {
	return &zoneNames{
		zone:   dns.Zone{Network: strings.ToLower(network)},
		shares: map[string]*share{}, users: map[string]int{},
	}
}

// update makes the shares anew that changed, or have a task on a node that did,
// and a new zone.
func (z *zoneNames) update(n protocol.Network, nodes map[string]node, changed map[string]bool) {
	tasks := make(map[string][]protocol.Endpoint, len(n.Services))
	for _, e := range n.Endpoints {
		tasks[e.ServiceID] = append(tasks[e.ServiceID], e)
	}
	services := make(map[string]protocol.Service, len(n.Services))
	for _, s := range n.Services {
		services[s.ID] = s
	}
	for id := range tasks {
		if _, ok := services[id]; !ok {
			services[id] = protocol.Service{ID: id} // it is gone, its tasks are still there
		}
	}
	for id, s := range z.shares {
		if _, ok := services[id]; !ok {
			z.drop(s)
			delete(z.shares, id)
		}
	}
	for id, s := range services {
		old := z.shares[id]
		if old != nil && sameShare(old, s, tasks[id]) && !concerns(protocol.Network{Endpoints: tasks[id]}, changed) {
			continue
		}
		if old != nil {
			z.drop(old)
		}
		z.shares[id] = newShare(s, tasks[id], nodes)
		for _, own := range z.shares[id].own {
			z.users[own.name]++
		}
	}
	z.assemble(n, nodes)
}

func (z *zoneNames) drop(s *share) {
	for _, own := range s.own {
		if z.users[own.name]--; z.users[own.name] == 0 {
			delete(z.users, own.name)
		}
	}
}

// sameShare compares by value; most parts are at the same place, too.
func sameShare(s *share, service protocol.Service, tasks []protocol.Endpoint) bool {
	return slices.EqualFunc(s.tasks, tasks, sameEndpoint) && reflect.DeepEqual(s.service, service)
}

func sameEndpoint(a, b protocol.Endpoint) bool {
	return a.TaskID == b.TaskID && a.State == b.State && a.NodeID == b.NodeID && a.Slot == b.Slot &&
		a.Name == b.Name && a.Hostname == b.Hostname && a.ContainerID == b.ContainerID && slices.Equal(a.Aliases, b.Aliases) && slices.Equal(a.Addrs, b.Addrs)
}

func newShare(s protocol.Service, tasks []protocol.Endpoint, nodes map[string]node) *share {
	b := zoneBuilder{names: map[string]dns.Name{}, nodes: nodes}
	for _, name := range append([]string{s.Name}, s.Aliases...) {
		b.service(strings.ToLower(name), s, tasks)
	}
	out := &share{service: s, tasks: tasks, names: b.names}
	own := map[string][]protocol.Endpoint{}
	for _, e := range tasks {
		if e.ServiceID == "" && e.State != protocol.EndpointServing {
			continue // a container of no task that does not run has no names
		}
		for _, name := range append([]string{e.Name, e.Hostname, containerPrefix(e.ContainerID)}, e.Aliases...) {
			if name = strings.ToLower(name); name != "" {
				own[name] = append(own[name], e)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(own)) {
		out.own = append(out.own, taskName{name, dns.Name{Addrs: b.best(own[name])}, own[name]})
	}
	return out
}

// assemble joins the shares to a new zone, in the order of services' IDs.
func (z *zoneNames) assemble(n protocol.Network, nodes map[string]node) {
	b := zoneBuilder{names: make(map[string]dns.Name, len(z.zone.Names)+16), nodes: nodes}
	ids := slices.Sorted(maps.Keys(z.shares))
	for _, id := range ids {
		for name, is := range z.shares[id].names {
			was, known := b.names[name]
			if !known {
				b.names[name] = is
				continue
			}
			was.Addrs, was.Targets = slices.Clip(was.Addrs), slices.Clip(was.Targets) // the share's own
			b.names[name] = was
			b.add(name, is)
		}
	}
	shared := map[string][]protocol.Endpoint{}
	for _, id := range ids {
		for _, own := range z.shares[id].own {
			if z.users[own.name] > 1 {
				shared[own.name] = append(shared[own.name], own.tasks...)
			} else if _, known := b.names[own.name]; !known {
				b.names[own.name] = own.is
			}
		}
	}
	for name, tasks := range shared {
		if _, known := b.names[name]; !known {
			b.names[name] = dns.Name{Addrs: b.best(tasks)}
		}
	}
	z.zone = dns.Zone{Names: b.names, Reverse: reverse(n, len(z.zone.Reverse)), Network: z.zone.Network}
}

func reverse(n protocol.Network, size int) map[netip.Addr]string {
	out := make(map[netip.Addr]string, size)
	for _, e := range n.Endpoints {
		for _, a := range e.Addrs {
			if e.Name == "" { // a container that is being made
				continue
			}
			out[a] = e.Name + "." + n.Name
		}
	}
	for _, svc := range n.Services {
		for _, vip := range svc.VIPs {
			out[vip] = svc.Name + "." + n.Name
		}
	}
	return out
}
