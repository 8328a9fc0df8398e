package api

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/tasklife"
)

// publication is what two published ports must not share.
type publication struct {
	port     uint32
	protocol network.IPProtocol
	mode     swarm.PortConfigPublishMode
}

func publicationOf(p swarm.PortConfig) publication {
	return publication{p.PublishedPort, cmp.Or(p.Protocol, network.TCP), cmp.Or(p.PublishMode, swarm.PortConfigPublishModeIngress)}
}

// wantedPorts are those that a spec names.
func wantedPorts(spec *swarm.ServiceSpec) []publication {
	var out []publication
	if spec.EndpointSpec == nil {
		return nil
	}
	for _, p := range spec.EndpointSpec.Ports {
		if p.PublishedPort != 0 {
			out = append(out, publicationOf(p))
		}
	}
	return out
}

// checkPorts refuses ports that another service publishes. A port in ingress
// mode is taken on every node, so it also excludes one in host mode; two in host
// mode may share it, on different nodes.
func checkPorts(v *store.View, spec *swarm.ServiceSpec, selfID string) error {
	for _, want := range wantedPorts(spec) {
		for _, other := range v.Services() {
			if other.ID == selfID {
				continue
			}
			for _, q := range portsOf(other) {
				if err := clash(want, publicationOf(q), other); err != nil {
					return err
				}
			}
		}
		if err := checkTaskPorts(v, want, selfID); err != nil {
			return err
		}
	}
	return nil
}

func clash(want, have publication, other *store.Service) error {
	switch {
	case have.port != want.port || have.protocol != want.protocol:
	case have.mode == swarm.PortConfigPublishModeIngress:
		return invalid("port '%d' is already in use by service '%s' (%s) as an ingress port", want.port, other.Spec.Name, other.ID)
	case want.mode == swarm.PortConfigPublishModeIngress:
		return invalid("port '%d' is already in use by service '%s' (%s) as a host-published port", want.port, other.Spec.Name, other.ID)
	}
	return nil
}

// Ports in mode host that name no number are chosen in this range.
const firstChosen, lastChosen = 30000, 32767

// checkTaskPorts refuses an ingress port that was given to a task on its node.
func checkTaskPorts(v *store.View, want publication, selfID string) error {
	if want.mode != swarm.PortConfigPublishModeIngress || want.port < firstChosen || want.port > lastChosen {
		return nil
	}
	for _, t := range v.Tasks() {
		if t.ServiceID == selfID || tasklife.Ended(t) {
			continue
		}
		for _, p := range t.Status.PortStatus.Ports {
			if p.PublishedPort == want.port && cmp.Or(p.Protocol, network.TCP) == want.protocol {
				return invalid("port '%d' is already in use by task '%s' on its node as a host-published port", want.port, taskName(v, t))
			}
		}
	}
	return nil
}

// refuseOwnPorts keeps services off the ports by which the swarm's nodes reach each
// other: the routing mesh would take their packets.
func (s *Server) refuseOwnPorts(c Control, spec *swarm.ServiceSpec) error {
	wanted := wantedPorts(spec)
	if len(wanted) == 0 {
		return nil
	}
	return look(c.Store(), func(v *store.View) error {
		own := ownPorts(v, uint32(s.gossip))
		for _, p := range wanted {
			if what := own[hostPort{p.port, p.protocol}]; what != "" {
				return invalid("port '%d/%s' is already in use by the swarm itself, for %s", p.port, p.protocol, what)
			}
		}
		return nil
	})
}

type hostPort struct {
	port     uint32
	protocol network.IPProtocol
}

// ownPorts says what the swarm uses ports for.
func ownPorts(v *store.View, gossip uint32) map[hostPort]string {
	out := map[hostPort]string{
		{gossip, network.TCP}: "nodes to watch each other",
		{gossip, network.UDP}: "nodes to watch each other",
	}
	if c := v.Cluster(); c != nil {
		out[hostPort{c.DataPathPort, network.UDP}] = "overlay networks"
	}
	for _, n := range v.Nodes() {
		if n.ManagerStatus == nil {
			continue
		}
		if a, err := netip.ParseAddrPort(n.ManagerStatus.Addr); err == nil {
			out[hostPort{uint32(a.Port()), network.TCP}] = "its managers"
		}
	}
	return out
}

// checkEngineNetwork refuses what a task on one of the engine's own networks cannot
// have: other networks, and the routing mesh, which leads to a task's default route.
func checkEngineNetwork(spec *swarm.ServiceSpec) error {
	i := slices.IndexFunc(spec.TaskTemplate.Networks, func(n swarm.NetworkAttachmentConfig) bool { return predefined[n.Target] })
	if i < 0 {
		return nil
	}
	name := spec.TaskTemplate.Networks[i].Target
	if len(spec.TaskTemplate.Networks) > 1 {
		return invalid("network %s cannot be used together with another network", name)
	}
	if spec.EndpointSpec == nil {
		return nil
	}
	for _, p := range spec.EndpointSpec.Ports {
		switch {
		case name == network.NetworkNone:
			return invalid("port %d cannot be published: network none reaches nobody", p.TargetPort)
		case p.PublishMode != swarm.PortConfigPublishModeHost:
			return invalid("port %d cannot be published in mode ingress on network %s; use mode host", p.TargetPort, name)
		case name == network.NetworkHost && p.PublishedPort != 0 && p.PublishedPort != p.TargetPort:
			return invalid("port %d cannot be published as %d: on network host a port keeps its number", p.TargetPort, p.PublishedPort)
		}
	}
	return nil
}

// hostPorts are the ports in mode host that a spec asks for.
func hostPorts(spec swarm.ServiceSpec) []swarm.PortConfig {
	if spec.EndpointSpec == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(spec.EndpointSpec.Ports), func(p swarm.PortConfig) bool {
		return p.PublishMode != swarm.PortConfigPublishModeHost
	})
}

// portsOf lists what a service publishes: what it asks for, and what it was
// given where it left the choice to us.
func portsOf(s *store.Service) []swarm.PortConfig {
	var out []swarm.PortConfig
	if s.Spec.EndpointSpec != nil {
		out = append(out, s.Spec.EndpointSpec.Ports...)
	}
	return append(out, s.Endpoint.Ports...)
}
