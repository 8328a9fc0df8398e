package services

import (
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"
)

// Exclusive says why the old and the new task of a slot must not run at the same
// time; empty if they may. Then updates stop the old one first, whatever the
// service asks for: the new one would wait for ever for a port of its node, or
// two would write to one volume.
func Exclusive(s *swarm.ServiceSpec) string {
	r := s.Mode.Replicated
	single := r != nil && (r.Replicas == nil || *r.Replicas == 1)
	if !single && s.Mode.Global == nil {
		return ""
	}
	if s.EndpointSpec != nil {
		for _, p := range s.EndpointSpec.Ports {
			if p.PublishMode == swarm.PortConfigPublishModeHost && (p.PublishedPort != 0 || onHost(s.TaskTemplate.Networks)) {
				return "it publishes a port in mode host"
			}
		}
	}
	if c := s.TaskTemplate.ContainerSpec; c != nil {
		for _, m := range c.Mounts {
			if m.Type == mount.TypeVolume && m.Source != "" && !m.ReadOnly && local(m.VolumeOptions) {
				return "it has the local volume " + m.Source
			}
		}
	}
	return ""
}

func onHost(networks []swarm.NetworkAttachmentConfig) bool {
	for _, n := range networks {
		if n.Target == network.NetworkHost {
			return true
		}
	}
	return false
}

func local(o *mount.VolumeOptions) bool {
	return o == nil || o.DriverConfig == nil || o.DriverConfig.Name == "" || o.DriverConfig.Name == "local"
}
