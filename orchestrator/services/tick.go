package services

import (
	"maps"
	"slices"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/placement"
	"github.com/meshd/meshd/orchestrator/schedule"
	"github.com/meshd/meshd/orchestrator/store"
)

// neverRan says that a job waits for the first time of its schedule.
func (c *scene) neverRan() bool {
	return c.plan != nil && (c.service.JobStatus == nil || c.service.JobStatus.LastExecution.IsZero())
}

// tick begins a run of a job if its schedule says so, and says whether it changed
// the service. All that it follows from is stored, so a new leader goes on from
// there, and begins no run twice: the time is dealt with in the change that
// begins the run.
func (c *scene) tick(slots []*slot, d *decision) bool {
	state := store.Schedule{Since: c.service.CreatedAt}
	if c.service.Schedule != nil {
		state = *c.service.Schedule
	}
	due, again := c.plan.Due(state.Since, c.now)
	if !again.IsZero() {
		d.wake(again)
	}
	if due.IsZero() {
		return false
	}
	state.Since = due
	next := *c.service
	next.Schedule = &state
	d.service = &next
	missed := c.now.Sub(due) > schedule.Late
	if missed && c.plan.SkipMissed || c.plan.Concurrency == schedule.Forbid && c.atWork(slots) {
		state.Skipped++
		return true
	}
	status := swarm.JobStatus{LastExecution: c.now}
	if old := c.service.JobStatus; old != nil {
		status.JobIteration = old.JobIteration
		if !c.neverRan() {
			status.JobIteration.Index++
		}
	}
	next.JobStatus = &status
	return true
}

// atWork says that the present run is not over: something of it has neither
// completed nor been given up.
func (c *scene) atWork(slots []*slot) bool {
	if c.neverRan() {
		return false
	}
	over := func(s *slot) bool { return c.complete(s) || c.finished(s) }
	if c.service.Spec.Mode.GlobalJob != nil {
		rules, readable := c.rules[c.service.SpecVersion]
		byNode := c.byNode(slots)
		return slices.ContainsFunc(slices.Collect(maps.Keys(byNode)), func(id string) bool {
			n := c.nodes[id]
			return n != nil && readable && rules.Allow(n) && placement.Open(n) && !over(byNode[id])
		})
	}
	total, _ := completions(c.service.Spec.Mode.ReplicatedJob)
	done := 0
	for _, s := range slots {
		if s.number < total && over(s) {
			done++
		}
	}
	return done < total
}
