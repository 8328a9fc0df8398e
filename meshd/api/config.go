package api

import (
	"maps"
	"net/http"
	"slices"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
)

func validateConfig(s swarm.ConfigSpec) error {
	if err := validateSecretName(s.Name); err != nil {
		return err
	}
	if len(s.Data) == 0 || len(s.Data) > maxConfig {
		return invalid("config data must be larger than 0 and less than %d bytes", maxConfig)
	}
	return nil
}

func configView(o *store.Config) swarm.Config {
	out := o.Config
	out.Spec.Labels = orEmpty(out.Spec.Labels)
	return out
}

func (s *Server) configList(w http.ResponseWriter, r *http.Request, c Control) error {
	f, err := parseFilters(r, "id", "name", "names", "label")
	if err != nil {
		return err
	}
	out := []swarm.Config{}
	c.Store().View(func(v *store.View) {
		for _, o := range v.Configs() {
			if f.prefix("id", o.ID) && f.prefix("name", o.Spec.Name) && f.exact("names", o.Spec.Name) && f.labels("label", o.Spec.Labels) {
				out = append(out, configView(o))
			}
		}
	})
	reply(w, http.StatusOK, out)
	return nil
}

func (s *Server) configInspect(w http.ResponseWriter, r *http.Request, c Control) error {
	var out swarm.Config
	err := look(c.Store(), func(v *store.View) error {
		o, err := findConfig(v, r.PathValue("id"))
		if err == nil {
			out = configView(o)
		}
		return err
	})
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, out)
	return nil
}

func (s *Server) configCreate(w http.ResponseWriter, r *http.Request, c Control) error {
	var spec swarm.ConfigSpec
	if err := readBody(w, r, &spec); err != nil {
		return err
	}
	if err := validateConfig(spec); err != nil {
		return err
	}
	spec.Labels = orEmpty(spec.Labels)
	o := &store.Config{Config: swarm.Config{ID: store.NewID(), Spec: spec}}
	err := store.Transact(r.Context(), c.Store(), c, func(tx *store.Tx) error {
		if slices.ContainsFunc(tx.Configs(), func(e *store.Config) bool { return e.Spec.Name == spec.Name }) {
			return refuse(http.StatusConflict, "config %s already exists", spec.Name)
		}
		tx.Create(o)
		return nil
	})
	if err != nil {
		return err
	}
	reply(w, http.StatusCreated, swarm.ConfigCreateResponse{ID: o.ID})
	return nil
}

func (s *Server) configUpdate(w http.ResponseWriter, r *http.Request, c Control) error {
	base, err := baseVersion(r)
	if err != nil {
		return err
	}
	var spec swarm.ConfigSpec
	if err := readBody(w, r, &spec); err != nil {
		return err
	}
	err = store.TransactOnce(r.Context(), c.Store(), c, func(tx *store.Tx) error {
		old, err := findConfig(tx.View, r.PathValue("id"))
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

func (s *Server) configRemove(w http.ResponseWriter, r *http.Request, c Control) error {
	err := store.Transact(r.Context(), c.Store(), c, func(tx *store.Tx) error {
		o, err := findConfig(tx.View, r.PathValue("id"))
		if err != nil {
			return err
		}
		users := users(tx.View, func(spec *swarm.ContainerSpec) bool {
			return slices.ContainsFunc(spec.Configs, func(ref *swarm.ConfigReference) bool { return ref.ConfigID == o.ID })
		})
		if len(users) > 0 {
			return inUse("config", o.Spec.Name, users)
		}
		tx.Remove(o)
		return nil
	})
	if err == nil {
		w.WriteHeader(http.StatusNoContent)
	}
	return err
}
