package services

import (
	"cmp"
	"slices"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/placement"
	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/tasklife"
)

// stopTimeout is how long a new task waits at most for its predecessor to stop.
const stopTimeout = time.Minute

// slot is one replica's, or one node's, place for a task.
type slot struct {
	number int    // replicated
	node   string // global
	// tasks are the slot's tasks, newest first, without those about to be removed.
	tasks []*store.Task
	// wanted are the tasks that should run; after settle: that do not need replacing.
	wanted []*store.Task
	// up says that a wanted task runs and may go on.
	up bool
}

// slots sorts the service's tasks into slots, by number and node. All share a few
// pieces of memory: a look at a large service is mostly one at what did not change.
func (c *scene) slots() []*slot {
	tasks := make([]*store.Task, 0, len(c.tasks))
	for _, t := range c.tasks {
		if t.DesiredState != swarm.TaskStateRemove {
			tasks = append(tasks, t)
		}
	}
	slices.SortFunc(tasks, func(a, b *store.Task) int {
		return cmp.Or(cmp.Compare(a.Slot, b.Slot), cmp.Compare(c.nodeOf(a), c.nodeOf(b)), newestFirst(a, b))
	})
	slab, wanted, out := make([]slot, 0, len(tasks)), make([]*store.Task, 0, len(tasks)), make([]*slot, 0, len(tasks))
	for len(tasks) > 0 {
		number, node, end := tasks[0].Slot, c.nodeOf(tasks[0]), 1
		for end < len(tasks) && tasks[end].Slot == number && c.nodeOf(tasks[end]) == node {
			end++
		}
		first := len(wanted)
		slab = append(slab, slot{number: number, node: node, tasks: slices.Clip(tasks[:end])})
		s := &slab[len(slab)-1]
		for _, t := range s.tasks {
			if tasklife.Wanted(t) {
				wanted = append(wanted, t)
				s.up = s.up || t.Status.State == swarm.TaskStateRunning && !c.over(t)
			}
		}
		s.wanted = slices.Clip(wanted[first:])
		out, tasks = append(out, s), tasks[end:]
	}
	return out
}

// nodeOf is what tells slots without a number apart.
func (c *scene) nodeOf(t *store.Task) string {
	if t.Slot == 0 && !c.numbered() {
		return t.NodeID
	}
	return ""
}

func newestFirst(a, b *store.Task) int {
	return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(b.ID, a.ID))
}

func (s *slot) nodeID() string {
	if len(s.wanted) == 0 {
		return ""
	}
	return s.wanted[0].NodeID
}

// newest is the slot's last task, nil if it had none.
func (s *slot) newest() *store.Task {
	if len(s.tasks) == 0 {
		return nil
	}
	return s.tasks[0]
}

// settle shuts down the slot's wanted tasks that cannot go on, and fills the slot
// again if that leaves it empty and fill is set. A task that moves goes on until
// the one that follows it runs.
func (c *scene) settle(s *slot, fill bool, d *decision) {
	var st step
	var moving []*store.Task
	stay := s.wanted[:0] // which is the slot's alone
	twin := func(t *store.Task) bool {
		return slices.ContainsFunc(stay, func(o *store.Task) bool { return o.SpecVersion == t.SpecVersion })
	}
	for _, t := range s.wanted {
		switch {
		case fill && c.moves(t):
			moving = append(moving, t)
		// Two of one version: a change of leader at a bad moment. The newest stays.
		case (!c.over(t) || c.early(s, t)) && !twin(t):
			stay = append(stay, t)
		default:
			st.update = append(st.update, c.endOf(t))
		}
	}
	s.wanted = stay
	if len(stay) == 0 && fill && !c.finished(s) {
		st.create = c.successor(s)
	}
	if st.create == nil && !slices.ContainsFunc(stay, preparing) {
		for _, t := range moving {
			st.update = append(st.update, c.endOf(t))
		}
	}
	if len(st.update) > 0 || st.create != nil {
		d.steps = append(d.steps, st)
	}
}

// moves says that a task has to go, but not before another runs in its place: its
// node is drained, or an emptier one was found, and the service is updated start-first.
func (c *scene) moves(t *store.Task) bool {
	return (placement.Draining(c.nodes[t.NodeID]) || c.evened(t)) && t.Status.State == swarm.TaskStateRunning && c.mayFollow(t) &&
		config(c.service, swarm.UpdateStateUpdating).Order == swarm.UpdateOrderStartFirst
}

// early says that a task ended by itself before it should have started, such as one whose
// image nobody has: its slot stays its own until then, or tasks would follow one
// another without the policy's delay.
func (c *scene) early(s *slot, t *store.Task) bool {
	return t.DesiredState == swarm.TaskStateReady && endedByItself(t) && c.startAt(s, t).After(c.now)
}

// evened says that the scheduler has found an emptier node for a task; without it the
// task would go on.
func (c *scene) evened(t *store.Task) bool {
	return t.MovesTo != "" && placement.Usable(c.nodes[t.NodeID]) && c.mayFollow(t)
}

// preparing says that a task does not run yet.
func preparing(t *store.Task) bool { return tasklife.Before(t.Status.State, swarm.TaskStateRunning) }

// endOf is a task that shall not run any more.
func (c *scene) endOf(t *store.Task) *store.Task {
	next := desired(t, swarm.TaskStateShutdown)
	if t.NodeID != "" && c.nodes[t.NodeID] == nil && !tasklife.Ended(t) {
		// Nobody is left to report its end, and its addresses must come free.
		next.Status.State = swarm.TaskStateOrphaned
		next.Status.Timestamp = c.now
		next.Status.Message = "node was removed from the swarm"
	}
	return next
}

// over says that a wanted task must be replaced: it ended, its node is lost to
// it or does not satisfy its constraints any more, or an emptier one was found.
func (c *scene) over(t *store.Task) bool {
	if tasklife.Ended(t) {
		return true
	}
	if t.NodeID == "" {
		return false
	}
	n := c.nodes[t.NodeID]
	if !placement.Usable(n) || c.evened(t) {
		return true
	}
	rules, known := c.rules[t.SpecVersion]
	return known && !rules.Allow(n)
}

// stopping says that a task may still run, of which its node will tell the end.
func (c *scene) stopping(t *store.Task) bool {
	return !tasklife.Ended(t) && tasklife.Placed(t) && placement.Reached(c.nodes[t.NodeID])
}

// successor is the slot's next task.
func (c *scene) successor(s *slot) *store.Task {
	t := c.newTask(s)
	last := s.newest()
	if last == nil {
		return t
	}
	c.countRestart(t, last)
	if c.delay(last) > 0 || slices.ContainsFunc(s.tasks, func(t *store.Task) bool { return c.stopping(t) && !c.moves(t) }) {
		t.DesiredState = swarm.TaskStateReady
	}
	return t
}

func (c *scene) newTask(s *slot) *store.Task {
	t := &store.Task{SpecVersion: c.service.SpecVersion}
	t.ID = store.NewID()
	t.ServiceID = c.service.ID
	t.Slot, t.NodeID = s.number, s.node
	t.DesiredState = c.goal()
	if isJob(c.service.Spec.Mode) {
		t.JobIteration = &swarm.Version{Index: c.iteration()}
	}
	t.Status = swarm.TaskStatus{Timestamp: c.now, State: swarm.TaskStateNew, Message: "created"}
	return t
}

// promote starts the tasks that were made ready, when their time has come.
func (c *scene) promote(slots []*slot, d *decision) {
	for _, s := range slots {
		for _, t := range s.wanted {
			if t.DesiredState != swarm.TaskStateReady {
				continue
			}
			if at := c.startAt(s, t); at.After(c.now) {
				d.wake(at)
				continue
			}
			d.steps = append(d.steps, step{update: []*store.Task{desired(t, c.goal())}})
		}
	}
}

// startAt is when a task in desired state ready may run, at the latest.
func (c *scene) startAt(s *slot, t *store.Task) time.Time {
	at := t.CreatedAt
	first := true
	for _, older := range s.tasks[slices.Index(s.tasks, t)+1:] {
		if first {
			at = t.CreatedAt.Add(c.delay(older))
			first = false
		}
		if !tasklife.Wanted(older) && c.stopping(older) {
			if end := t.CreatedAt.Add(stopTimeout); end.After(at) {
				at = end
			}
		}
	}
	return at
}
