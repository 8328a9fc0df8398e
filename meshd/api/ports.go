package api

import (
	"cmp"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
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

// checkPorts refuses ports that another service publishes. A port in ingress
// mode is taken on every node, so it also excludes one in host mode; two in host
// mode may share it, on different nodes.
func checkPorts(spec *swarm.ServiceSpec, selfID string, services []*store.Service) error {
	if spec.EndpointSpec == nil {
		return nil
	}
	for _, p := range spec.EndpointSpec.Ports {
		if p.PublishedPort == 0 {
			continue
		}
		want := publicationOf(p)
		for _, other := range services {
			if other.ID == selfID {
				continue
			}
			for _, q := range portsOf(other) {
				have := publicationOf(q)
				if have.port != want.port || have.protocol != want.protocol {
					continue
				}
				if have.mode == swarm.PortConfigPublishModeIngress {
					return invalid("port '%d' is already in use by service '%s' (%s) as an ingress port", want.port, other.Spec.Name, other.ID)
				}
				if want.mode == swarm.PortConfigPublishModeIngress {
					return invalid("port '%d' is already in use by service '%s' (%s) as a host-published port", want.port, other.Spec.Name, other.ID)
				}
			}
		}
	}
	return nil
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
