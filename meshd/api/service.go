package api

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/allocator"
	"github.com/meshd/meshd/orchestrator/store"
)

func modeName(m swarm.ServiceMode) string {
	switch {
	case m.Global != nil:
		return "global"
	case m.ReplicatedJob != nil:
		return "replicated-job"
	case m.GlobalJob != nil:
		return "global-job"
	}
	return "replicated"
}

func (s *Server) serviceList(w http.ResponseWriter, r *http.Request, c Control) error {
	f, err := parseFilters(r, "id", "name", "label", "mode", "runtime")
	if err != nil {
		return err
	}
	if err := f.oneOf("mode", "replicated", "global", "replicated-job", "global-job"); err != nil {
		return err
	}
	status, err := flag(r, "status")
	if err != nil {
		return err
	}
	out := []swarm.Service{}
	c.Store().View(func(v *store.View) {
		for _, o := range v.Services() {
			if !f.prefix("id", o.ID) || !f.prefix("name", o.Spec.Name) || !f.labels("label", o.Spec.Labels) ||
				!f.exact("mode", modeName(o.Spec.Mode)) || !f.exact("runtime", "container") {
				continue
			}
			item := o.Service
			if status {
				item.ServiceStatus = serviceStatus(o, v.TasksOfService(o.ID))
			}
			out = append(out, item)
		}
	})
	reply(w, http.StatusOK, out)
	return nil
}

// serviceStatus counts a service's tasks as "service ls" shows them.
func serviceStatus(s *store.Service, tasks []*store.Task) *swarm.ServiceStatus {
	st := &swarm.ServiceStatus{}
	job := isJob(s.Spec.Mode)
	for _, t := range tasks {
		if job && (t.JobIteration == nil || s.JobStatus == nil || *t.JobIteration != s.JobStatus.JobIteration) {
			continue
		}
		switch {
		case t.Status.State == swarm.TaskStateRunning && wanted(t):
			// One that is to stop may run on a node that is lost: it serves nobody.
			st.RunningTasks++
		case t.Status.State == swarm.TaskStateComplete && job:
			st.CompletedTasks++
		}
		if wanted(t) {
			st.DesiredTasks++
		}
	}
	switch m := s.Spec.Mode; {
	case m.Replicated != nil && m.Replicated.Replicas != nil:
		st.DesiredTasks = *m.Replicated.Replicas
	case m.ReplicatedJob != nil && m.ReplicatedJob.MaxConcurrent != nil && m.ReplicatedJob.TotalCompletions != nil:
		left := *m.ReplicatedJob.TotalCompletions - min(st.CompletedTasks, *m.ReplicatedJob.TotalCompletions)
		st.DesiredTasks = min(*m.ReplicatedJob.MaxConcurrent, left)
	}
	return st
}

// scheduledService is a service with where it stands if it is a job that runs by the
// clock; newer clients print what they do not know, too.
type scheduledService struct {
	swarm.Service
	Schedule *store.Schedule `json:",omitempty"`
}

func (s *Server) serviceInspect(w http.ResponseWriter, r *http.Request, c Control) error {
	defaults, err := flag(r, "insertDefaults")
	if err != nil {
		return err
	}
	var out scheduledService
	err = look(c.Store(), func(v *store.View) error {
		o, err := findService(v, r.PathValue("id"))
		if err == nil {
			out = scheduledService{o.Service, o.Schedule}
		}
		return err
	})
	if err != nil {
		return err
	}
	if defaults {
		out.Spec = insertDefaults(out.Spec)
	}
	reply(w, http.StatusOK, out)
	return nil
}

// serviceBody reads a service's spec. Networks outside of the task template are
// the form of old clients.
func serviceBody(w http.ResponseWriter, r *http.Request) (swarm.ServiceSpec, error) {
	var body struct {
		swarm.ServiceSpec
		Networks []swarm.NetworkAttachmentConfig
	}
	if err := readBody(w, r, &body); err != nil {
		return swarm.ServiceSpec{}, err
	}
	spec := body.ServiceSpec
	if len(spec.TaskTemplate.Networks) == 0 {
		spec.TaskTemplate.Networks = body.Networks
	}
	return spec, nil
}

// registryAuth reads the credentials for the image's registry, as the agent
// will pass them on to its engine.
func registryAuth(r *http.Request) (string, error) {
	const limit = 64 << 10
	raw := r.Header.Get("X-Registry-Auth")
	if raw == "" {
		return "", nil
	}
	if len(raw) > limit {
		return "", invalid("invalid X-Registry-Auth header: larger than %d bytes", limit)
	}
	text, err := base64.URLEncoding.DecodeString(raw)
	if err != nil {
		if text, err = base64.RawURLEncoding.DecodeString(strings.TrimRight(raw, "=")); err != nil {
			return "", invalid("invalid X-Registry-Auth header: %v", err)
		}
	}
	if !json.Valid(text) {
		return "", invalid("invalid X-Registry-Auth header: not JSON")
	}
	return raw, nil
}

func (s *Server) serviceCreate(w http.ResponseWriter, r *http.Request, c Control) error {
	spec, err := serviceBody(w, r)
	if err != nil {
		return err
	}
	auth, err := registryAuth(r)
	if err != nil {
		return err
	}
	if spec.Name == "" {
		spec.Name = randomName()
	}
	if err := validateService(&spec); err != nil {
		return err
	}
	normalize(&spec)
	if err := s.refuseLocalNetworks(r.Context(), c, &spec); err != nil {
		return err
	}
	if err := s.refuseOwnPorts(c, &spec); err != nil {
		return err
	}
	id := store.NewID()
	err = store.Transact(r.Context(), c.Store(), c, func(tx *store.Tx) error {
		next := spec
		if o := tx.ServiceByName(next.Name); o != nil {
			return refuse(http.StatusConflict, "name conflicts with an existing object: service %s already exists", next.Name)
		}
		if err := resolve(tx.View, &next, ""); err != nil {
			return err
		}
		o := &store.Service{Service: swarm.Service{ID: id, Spec: next}, SpecVersion: 1}
		if err := run(o, nil, time.Now().UTC()); err != nil {
			return err
		}
		tx.Create(o)
		tx.Create(&store.Spec{ServiceID: id, Number: 1, Template: next.TaskTemplate, RegistryAuth: auth})
		return nil
	})
	if err != nil {
		return err
	}
	reply(w, http.StatusCreated, swarm.ServiceCreateResponse{ID: id, Warnings: warnings(&spec)})
	return nil
}

// resolve checks a spec against the cluster and turns the names of networks
// into IDs. It replaces the slices that it changes: the caller may run it again.
func resolve(v *store.View, spec *swarm.ServiceSpec, selfID string) error {
	nets := make([]swarm.NetworkAttachmentConfig, 0, len(spec.TaskTemplate.Networks))
	seen := map[string]bool{}
	for _, n := range spec.TaskTemplate.Networks {
		if !predefined[n.Target] {
			found, err := findNetwork(v, n.Target)
			if err != nil {
				return err
			}
			if found.Spec.Ingress {
				return invalid("Service cannot be explicitly attached to the ingress network %q", found.Spec.Name)
			}
			n.Target = found.ID
		}
		if seen[n.Target] {
			continue
		}
		seen[n.Target] = true
		nets = append(nets, n)
	}
	spec.TaskTemplate.Networks = nil
	if len(nets) > 0 {
		spec.TaskTemplate.Networks = nets
	}
	for _, ref := range spec.TaskTemplate.ContainerSpec.Secrets {
		if v.Secret(ref.SecretID) == nil {
			return invalid("secret not found: %s", ref.SecretName)
		}
	}
	for _, ref := range spec.TaskTemplate.ContainerSpec.Configs {
		if v.Config(ref.ConfigID) == nil {
			return invalid("config not found: %s", ref.ConfigName)
		}
	}
	if err := checkEngineNetwork(spec); err != nil {
		return err
	}
	if err := allocator.CheckVIPs(v, selfID, spec); err != nil {
		return invalid("%v", err)
	}
	return checkPorts(v, spec, selfID)
}

// serviceRemove takes the wish away; the control loops stop the tasks.
func (s *Server) serviceRemove(w http.ResponseWriter, r *http.Request, c Control) error {
	err := store.Transact(r.Context(), c.Store(), c, func(tx *store.Tx) error {
		o, err := findService(tx.View, r.PathValue("id"))
		if err != nil {
			return err
		}
		tx.Remove(o)
		return nil
	})
	if err != nil {
		return err
	}
	return done(w)
}
