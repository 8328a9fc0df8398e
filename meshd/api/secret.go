package api

import (
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
)

// Limits of secrets and configs that Docker has.
const (
	maxSecret     = 500 * 1024
	maxConfig     = 1000 * 1024
	maxSecretName = 64
)

var secretName = regexp.MustCompile(`^[a-zA-Z0-9]+(?:[a-zA-Z0-9-_.]*[a-zA-Z0-9])?$`)

func validateSecretName(name string) error {
	if len(name) > maxSecretName || !secretName.MatchString(name) {
		return invalid("invalid name, only %d [a-zA-Z0-9-_.] characters allowed, and the start and end character must be [a-zA-Z0-9]", maxSecretName)
	}
	return nil
}

func validateSecret(s swarm.SecretSpec) error {
	if err := validateSecretName(s.Name); err != nil {
		return err
	}
	switch {
	case s.Driver != nil && s.Driver.Name != "":
		return refuse(http.StatusNotImplemented, "secret drivers are not available in this version of meshd")
	case len(s.Data) == 0, len(s.Data) > maxSecret:
		return invalid("secret data must be larger than 0 and less than %d bytes", maxSecret)
	}
	return nil
}

// secretView is the secret as clients may see it: without its data.
func secretView(o *store.Secret) swarm.Secret {
	out := o.Secret
	out.Spec.Labels, out.Spec.Data = orEmpty(out.Spec.Labels), nil
	return out
}

func (s *Server) secretList(w http.ResponseWriter, r *http.Request, c Control) error {
	f, err := parseFilters(r, "id", "name", "names", "label")
	if err != nil {
		return err
	}
	out := []swarm.Secret{}
	c.Store().View(func(v *store.View) {
		for _, o := range v.Secrets() {
			if f.prefix("id", o.ID) && f.prefix("name", o.Spec.Name) && f.exact("names", o.Spec.Name) && f.labels("label", o.Spec.Labels) {
				out = append(out, secretView(o))
			}
		}
	})
	reply(w, http.StatusOK, out)
	return nil
}

func (s *Server) secretInspect(w http.ResponseWriter, r *http.Request, c Control) error {
	var out swarm.Secret
	err := look(c.Store(), func(v *store.View) error {
		o, err := findSecret(v, r.PathValue("id"))
		if err == nil {
			out = secretView(o)
		}
		return err
	})
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, out)
	return nil
}

func (s *Server) secretCreate(w http.ResponseWriter, r *http.Request, c Control) error {
	var spec swarm.SecretSpec
	if err := readBody(w, r, &spec); err != nil {
		return err
	}
	if err := validateSecret(spec); err != nil {
		return err
	}
	spec.Labels = orEmpty(spec.Labels)
	o := &store.Secret{Secret: swarm.Secret{ID: store.NewID(), Spec: spec}}
	err := store.Transact(r.Context(), c.Store(), c, func(tx *store.Tx) error {
		if slices.ContainsFunc(tx.Secrets(), func(e *store.Secret) bool { return e.Spec.Name == spec.Name }) {
			return refuse(http.StatusConflict, "secret %s already exists", spec.Name)
		}
		tx.Create(o)
		return nil
	})
	if err != nil {
		return err
	}
	reply(w, http.StatusCreated, swarm.SecretCreateResponse{ID: o.ID})
	return nil
}

const textLabelsOnly = "only updates to Labels are allowed"

func (s *Server) secretUpdate(w http.ResponseWriter, r *http.Request, c Control) error {
	base, err := baseVersion(r)
	if err != nil {
		return err
	}
	var spec swarm.SecretSpec
	if err := readBody(w, r, &spec); err != nil {
		return err
	}
	err = store.TransactOnce(r.Context(), c.Store(), c, func(tx *store.Tx) error {
		old, err := findSecret(tx.View, r.PathValue("id"))
		if err != nil {
			return err
		}
		if old.Version.Index != base {
			return store.ErrSequence
		}
		if spec.Name != old.Spec.Name || spec.Data != nil && !slices.Equal(spec.Data, old.Spec.Data) {
			return invalid(textLabelsOnly)
		}
		next := *old
		next.Spec.Labels = orEmpty(maps.Clone(spec.Labels))
		tx.Update(&next)
		return nil
	})
	if err != nil {
		return err
	}
	return done(w)
}

func (s *Server) secretRemove(w http.ResponseWriter, r *http.Request, c Control) error {
	err := store.Transact(r.Context(), c.Store(), c, func(tx *store.Tx) error {
		o, err := findSecret(tx.View, r.PathValue("id"))
		if err != nil {
			return err
		}
		users := users(tx.View, func(spec *swarm.ContainerSpec) bool {
			return slices.ContainsFunc(spec.Secrets, func(ref *swarm.SecretReference) bool { return ref.SecretID == o.ID })
		})
		if len(users) > 0 {
			return inUse("secret", o.Spec.Name, users)
		}
		tx.Remove(o)
		return nil
	})
	if err == nil {
		w.WriteHeader(http.StatusNoContent)
	}
	return err
}

// users names the services whose container has something.
func users(v *store.View, has func(*swarm.ContainerSpec) bool) []string {
	var out []string
	for _, s := range v.Services() {
		if c := s.Spec.TaskTemplate.ContainerSpec; c != nil && has(c) {
			out = append(out, s.Spec.Name)
		}
	}
	return out
}

func inUse(kind, name string, users []string) error {
	word := "service"
	if len(users) > 1 {
		word = "services"
	}
	return invalid("%s '%s' is in use by the following %s: %s", kind, name, word, strings.Join(users, ", "))
}
