package api

import (
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"
)

// normalize fills in what Docker fills in when it stores a service: kinds that
// were left to their default get their name, so that a later comparison of two
// specs does not see a change where there is none.
func normalize(s *swarm.ServiceSpec) {
	s.Labels = orEmpty(s.Labels)
	if s.TaskTemplate.Runtime == "" {
		s.TaskTemplate.Runtime = swarm.RuntimeContainer
	}
	if c := s.TaskTemplate.ContainerSpec; c != nil && c.Isolation == "" {
		c.Isolation = container.IsolationDefault
	}
	normalizeMode(&s.Mode)
	for _, u := range []*swarm.UpdateConfig{s.UpdateConfig, s.RollbackConfig} {
		if u == nil {
			continue
		}
		if u.FailureAction == "" {
			u.FailureAction = swarm.UpdateFailureActionPause
		}
		if u.Order == "" {
			u.Order = swarm.UpdateOrderStopFirst
		}
	}
	if p := s.TaskTemplate.RestartPolicy; p != nil && p.Condition == "" {
		p.Condition = swarm.RestartPolicyConditionAny
	}
	if e := s.EndpointSpec; e != nil {
		if e.Mode == "" {
			e.Mode = swarm.ResolutionModeVIP
		}
		for i := range e.Ports {
			if e.Ports[i].Protocol == "" {
				e.Ports[i].Protocol = network.TCP
			}
			if e.Ports[i].PublishMode == "" {
				e.Ports[i].PublishMode = swarm.PortConfigPublishModeIngress
			}
		}
	}
}

func normalizeMode(m *swarm.ServiceMode) {
	one := uint64(1)
	switch {
	case m.ReplicatedJob != nil:
		j := *m.ReplicatedJob
		if j.MaxConcurrent == nil {
			j.MaxConcurrent = &one
		}
		if j.TotalCompletions == nil {
			j.TotalCompletions = j.MaxConcurrent
		}
		m.ReplicatedJob = &j
	case m.Global != nil, m.GlobalJob != nil:
	case m.Replicated == nil || m.Replicated.Replicas == nil:
		m.Replicated = &swarm.ReplicatedService{Replicas: &one}
	}
}

// Defaults that act where a spec says nothing.
const (
	defaultGrace   = 10 * time.Second
	defaultRestart = 5 * time.Second
	defaultMonitor = 5 * time.Second
)

// insertDefaults returns the spec with the values that act where it says
// nothing; the stored spec is not touched.
func insertDefaults(s swarm.ServiceSpec) swarm.ServiceSpec {
	t := &s.TaskTemplate
	if t.ContainerSpec != nil {
		c := *t.ContainerSpec
		if c.StopGracePeriod == nil {
			c.StopGracePeriod = ptr(defaultGrace)
		}
		if c.DNSConfig == nil {
			c.DNSConfig = &swarm.DNSConfig{}
		}
		t.ContainerSpec = &c
	}
	res := swarm.ResourceRequirements{}
	if t.Resources != nil {
		res = *t.Resources
	}
	if res.Limits == nil {
		res.Limits = &swarm.Limit{}
	}
	if res.Reservations == nil {
		res.Reservations = &swarm.Resources{}
	}
	t.Resources = &res
	t.RestartPolicy = restartDefaults(t.RestartPolicy)
	if t.Placement == nil {
		t.Placement = &swarm.Placement{}
	}
	if !isJob(s.Mode) {
		s.UpdateConfig, s.RollbackConfig = updateDefaults(s.UpdateConfig), updateDefaults(s.RollbackConfig)
	}
	if s.EndpointSpec == nil {
		s.EndpointSpec = &swarm.EndpointSpec{Mode: swarm.ResolutionModeVIP}
	}
	return s
}

func restartDefaults(p *swarm.RestartPolicy) *swarm.RestartPolicy {
	out := swarm.RestartPolicy{}
	if p != nil {
		out = *p
	}
	if out.Condition == "" {
		out.Condition = swarm.RestartPolicyConditionAny
	}
	if out.Delay == nil {
		out.Delay = ptr(defaultRestart)
	}
	if out.MaxAttempts == nil {
		out.MaxAttempts = ptr(uint64(0))
	}
	return &out
}

func updateDefaults(u *swarm.UpdateConfig) *swarm.UpdateConfig {
	out := swarm.UpdateConfig{Parallelism: 1}
	if u != nil {
		out = *u
	}
	if out.FailureAction == "" {
		out.FailureAction = swarm.UpdateFailureActionPause
	}
	if out.Monitor == 0 {
		out.Monitor = defaultMonitor
	}
	if out.Order == "" {
		out.Order = swarm.UpdateOrderStopFirst
	}
	return &out
}

func ptr[T any](v T) *T { return &v }
