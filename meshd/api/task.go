package api

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
)

// taskName is the name Docker gives a task: service.slot.task, and the node's
// ID in place of the slot for global services.
func taskName(v *store.View, t *store.Task) string {
	service := t.ServiceID
	if s := v.Service(t.ServiceID); s != nil {
		service = s.Spec.Name
	}
	slot := t.NodeID
	if t.Slot != 0 {
		slot = strconv.Itoa(t.Slot)
	}
	return cmp.Or(t.Name, fmt.Sprintf("%s.%s.%s", service, slot, t.ID))
}

// taskFilter is the filters of a task list with references resolved.
type taskFilter struct {
	filters
	services, nodes map[string]bool
	upToDate        bool
}

var taskStates = []string{
	"new", "allocated", "pending", "assigned", "accepted", "preparing", "ready", "starting",
	"running", "complete", "shutdown", "failed", "rejected", "remove", "orphaned",
}

func readTaskFilter(v *store.View, f filters) (taskFilter, error) {
	tf := taskFilter{filters: f, services: map[string]bool{}, nodes: map[string]bool{}}
	if err := f.oneOf("desired-state", taskStates...); err != nil {
		return tf, err
	}
	for _, ref := range f["service"] {
		s, err := findService(v, ref)
		if err != nil {
			return tf, err
		}
		tf.services[s.ID] = true
	}
	for _, ref := range f["node"] {
		n, err := findNode(v, ref)
		if err != nil {
			return tf, err
		}
		tf.nodes[n.ID] = true
	}
	for _, on := range f["_up-to-date"] {
		tf.upToDate = tf.upToDate || on == "true" || on == "1"
	}
	return tf, nil
}

// candidates narrows the search with an index where the filters allow it.
func (tf taskFilter) candidates(v *store.View) []*store.Task {
	var out []*store.Task
	switch {
	case len(tf.services) > 0:
		for _, id := range slices.Sorted(maps.Keys(tf.services)) {
			out = append(out, v.TasksOfService(id)...)
		}
	case len(tf.nodes) > 0:
		for _, id := range slices.Sorted(maps.Keys(tf.nodes)) {
			out = append(out, v.TasksOnNode(id)...)
		}
	default:
		out = v.Tasks()
	}
	return out
}

func (tf taskFilter) match(v *store.View, t *store.Task) bool {
	// Docker's list has no attachments, its inspection has.
	if t.Attached() || len(tf.nodes) > 0 && !tf.nodes[t.NodeID] || !tf.exact("desired-state", string(t.DesiredState)) ||
		!tf.prefix("id", t.ID) || !tf.exact("runtime", "container") {
		return false
	}
	s := v.Service(t.ServiceID)
	if tf.upToDate && (s == nil || s.SpecVersion != t.SpecVersion) {
		return false
	}
	if len(tf.filters["label"]) > 0 {
		labels := t.Labels
		if s != nil {
			labels = s.Spec.Labels
		}
		if !tf.labels("label", labels) {
			return false
		}
	}
	return len(tf.filters["name"]) == 0 || tf.prefix("name", taskName(v, t))
}

func taskView(v *store.View, t *store.Task) swarm.Task {
	out := v.JoinTask(t)
	out.Labels = orEmpty(out.Labels)
	return out
}

func (s *Server) taskList(w http.ResponseWriter, r *http.Request, c Control) error {
	f, err := parseFilters(r, "id", "name", "label", "service", "node", "desired-state", "_up-to-date", "runtime")
	if err != nil {
		return err
	}
	out := []swarm.Task{}
	err = look(c.Store(), func(v *store.View) error {
		tf, err := readTaskFilter(v, f)
		if err != nil {
			return err
		}
		for _, t := range tf.candidates(v) {
			if tf.match(v, t) {
				out = append(out, taskView(v, t))
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, out)
	return nil
}

func (s *Server) taskInspect(w http.ResponseWriter, r *http.Request, c Control) error {
	var out swarm.Task
	err := look(c.Store(), func(v *store.View) error {
		t, err := findTask(v, r.PathValue("id"))
		if err == nil {
			out = taskView(v, t)
		}
		return err
	})
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, out)
	return nil
}
