package runner

import (
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/agent"
	"github.com/meshd/meshd/orchestrator/placeholder"
)

// placeholdersOf are what {{...}} in a container's environment, host name and
// mounts can refer to.
func placeholdersOf(t agent.Task) placeholders {
	var v placeholder.Values
	v.Service.ID, v.Service.Name, v.Service.Labels = t.Task.ServiceID, t.ServiceName, t.Service.Labels
	v.Node.ID, v.Node.Hostname, v.Node.Platform = t.Task.NodeID, t.Node.Hostname, t.Node.Platform
	v.Task.ID, v.Task.Name, v.Task.Slot = t.Task.ID, agent.Name(t.Task, t.ServiceName), agent.Slot(t.Task)
	return placeholders{v}
}

// placeholders expand the parts of a spec.
type placeholders struct{ placeholder.Values }

// expandAll expands several texts in place.
func (p placeholders) expandAll(texts ...*string) error {
	for _, t := range texts {
		out, err := placeholder.Expand(*t, p.Values)
		if err != nil {
			return err
		}
		*t = out
	}
	return nil
}

// expandSpec returns a copy of the spec without placeholders.
func expandSpec(s swarm.ContainerSpec, p placeholders) (swarm.ContainerSpec, error) {
	if err := p.expandAll(&s.Hostname); err != nil {
		return s, err
	}
	s.Env = append([]string(nil), s.Env...)
	for i := range s.Env {
		if err := p.expandAll(&s.Env[i]); err != nil {
			return s, err
		}
	}
	s.Mounts = append([]mount.Mount(nil), s.Mounts...)
	for i := range s.Mounts {
		if err := p.expandMount(&s.Mounts[i]); err != nil {
			return s, err
		}
	}
	return s, nil
}

func (p placeholders) expandMount(m *mount.Mount) error {
	if err := p.expandAll(&m.Source, &m.Target); err != nil {
		return err
	}
	if m.VolumeOptions == nil {
		return nil
	}
	v := *m.VolumeOptions
	m.VolumeOptions = &v
	var err error
	if v.Labels, err = p.expandMap(v.Labels); err != nil {
		return err
	}
	if v.DriverConfig != nil {
		d := *v.DriverConfig
		v.DriverConfig = &d
		d.Options, err = p.expandMap(d.Options)
	}
	return err
}

func (p placeholders) expandMap(in map[string]string) (map[string]string, error) {
	if len(in) == 0 {
		return in, nil
	}
	out := make(map[string]string, len(in))
	for k, v := range in {
		if err := p.expandAll(&v); err != nil {
			return nil, err
		}
		out[k] = v
	}
	return out, nil
}
