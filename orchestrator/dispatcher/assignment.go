package dispatcher

import (
	"reflect"
	"slices"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/orchestrator/store"
)

// assign joins a task with all that running it needs; secrets are those it refers to.
func assign(v *store.View, t *store.Task) protocol.Assignment {
	out := protocol.Assignment{Task: v.JoinTask(t), Beside: t.Beside}
	if s := v.Service(t.ServiceID); s != nil {
		out.ServiceName, out.Service = s.Spec.Name, s.Spec.Annotations
		out.Endpoint = withOwnPorts(endpointSpec(s), t)
	}
	if t.Attached() && len(t.Status.PortStatus.Ports) > 0 {
		out.Endpoint = &swarm.EndpointSpec{Ports: t.Status.PortStatus.Ports}
	}
	if c := v.Cluster(); c != nil && out.Task.Spec.LogDriver == nil {
		out.Task.Spec.LogDriver = c.Spec.TaskDefaults.LogDriver
	}
	spec := v.Spec(t.ServiceID, t.SpecVersion)
	if spec == nil {
		return out
	}
	out.RegistryAuth = spec.RegistryAuth
	container := spec.Template.ContainerSpec
	if container == nil {
		return out
	}
	for _, ref := range container.Secrets {
		if s := v.Secret(ref.SecretID); s != nil {
			out.Secrets = append(out.Secrets, s.Secret)
		}
	}
	for _, ref := range container.Configs {
		if c := v.Config(ref.ConfigID); c != nil {
			out.Configs = append(out.Configs, c.Config)
		}
	}
	return out
}

// endpointSpec is the wanted endpoint with the ports that were allocated for it.
func endpointSpec(s *store.Service) *swarm.EndpointSpec {
	if s.Spec.EndpointSpec == nil && len(s.Endpoint.Ports) == 0 {
		return nil
	}
	out := swarm.EndpointSpec{Mode: s.Endpoint.Spec.Mode}
	if s.Spec.EndpointSpec != nil {
		out = *s.Spec.EndpointSpec
	}
	if len(s.Endpoint.Ports) > 0 {
		out.Ports = s.Endpoint.Ports
	}
	return &out
}

// withOwnPorts puts in the ports that the scheduler gave the task on its node: those
// of the service may be others by now, or name no number.
func withOwnPorts(e *swarm.EndpointSpec, t *store.Task) *swarm.EndpointSpec {
	own := t.Status.PortStatus.Ports
	if e == nil || len(own) == 0 {
		return e
	}
	out := *e
	out.Ports = slices.DeleteFunc(slices.Clone(e.Ports), func(p swarm.PortConfig) bool {
		return p.PublishMode == swarm.PortConfigPublishModeHost
	})
	out.Ports = append(out.Ports, own...)
	return &out
}

// sentTask remembers what an assignment was built from. The observed state is
// not part of it: it came from the node itself.
type sentTask struct {
	task    *store.Task
	service *store.Service
}

func (s sentTask) same(t *store.Task, svc *store.Service) bool {
	if s.task != t {
		if !sameSpec(s.task, t) || s.task.Beside != t.Beside || s.task.DesiredState != t.DesiredState || s.task.SpecVersion != t.SpecVersion || !sameAttachments(s.task, t) {
			return false
		}
		if !reflect.DeepEqual(s.task.Annotations, t.Annotations) || !reflect.DeepEqual(s.task.Volumes, t.Volumes) {
			return false
		}
	}
	if s.service == svc || s.service == nil || svc == nil {
		// A service that is gone takes its tasks with it; until then they keep its name.
		return s.service == svc || svc == nil
	}
	return sameService(s.service, svc)
}
