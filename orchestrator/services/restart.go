package services

import (
	"slices"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/tasklife"
)

// defaultDelay is the restart delay of a policy that gives none.
const defaultDelay = 5 * time.Second

// policy is a restart policy without gaps.
type policy struct {
	condition   swarm.RestartPolicyCondition
	delay       time.Duration
	maxAttempts uint64 // 0: no limit
	window      time.Duration
}

func (c *scene) policy() policy {
	out := policy{condition: swarm.RestartPolicyConditionAny, delay: defaultDelay}
	p := c.template.RestartPolicy
	if p == nil {
		return out
	}
	if p.Condition != "" {
		out.condition = p.Condition
	}
	if p.Delay != nil {
		out.delay = *p.Delay
	}
	if p.MaxAttempts != nil {
		out.maxAttempts = *p.MaxAttempts
	}
	if p.Window != nil {
		out.window = *p.Window
	}
	return out
}

// finished says that a slot had its task and the policy allows no further one.
func (c *scene) finished(s *slot) bool {
	last := s.newest()
	return len(s.wanted) == 0 && last != nil && c.current(last) && !c.mayFollow(last)
}

// mayFollow says whether the policy lets another task follow this one.
func (c *scene) mayFollow(t *store.Task) bool {
	p := c.policy()
	switch {
	case isJob(c.service.Spec.Mode) && t.Status.State == swarm.TaskStateComplete:
		return false
	case p.condition == swarm.RestartPolicyConditionNone && !endedByItself(t):
		return isJob(c.service.Spec.Mode) // its node was lost: that is not its fault
	case p.condition == swarm.RestartPolicyConditionNone:
		return false
	case p.condition == swarm.RestartPolicyConditionOnFailure && t.Status.State == swarm.TaskStateComplete:
		return false
	case p.maxAttempts == 0 || !endedByItself(t):
		return true
	case p.window == 0:
		return t.Restarts < p.maxAttempts
	default:
		return uint64(recent(t, p.window)) < p.maxAttempts
	}
}

// recent counts the restarts within the window before the task's end. The time
// of the last change stands for the end: it is the managers' clock's.
func recent(t *store.Task, window time.Duration) int {
	n := 0
	for _, at := range t.RestartedAt {
		if t.UpdatedAt.Sub(at) <= window {
			n++
		}
	}
	return n
}

// countRestart carries the count of restarts over to the task that follows last.
func (c *scene) countRestart(t, last *store.Task) {
	p := c.policy()
	if p.maxAttempts == 0 || !c.current(last) {
		return
	}
	t.Restarts, t.RestartedAt = last.Restarts, last.RestartedAt
	if !endedByItself(last) {
		return
	}
	t.Restarts++
	if p.window > 0 {
		old := slices.DeleteFunc(slices.Clone(last.RestartedAt), func(at time.Time) bool { return c.now.Sub(at) > p.window })
		t.RestartedAt = append(old, c.now)
	}
}

// delay is how long the task after this one has to wait. A task that was stopped,
// or whose node was lost, is followed at once.
func (c *scene) delay(t *store.Task) time.Duration {
	if !endedByItself(t) || isJob(c.service.Spec.Mode) && !c.current(t) {
		return 0
	}
	return c.policy().delay
}

func endedByItself(t *store.Task) bool {
	return tasklife.Failed(t) || t.Status.State == swarm.TaskStateComplete
}
