package api

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/schedule"
	"github.com/meshd/meshd/orchestrator/services"
	"github.com/meshd/meshd/orchestrator/store"
)

// serviceChange is a request to change a service.
type serviceChange struct {
	base     uint64
	spec     swarm.ServiceSpec
	auth     string // of the request's header
	authFrom swarm.RegistryAuthSource
	rollback bool
}

func readServiceChange(w http.ResponseWriter, r *http.Request) (ch serviceChange, err error) {
	if ch.base, err = baseVersion(r); err != nil {
		return ch, err
	}
	if ch.auth, err = registryAuth(r); err != nil {
		return ch, err
	}
	switch from := swarm.RegistryAuthSource(r.URL.Query().Get("registryAuthFrom")); from {
	case "", swarm.RegistryAuthFromSpec:
		ch.authFrom = swarm.RegistryAuthFromSpec
	case swarm.RegistryAuthFromPreviousSpec:
		ch.authFrom = from
	default:
		return ch, invalid("unsupported registryAuthFrom value: %q", from)
	}
	switch v := r.URL.Query().Get("rollback"); v {
	case "", "none":
	case "previous":
		ch.rollback = true
	default:
		return ch, invalid("unrecognized rollback option %q", v)
	}
	if ch.spec, err = serviceBody(w, r); err != nil || ch.rollback {
		return ch, err // what is rolled back to was checked when it came
	}
	if err := validateService(&ch.spec); err != nil {
		return ch, err
	}
	normalize(&ch.spec)
	return ch, nil
}

// warnings tell of what is done otherwise than a spec asks.
func warnings(s *swarm.ServiceSpec) []string {
	if u, why := s.UpdateConfig, services.Exclusive(s); u != nil && u.Order == swarm.UpdateOrderStartFirst && why != "" {
		return []string{"update order start-first: updates of this service stop the old task first, because " + why}
	}
	return nil
}

func (s *Server) serviceUpdate(w http.ResponseWriter, r *http.Request, c Control) error {
	ch, err := readServiceChange(w, r)
	if err != nil {
		return err
	}
	if !ch.rollback {
		if err := s.refuseLocalNetworks(r.Context(), c, &ch.spec); err != nil {
			return err
		}
		if err := s.refuseOwnPorts(c, &ch.spec); err != nil {
			return err
		}
	}
	now := time.Now().UTC()
	err = store.TransactOnce(r.Context(), c.Store(), c, func(tx *store.Tx) error {
		old, err := findService(tx.View, r.PathValue("id"))
		if err != nil {
			return err
		}
		return ch.apply(tx, old, now)
	})
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, swarm.ServiceUpdateResponse{Warnings: warnings(&ch.spec)})
	return nil
}

// apply collects the change: the service with its new and its previous spec,
// and a new version of the task template if that changed.
func (ch serviceChange) apply(tx *store.Tx, old *store.Service, now time.Time) error {
	if old.Version.Index != ch.base {
		return store.ErrSequence
	}
	spec := ch.spec
	next := *old
	next.UpdateStatus = nil
	if ch.rollback {
		if old.PreviousSpec == nil {
			return invalid("service %s does not have a previous spec", old.ID)
		}
		spec = *old.PreviousSpec
		if !isJob(spec.Mode) { // a job does not roll over; it runs again
			next.UpdateStatus = &swarm.UpdateStatus{
				State: swarm.UpdateStateRollbackStarted, StartedAt: &now, Message: "manually requested rollback",
			}
		}
	}
	switch {
	case spec.Name != old.Spec.Name:
		return refuse(http.StatusNotImplemented, "renaming services is not supported")
	case modeName(spec.Mode) != modeName(old.Spec.Mode):
		return refuse(http.StatusNotImplemented, "service mode change is not allowed")
	}
	if err := resolve(tx.View, &spec, old.ID); err != nil {
		return err
	}
	previous := old.Spec
	next.Spec, next.PreviousSpec = spec, &previous
	if err := run(&next, old, now); err != nil {
		return err
	}
	ch.applyTemplate(tx, old, &next)
	tx.Update(&next)
	return nil
}

// applyTemplate stores a new version of the task template. New credentials
// alone are no reason to replace running tasks: they go into the version at hand,
// for the tasks that are still to pull. Other ports in mode host are: which node a
// task may be on depends on them.
func (ch serviceChange) applyTemplate(tx *store.Tx, old, next *store.Service) {
	current := tx.Spec(old.ID, old.SpecVersion)
	auth := ch.auth
	if auth == "" {
		auth = storedAuth(tx.View, old, ch.authFrom)
	}
	if current != nil && same(current.Template, next.Spec.TaskTemplate) && slices.Equal(hostPorts(old.Spec), hostPorts(next.Spec)) {
		if auth != current.RegistryAuth {
			fresh := *current
			fresh.RegistryAuth = auth
			tx.Update(&fresh)
		}
		return
	}
	next.SpecVersion = unusedNumber(tx.View, old.ID)
	tx.Create(&store.Spec{ServiceID: old.ID, Number: next.SpecVersion, Template: next.Spec.TaskTemplate, RegistryAuth: auth})
}

// unusedNumber is the number for a service's next task template. It counts on
// from the highest: after a rollback the service is back at a lower one.
func unusedNumber(v *store.View, serviceID string) uint64 {
	var highest uint64
	for _, o := range v.SpecsOf(serviceID) {
		highest = max(highest, o.Number)
	}
	return highest + 1
}

// storedAuth finds the credentials that came with the current or the previous spec.
func storedAuth(v *store.View, s *store.Service, from swarm.RegistryAuthSource) string {
	current := v.Spec(s.ID, s.SpecVersion)
	if from == swarm.RegistryAuthFromPreviousSpec && s.PreviousSpec != nil {
		var found *store.Spec
		for _, o := range v.SpecsOf(s.ID) {
			if same(o.Template, s.PreviousSpec.TaskTemplate) && (found == nil || o.Number > found.Number) {
				found = o
			}
		}
		if found != nil {
			return found.RegistryAuth
		}
	}
	if current != nil {
		return current.RegistryAuth
	}
	return ""
}

// same compares two task templates in the form in which clients see them, where
// an absent list and an empty one are alike.
func same(a, b swarm.TaskSpec) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

func isJob(m swarm.ServiceMode) bool { return m.ReplicatedJob != nil || m.GlobalJob != nil }

// run begins the run of a job that a change of it brings: every one does, except
// that of a job with a schedule, which only --force has run before its time.
func run(next, old *store.Service, now time.Time) error {
	next.JobStatus, next.Schedule = nil, nil
	if !isJob(next.Spec.Mode) {
		return nil
	}
	plan, err := schedule.Of(next.Spec.Labels)
	if err != nil {
		return invalid("%v", err)
	}
	var status swarm.JobStatus
	if old != nil && old.JobStatus != nil {
		status = *old.JobStatus
	}
	if plan != nil {
		next.Schedule = &store.Schedule{Since: now}
		if old != nil && old.Schedule != nil && sameSchedule(old.Spec.Labels, next.Spec.Labels) {
			next.Schedule = old.Schedule
		}
	}
	forced := old != nil && old.Spec.TaskTemplate.ForceUpdate != next.Spec.TaskTemplate.ForceUpdate
	if plan == nil || forced {
		if old != nil && !status.LastExecution.IsZero() {
			status.JobIteration.Index++
		}
		status.LastExecution = now
	}
	next.JobStatus = &status
	return nil
}

// sameSchedule compares what two sets of labels say of the times.
func sameSchedule(a, b map[string]string) bool {
	other := func(k, _ string) bool { return k != schedule.Label && !strings.HasPrefix(k, schedule.Label+".") }
	a, b = maps.Clone(a), maps.Clone(b)
	maps.DeleteFunc(a, other)
	maps.DeleteFunc(b, other)
	return maps.Equal(a, b)
}
