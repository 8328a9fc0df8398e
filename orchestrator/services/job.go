package services

import (
	"maps"
	"slices"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/schedule"
	"github.com/meshd/meshd/orchestrator/store"
)

// A job's tasks are to complete, not to run. Each run of a job is an iteration;
// within one, a slot (a replica, or a node) is done once a task of it completed.
// Tasks of earlier iterations that have not ended are stopped, and those that
// follow them in their slots wait for that.

func isJob(m swarm.ServiceMode) bool { return m.ReplicatedJob != nil || m.GlobalJob != nil }

// job decides about a job's tasks.
func (c *scene) job(slots []*slot, d *decision) {
	if c.plan != nil && c.tick(slots, d) {
		return // the change of the service comes back as an event
	}
	if c.neverRan() {
		return
	}
	c.endRuns(slots, d)
	if c.service.Spec.Mode.GlobalJob != nil {
		slots = c.global(slots, c.complete, d)
	} else {
		slots = c.replicatedJob(slots, d)
	}
	c.promote(slots, d)
}

// numbered says that slots have numbers from 0 on, as Swarm numbers those of
// jobs; all else that has slots counts from 1.
func (c *scene) numbered() bool { return c.service.Spec.Mode.ReplicatedJob != nil }

// iteration is the service's present run.
func (c *scene) iteration() uint64 {
	if c.service.JobStatus == nil {
		return 0
	}
	return c.service.JobStatus.JobIteration.Index
}

// current says that a task belongs to the service's present version or, of a
// job, to the present run.
func (c *scene) current(t *store.Task) bool {
	if isJob(c.service.Spec.Mode) {
		return t.JobIteration != nil && t.JobIteration.Index == c.iteration()
	}
	return t.SpecVersion == c.service.SpecVersion
}

// goal is the desired state of a task that is to do its work now.
func (c *scene) goal() swarm.TaskState {
	if isJob(c.service.Spec.Mode) {
		return swarm.TaskStateComplete
	}
	return swarm.TaskStateRunning
}

// endRuns stops what is left of earlier runs, unless they may go on beside the
// present one; then they are only not helped up again.
func (c *scene) endRuns(slots []*slot, d *decision) {
	beside := c.plan != nil && c.plan.Concurrency == schedule.Allow
	for _, s := range slots {
		s.wanted = slices.DeleteFunc(s.wanted, func(t *store.Task) bool {
			if c.current(t) {
				return false
			}
			if beside && !c.over(t) {
				return true
			}
			d.steps = append(d.steps, stepTo(swarm.TaskStateShutdown, t)...)
			return true
		})
	}
}

// complete says that the slot has done its part of the present run.
func (c *scene) complete(s *slot) bool {
	return slices.ContainsFunc(s.tasks, func(t *store.Task) bool {
		return t.Status.State == swarm.TaskStateComplete && c.current(t)
	})
}

// replicatedJob fills slots until as many as allowed are at work, the first ones
// first, and returns those that are.
func (c *scene) replicatedJob(slots []*slot, d *decision) []*slot {
	job := c.service.Spec.Mode.ReplicatedJob
	total, atOnce := completions(job)
	byNumber := make(map[int]*slot, len(slots))
	for _, s := range slots {
		if s.number < total {
			byNumber[s.number] = s
			continue
		}
		for _, t := range s.tasks { // an earlier run had more
			d.steps = append(d.steps, stepTo(swarm.TaskStateRemove, t)...)
		}
	}
	var working []*slot
	for _, number := range slices.Sorted(maps.Keys(byNumber)) {
		s := byNumber[number]
		if len(s.wanted) == 0 || c.complete(s) {
			continue
		}
		c.settle(s, true, d)
		working = append(working, s)
	}
	for number := 0; number < total && len(working) < atOnce; number++ {
		s := byNumber[number]
		if s == nil {
			s = &slot{number: number}
		}
		if slices.Contains(working, s) || c.complete(s) || c.finished(s) {
			continue
		}
		c.settle(s, true, d)
		working = append(working, s)
	}
	return working
}

// completions are how many tasks are to complete, and how many may be at work
// at once.
func completions(job *swarm.ReplicatedJob) (total, atOnce int) {
	atOnce = 1
	if job.MaxConcurrent != nil {
		atOnce = int(*job.MaxConcurrent)
	}
	total = atOnce
	if job.TotalCompletions != nil {
		total = int(*job.TotalCompletions)
	}
	return total, atOnce
}
