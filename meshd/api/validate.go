package api

import (
	"net/http"
	"regexp"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/meshd/plan"
	"github.com/meshd/meshd/orchestrator/allocator"
	"github.com/meshd/meshd/orchestrator/placement"
	"github.com/meshd/meshd/orchestrator/reaper"
	"github.com/meshd/meshd/orchestrator/schedule"
)

// Limits that Docker has.
const (
	maxServiceName = 63 // a DNS label
	minNanoCPUs    = 1e6
	minMemory      = 4 << 20
	maxPort        = 65535
)

// dnsName is what a service's or a network's name must be: it is resolved as a
// host name, and a node's label of it appears in others.
var dnsName = regexp.MustCompile(`^[a-zA-Z0-9](?:[-_]*[A-Za-z0-9]+)*$`)

func validateName(name string) error {
	switch {
	case name == "":
		return invalid("meta: name must be provided")
	case len(name) > maxServiceName:
		return invalid("name must be %d characters or fewer", maxServiceName)
	case !dnsName.MatchString(name):
		return invalid("name must be valid as a DNS name component")
	}
	return nil
}

// validateService checks all of a service's spec that can be judged without
// the rest of the cluster.
func validateService(s *swarm.ServiceSpec) error {
	if err := validateName(s.Name); err != nil {
		return err
	}
	if err := plan.CheckBalance(s.Labels); err != nil {
		return invalid("%v", err)
	}
	if err := allocator.CheckLabels(s); err != nil {
		return invalid("%v", err)
	}
	if err := validateSchedule(s); err != nil {
		return err
	}
	if _, err := placement.Rebalances(s); err != nil {
		return invalid("%v", err)
	}
	if _, err := reaper.KeepsFor(s); err != nil {
		return invalid("%v", err)
	}
	if err := validateAddresses(s); err != nil {
		return err
	}
	for _, l := range []string{placement.LabelPrivileged, placement.LabelDevices} {
		if _, found := s.Labels[l]; found {
			return invalid("label %s is for containers: use --container-label", l)
		}
	}
	if err := validateTask(&s.TaskTemplate); err != nil {
		return err
	}
	if err := validateMode(s); err != nil {
		return err
	}
	for _, u := range []*swarm.UpdateConfig{s.UpdateConfig, s.RollbackConfig} {
		if err := validateUpdateConfig(u); err != nil {
			return err
		}
	}
	if c := s.RollbackConfig; c != nil && c.FailureAction == swarm.UpdateFailureActionRollback {
		return invalid("invalid RollbackConfig: a rollback cannot roll back on failure")
	}
	return validateEndpoint(s.EndpointSpec)
}

func validateSchedule(s *swarm.ServiceSpec) error {
	times, err := schedule.Of(s.Labels)
	if err != nil {
		return invalid("%v", err)
	}
	if times != nil && !isJob(s.Mode) {
		return invalid("label %s is for jobs: use mode replicated-job or global-job", schedule.Label)
	}
	return nil
}

func validateAddresses(s *swarm.ServiceSpec) error {
	var ports []swarm.PortConfig
	if s.EndpointSpec != nil {
		ports = s.EndpointSpec.Ports
	}
	if err := plan.CheckPublish(s.Labels, ports); err != nil {
		return invalid("%v", err)
	}
	return nil
}

func validateTask(t *swarm.TaskSpec) error {
	switch t.Runtime {
	case "", swarm.RuntimeContainer:
	case swarm.RuntimePlugin:
		return refuse(http.StatusNotImplemented, "plugin services are not available in this version of meshd")
	default:
		return invalid("unsupported runtime %q", t.Runtime)
	}
	if t.ContainerSpec == nil || t.PluginSpec != nil || t.NetworkAttachmentSpec != nil {
		return invalid("mismatched Runtime and *Spec fields")
	}
	if err := validateContainer(t.ContainerSpec); err != nil {
		return err
	}
	if err := validateResources(t.Resources); err != nil {
		return err
	}
	if err := validateAttachments(t.Networks); err != nil {
		return err
	}
	if err := validateRestart(t.RestartPolicy); err != nil {
		return err
	}
	return validatePlacement(t.Placement)
}

func validateResources(r *swarm.ResourceRequirements) error {
	if r == nil {
		return nil
	}
	if err := validateSwap(r); err != nil {
		return err
	}
	check := func(cpus, memory int64) error {
		if cpus != 0 && cpus < minNanoCPUs {
			return invalid("invalid cpu value %g: Must be at least %g", float64(cpus)/1e9, minNanoCPUs/1e9)
		}
		if memory != 0 && memory < minMemory {
			return invalid("invalid memory value %d: Must be at least 4MiB", memory)
		}
		return nil
	}
	if l := r.Limits; l != nil {
		if err := check(l.NanoCPUs, l.MemoryBytes); err != nil {
			return err
		}
		if l.Pids < 0 {
			return invalid("invalid pids limit %d: Must not be negative", l.Pids)
		}
	}
	if l := r.Reservations; l != nil {
		return check(l.NanoCPUs, l.MemoryBytes)
	}
	return nil
}

func validateRestart(p *swarm.RestartPolicy) error {
	if p == nil {
		return nil
	}
	switch p.Condition {
	case "", swarm.RestartPolicyConditionNone, swarm.RestartPolicyConditionOnFailure, swarm.RestartPolicyConditionAny:
	default:
		return invalid("invalid RestartCondition: %q", p.Condition)
	}
	if p.Delay != nil && *p.Delay < 0 {
		return invalid("TaskSpec: restart-delay cannot be negative")
	}
	if p.Window != nil && *p.Window < 0 {
		return invalid("TaskSpec: restart-window cannot be negative")
	}
	return nil
}

func validatePlacement(p *swarm.Placement) error {
	if p == nil {
		return nil
	}
	if _, err := placement.ParseConstraints(p.Constraints); err != nil {
		return invalid("invalid placement constraint: %v", err)
	}
	for _, pref := range p.Preferences {
		if pref.Spread == nil || pref.Spread.SpreadDescriptor == "" {
			return invalid("invalid placement preference: only spread over a label is known")
		}
	}
	return nil
}

func validateMode(s *swarm.ServiceSpec) error {
	m := s.Mode
	set := 0
	for _, on := range []bool{m.Replicated != nil, m.Global != nil, m.ReplicatedJob != nil, m.GlobalJob != nil} {
		if on {
			set++
		}
	}
	job := isJob(m)
	switch {
	case set > 1:
		return invalid("must specify only one service mode")
	case job && (s.UpdateConfig != nil || s.RollbackConfig != nil):
		return invalid("update and rollback configs are not allowed on jobs")
	case m.ReplicatedJob != nil && m.ReplicatedJob.MaxConcurrent != nil && *m.ReplicatedJob.MaxConcurrent == 0:
		return invalid("ReplicatedJob.MaxConcurrent must be at least 1: with 0 nothing would ever run")
	case s.TaskTemplate.Placement != nil && s.TaskTemplate.Placement.MaxReplicas > 0 && (m.Global != nil || m.GlobalJob != nil):
		return invalid("replicas-max-per-node can only be used with replicated mode")
	}
	return nil
}

func validateUpdateConfig(u *swarm.UpdateConfig) error {
	if u == nil {
		return nil
	}
	switch u.FailureAction {
	case "", swarm.UpdateFailureActionPause, swarm.UpdateFailureActionContinue, swarm.UpdateFailureActionRollback:
	default:
		return invalid("unrecognized update failure action %q", u.FailureAction)
	}
	switch u.Order {
	case "", swarm.UpdateOrderStartFirst, swarm.UpdateOrderStopFirst:
	default:
		return invalid("unrecognized update order %q", u.Order)
	}
	switch {
	case u.Delay < 0:
		return invalid("TaskSpec: update-delay cannot be negative")
	case u.Monitor < 0:
		return invalid("TaskSpec: update-monitor cannot be negative")
	case u.MaxFailureRatio < 0, u.MaxFailureRatio > 1:
		return invalid("TaskSpec: update-maxfailureratio cannot be less than 0 or bigger than 1")
	}
	return nil
}

func validateEndpoint(e *swarm.EndpointSpec) error {
	if e == nil {
		return nil
	}
	switch e.Mode {
	case "", swarm.ResolutionModeVIP, swarm.ResolutionModeDNSRR:
	default:
		return invalid("unrecognized resolution mode %q", e.Mode)
	}
	seen := map[publication]bool{}
	for _, p := range e.Ports {
		if err := validatePort(p); err != nil {
			return err
		}
		if e.Mode == swarm.ResolutionModeDNSRR && p.PublishMode != swarm.PortConfigPublishModeHost {
			return invalid("EndpointSpec: port published with ingress mode can't be used with dnsrr mode")
		}
		if p.PublishedPort == 0 {
			continue
		}
		if key := publicationOf(p); seen[key] {
			return invalid("EndpointSpec: duplicate published ports provided")
		} else {
			seen[key] = true
		}
	}
	return nil
}

func validatePort(p swarm.PortConfig) error {
	switch p.Protocol {
	case "", "tcp", "udp":
	case "sctp":
		return invalid("port %d/sctp: SCTP cannot be published; the routing mesh carries TCP and UDP", p.TargetPort)
	default:
		return invalid("invalid protocol value %q", p.Protocol)
	}
	switch p.PublishMode {
	case "", swarm.PortConfigPublishModeIngress, swarm.PortConfigPublishModeHost:
	default:
		return invalid("invalid publish mode %q", p.PublishMode)
	}
	if p.TargetPort == 0 || p.TargetPort > maxPort {
		return invalid("invalid target port %d: Must be between 1 and %d", p.TargetPort, maxPort)
	}
	if p.PublishedPort > maxPort {
		return invalid("invalid published port %d: Must be between 1 and %d", p.PublishedPort, maxPort)
	}
	return nil
}

// minProbe is the shortest period of a health check.
const minProbe = time.Millisecond
