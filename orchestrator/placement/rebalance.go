package placement

import (
	"fmt"

	"github.com/moby/moby/api/types/swarm"
)

// LabelRebalance, with value "auto", has a service's tasks moved to emptier nodes.
const LabelRebalance = "mesh.rebalance"

// Rebalances says whether a service asks for its tasks to be moved to emptier nodes.
// Errors name the label.
func Rebalances(s *swarm.ServiceSpec) (bool, error) {
	value, found := s.Labels[LabelRebalance]
	p := s.TaskTemplate.RestartPolicy
	switch {
	case !found:
		return false, nil
	case value != "auto":
		return false, fmt.Errorf("label %s: %q is not auto", LabelRebalance, value)
	case s.Mode.Global != nil || s.Mode.GlobalJob != nil || s.Mode.ReplicatedJob != nil:
		return false, fmt.Errorf("label %s is for services in mode replicated", LabelRebalance)
	case p != nil && p.Condition == swarm.RestartPolicyConditionNone:
		return false, fmt.Errorf("label %s needs tasks that may be replaced: the restart condition is none", LabelRebalance)
	}
	return true, nil
}
