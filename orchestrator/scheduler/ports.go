package scheduler

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
)

// The ports that tasks get which publish one on their node without naming it: the
// range of Swarm's routing mesh, since it lies below the one that kernels give to
// clients (ip_local_port_range). They are taken from its end, those of the routing
// mesh from its beginning.
const (
	firstPort = 30000
	lastPort  = 32767
)

type hostPort struct {
	protocol network.IPProtocol
	number   uint32
}

func (p hostPort) String() string { return fmt.Sprintf("%d/%s", p.number, p.protocol) }

func hostPortOf(p swarm.PortConfig) hostPort {
	return hostPort{cmp.Or(p.Protocol, network.TCP), p.PublishedPort}
}

// publications are the ports of one service.
type publications struct {
	name string
	// host are those in mode host; of those that name no port a task gets one.
	host []swarm.PortConfig
	// ingress are the routing mesh's, taken on every node.
	ingress []hostPort
}

func publicationsOf(s *store.Service) publications {
	out := publications{name: s.Spec.Name}
	ports := s.Endpoint.Ports
	if s.Spec.EndpointSpec != nil {
		ports = append(slices.Clone(s.Spec.EndpointSpec.Ports), ports...)
		out.host = slices.DeleteFunc(slices.Clone(s.Spec.EndpointSpec.Ports), func(p swarm.PortConfig) bool {
			return p.PublishMode != swarm.PortConfigPublishModeHost
		})
	}
	for _, p := range ports {
		if p.PublishMode != swarm.PortConfigPublishModeHost && p.PublishedPort != 0 {
			out.ingress = append(out.ingress, hostPortOf(p))
		}
	}
	for i := range out.host {
		out.host[i].Protocol = cmp.Or(out.host[i].Protocol, network.TCP)
		if onHostNetwork(s.Spec.TaskTemplate.Networks) {
			out.host[i].PublishedPort = out.host[i].TargetPort // what it opens is the node's
		}
	}
	return out
}

func onHostNetwork(networks []swarm.NetworkAttachmentConfig) bool {
	return slices.ContainsFunc(networks, func(n swarm.NetworkAttachmentConfig) bool { return n.Target == network.NetworkHost })
}

// portsOf are the ports that a task holds on its node.
func portsOf(ports []swarm.PortConfig) []hostPort {
	var out []hostPort
	for _, p := range ports {
		if p.PublishedPort != 0 {
			out = append(out, hostPortOf(p))
		}
	}
	return out
}

// give resolves the host-mode ports of a task on this node; ok is false if one is
// taken, or none is left.
func (n *node) give(d *demand) (ports []swarm.PortConfig, ok bool) {
	if len(d.ports) == 0 {
		return nil, true
	}
	given := map[hostPort]bool{}
	for _, p := range d.ports {
		key := hostPortOf(p)
		if key.number == 0 {
			for key.number = lastPort; key.number >= firstPort && (n.ports[key] > 0 || d.meshed[key] || given[key]); {
				key.number--
			}
			if key.number < firstPort {
				return nil, false
			}
		}
		if n.ports[key] > 0 {
			return nil, false
		}
		given[key] = true
		p.PublishedPort = key.number
		ports = append(ports, p)
	}
	return ports, true
}

func hasPorts(n *node, d *demand) bool {
	_, ok := n.give(d)
	return ok
}

// sayPorts names those who have the ports that are wanted.
func sayPorts(failed []*node, d *demand) string {
	owners := map[string]bool{}
	for _, n := range failed {
		for _, u := range n.special {
			for _, p := range u.own.ports {
				if slices.Contains(portsOf(d.ports), p) {
					owners[fmt.Sprintf("%s by service %s", p, cmp.Or(d.nameOf(u.version.service), u.version.service))] = true
				}
			}
		}
	}
	text := "host-mode port already in use on " + nodes(len(failed))
	if len(owners) == 0 {
		return text
	}
	return text + ": " + strings.Join(slices.Sorted(maps.Keys(owners)), ", ")
}

// meshed counts what the routing mesh has of the ports to choose from.
func meshed(services map[string]publications) map[hostPort]bool {
	out := map[hostPort]bool{}
	for _, s := range services {
		for _, p := range s.ingress {
			if p.number >= firstPort && p.number <= lastPort {
				out[p] = true
			}
		}
	}
	return out
}
