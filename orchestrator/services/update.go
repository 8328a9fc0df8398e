package services

import (
	"math"
	"reflect"
	"slices"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/control"
	"github.com/meshd/meshd/orchestrator/placement"
	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/tasklife"
)

const (
	// defaultMonitor is how long a new task is watched unless the service says.
	defaultMonitor = 5 * time.Second
	// servingPatience is how long an update waits for nodes that have not taken in
	// that a new task runs, servingPoll how often it asks.
	servingPatience = 2 * time.Second
	servingPoll     = 50 * time.Millisecond
)

// rollout is where a rolling update stands.
type rollout struct {
	config  swarm.UpdateConfig
	total   int
	started time.Time
	// todo are the slots that have only tasks of other versions.
	todo []*slot
	// busy counts the slots that are being updated, the delay after it included.
	busy int
	// failed are new tasks that ended badly, at most one of each slot.
	failed []*store.Task
	// watched is until when the last new task is watched.
	watched time.Time
}

// roll moves the slots over to the service's version of the template, a few at a
// time. Slots that a restart or a scale-up filled have that version already.
func (c *scene) roll(slots []*slot, d *decision) {
	dirty := slices.ContainsFunc(slots, c.dirty)
	if dirty && c.fresh() {
		c.begin(d)
	}
	status := c.status(d)
	if status == nil || !inProgress(status.State) {
		return
	}
	r := c.survey(slots, status, d)
	switch {
	case c.exceeded(r):
		c.fail(r, d)
	case len(r.todo) > 0:
		c.advance(r, d)
	case r.busy > 0 || c.anyDirty(slots):
	case r.watched.After(c.now):
		d.wake(r.watched)
	default:
		c.finish(d)
	}
}

// dirty says that the slot has a wanted task of another version that can be
// replaced now: not if the policy allows no further try, and not on a node that
// takes no new tasks, where stopping the old one would leave nothing.
func (c *scene) dirty(s *slot) bool {
	if s.node != "" && !placement.Open(c.nodes[s.node]) {
		return false
	}
	old := slices.ContainsFunc(s.wanted, func(t *store.Task) bool { return t.SpecVersion != c.service.SpecVersion })
	return old && !c.givenUp(s)
}

func (c *scene) anyDirty(slots []*slot) bool { return slices.ContainsFunc(slots, c.dirty) }

func (c *scene) givenUp(s *slot) bool {
	last := s.newest()
	return last.SpecVersion == c.service.SpecVersion && !tasklife.Wanted(last) && !c.mayFollow(last)
}

// fresh says that no update to this version was begun yet.
func (c *scene) fresh() bool {
	s := c.service.UpdateStatus
	return s == nil || c.service.UpdateVersion != c.service.SpecVersion ||
		s.State == swarm.UpdateStateCompleted || s.State == swarm.UpdateStateRollbackCompleted
}

func (c *scene) status(d *decision) *swarm.UpdateStatus {
	if d.service != nil {
		return d.service.UpdateStatus
	}
	return c.service.UpdateStatus
}

// set writes a new update status.
func (c *scene) set(d *decision, state swarm.UpdateState, message string, change func(*swarm.UpdateStatus)) {
	if d.service == nil {
		next := *c.service
		d.service = &next
	}
	status := swarm.UpdateStatus{StartedAt: &c.now}
	if old := d.service.UpdateStatus; old != nil {
		status = *old
	}
	status.State, status.Message = state, message
	if change != nil {
		change(&status)
	}
	d.service.UpdateStatus = &status
	d.service.UpdateVersion = d.service.SpecVersion
}

func (c *scene) begin(d *decision) {
	start := func(s *swarm.UpdateStatus) { s.StartedAt, s.CompletedAt = &c.now, nil }
	if s := c.service.UpdateStatus; s != nil && s.State == swarm.UpdateStateRollbackStarted {
		c.set(d, s.State, s.Message, start) // the user asked for a rollback
		return
	}
	c.set(d, swarm.UpdateStateUpdating, "update in progress"+c.note(), start)
}

func (c *scene) finish(d *decision) {
	end := func(s *swarm.UpdateStatus) { s.CompletedAt = &c.now }
	if c.status(d).State == swarm.UpdateStateRollbackStarted {
		c.set(d, swarm.UpdateStateRollbackCompleted, "rollback completed", end)
		return
	}
	c.set(d, swarm.UpdateStateCompleted, "update completed"+c.note(), end)
}

func inProgress(s swarm.UpdateState) bool {
	return s == swarm.UpdateStateUpdating || s == swarm.UpdateStateRollbackStarted
}

func config(svc *store.Service, state swarm.UpdateState) swarm.UpdateConfig {
	out := swarm.UpdateConfig{Parallelism: 1}
	given := svc.Spec.UpdateConfig
	if state == swarm.UpdateStateRollbackStarted {
		given = svc.Spec.RollbackConfig
	}
	if given != nil {
		out = *given
	}
	if out.Monitor == 0 {
		out.Monitor = defaultMonitor
	}
	if out.FailureAction == "" {
		out.FailureAction = swarm.UpdateFailureActionPause
	}
	if out.Order == "" || Exclusive(&svc.Spec) != "" {
		out.Order = swarm.UpdateOrderStopFirst
	}
	return out
}

// note says in the update's status that its order is not the one asked for.
func (c *scene) note() string {
	u, why := c.service.Spec.UpdateConfig, Exclusive(&c.service.Spec)
	if u == nil || u.Order != swarm.UpdateOrderStartFirst || why == "" {
		return ""
	}
	return " (stop-first: " + why + ")"
}

// survey looks at every slot, and retires old tasks whose successor is up.
func (c *scene) survey(slots []*slot, status *swarm.UpdateStatus, d *decision) rollout {
	r := rollout{config: config(c.service, status.State), total: len(slots)}
	if status.StartedAt != nil {
		r.started = *status.StartedAt
	}
	for _, s := range slots {
		failed := slices.IndexFunc(s.tasks, func(t *store.Task) bool { return c.isNew(t, r.started) && tasklife.Failed(t) })
		if failed >= 0 {
			r.failed = append(r.failed, s.tasks[failed])
		}
		i := slices.IndexFunc(s.wanted, func(t *store.Task) bool { return t.SpecVersion == c.service.SpecVersion })
		switch {
		case i >= 0:
			if c.surveyNew(s, s.wanted[i], &r, d) && failed < 0 {
				r.busy++ // a slot whose new task failed, and was tolerated, holds nobody up
			}
		case c.dirty(s):
			r.todo = append(r.todo, s)
		}
	}
	return r
}

func (c *scene) isNew(t *store.Task, started time.Time) bool {
	return t.SpecVersion == c.service.SpecVersion && !t.CreatedAt.Before(started)
}

// surveyNew looks at a slot that has a task of the new version, and says whether
// the update is still at work on it.
func (c *scene) surveyNew(s *slot, t *store.Task, r *rollout, d *decision) (busy bool) {
	up := t.Status.State == swarm.TaskStateRunning && c.serves(t, d)
	if up || r.config.Order != swarm.UpdateOrderStartFirst {
		if st := c.retire(s); len(st.update) > 0 {
			d.steps = append(d.steps, st)
			return true
		}
	}
	if isNew := c.isNew(t, r.started); !isNew || !up {
		return isNew && !up
	}
	if r.config.FailureAction != swarm.UpdateFailureActionContinue {
		r.watched = latest(r.watched, t.UpdatedAt.Add(r.config.Monitor))
	}
	free := t.UpdatedAt.Add(r.config.Delay)
	if !free.After(c.now) {
		return false
	}
	d.wake(free)
	return true
}

// serves says that clients on every node reach a running task, or that those which
// are late were waited for.
func (c *scene) serves(t *store.Task, d *decision) bool {
	end := t.UpdatedAt.Add(servingPatience)
	if c.serving == nil || !end.After(c.now) || c.serving(t) {
		return true
	}
	d.wake(control.Earlier(end, c.now.Add(servingPoll)))
	return false
}

// retire shuts down the slot's tasks of other versions.
func (c *scene) retire(s *slot) (st step) {
	for _, old := range s.wanted {
		if old.SpecVersion != c.service.SpecVersion {
			st.update = append(st.update, desired(old, swarm.TaskStateShutdown))
		}
	}
	return st
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// exceeded says that too many of the new tasks failed.
func (c *scene) exceeded(r rollout) bool {
	if r.config.FailureAction == swarm.UpdateFailureActionContinue || len(r.failed) == 0 {
		return false
	}
	return float32(len(r.failed))/float32(max(r.total, 1)) > r.config.MaxFailureRatio
}

// advance begins with as many further slots as may be in work at once.
func (c *scene) advance(r rollout, d *decision) {
	free := math.MaxInt
	if r.config.Parallelism > 0 {
		free = int(r.config.Parallelism) - r.busy
	}
	// What does not run is replaced first: it costs nothing.
	slices.SortStableFunc(r.todo, func(a, b *slot) int {
		if a.up == b.up {
			return 0
		}
		if b.up {
			return -1
		}
		return 1
	})
	for _, s := range r.todo[:max(0, min(free, len(r.todo)))] {
		d.steps = append(d.steps, c.replace(s, r.config.Order))
	}
}

func (c *scene) replace(s *slot, order swarm.UpdateOrder) step {
	if order == swarm.UpdateOrderStartFirst {
		t := c.newTask(s)
		if last := s.newest(); last.SpecVersion == t.SpecVersion && c.delay(last) > 0 {
			c.countRestart(t, last) // the try before failed
			t.DesiredState = swarm.TaskStateReady
		}
		return step{create: t}
	}
	st := step{create: c.newTask(s)}
	for _, old := range s.wanted {
		st.update = append(st.update, desired(old, swarm.TaskStateShutdown))
		if c.stopping(old) {
			st.create.DesiredState = swarm.TaskStateReady
		}
	}
	return st
}

// fail does what the service asks for when an update goes wrong.
func (c *scene) fail(r rollout, d *decision) {
	reason := "due to failure or early termination of task " + r.failed[0].ID
	if c.status(d).State == swarm.UpdateStateRollbackStarted {
		c.set(d, swarm.UpdateStateRollbackPaused, "rollback paused "+reason, nil)
		return
	}
	if r.config.FailureAction != swarm.UpdateFailureActionRollback || c.service.PreviousSpec == nil {
		c.set(d, swarm.UpdateStatePaused, "update paused "+reason, nil)
		return
	}
	c.rollback("update rolled back "+reason, d)
}

// rollback puts the previous spec in place. Its template is stored still, and
// tasks that run it stay as they are.
func (c *scene) rollback(message string, d *decision) {
	next := *c.service
	next.Spec, next.PreviousSpec = *c.service.PreviousSpec, nil
	newest := uint64(0)
	found := false
	for _, s := range c.specs {
		newest = max(newest, s.Number)
		if s.Number != c.service.SpecVersion && reflect.DeepEqual(s.Template, next.Spec.TaskTemplate) {
			next.SpecVersion, found = s.Number, true
		}
	}
	if !found {
		next.SpecVersion = newest + 1
		d.spec = &store.Spec{ServiceID: next.ID, Number: next.SpecVersion, Template: next.Spec.TaskTemplate}
		for _, s := range c.specs {
			if s.Number == c.service.SpecVersion {
				d.spec.RegistryAuth = s.RegistryAuth
			}
		}
	}
	d.service = &next
	c.set(d, swarm.UpdateStateRollbackStarted, message, func(s *swarm.UpdateStatus) {
		s.StartedAt, s.CompletedAt = &c.now, nil
	})
}
