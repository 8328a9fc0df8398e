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

// Secrets and configs differ in their limits and in what clients may see of
// them; all else is done once, by a depot of either.

// Limits of secrets and configs that Docker has.
const (
	maxSecret     = 500 * 1024
	maxConfig     = 1000 * 1024
	maxSecretName = 64
)

// templateDriver is the only one that fills in templates.
const templateDriver = "golang"

var secretName = regexp.MustCompile(`^[a-zA-Z0-9]+(?:[a-zA-Z0-9-_.]*[a-zA-Z0-9])?$`)

// payload is a secret or a config. Secrets' specs have all that configs' have.
type payload struct {
	object store.Object
	id     string
	meta   swarm.Meta
	spec   swarm.SecretSpec
}

// depot handles all secrets, or all configs.
type depot struct {
	kind  string
	limit int
	all   func(*store.View) []payload
	// make returns the object for a new or changed payload.
	make func(payload) store.Object
	// show is the payload as clients may see it.
	show func(payload) any
	// refs are the IDs that a container refers to.
	refs func(*swarm.ContainerSpec) []string
}

func secretDepot() depot {
	return depot{
		kind: "secret", limit: maxSecret,
		all: func(v *store.View) (out []payload) {
			for _, o := range v.Secrets() {
				out = append(out, payload{o, o.ID, o.Meta, o.Spec})
			}
			return out
		},
		make: func(p payload) store.Object {
			return &store.Secret{Secret: swarm.Secret{ID: p.id, Meta: p.meta, Spec: p.spec}}
		},
		show: func(p payload) any {
			p.spec.Data = nil
			return swarm.Secret{ID: p.id, Meta: p.meta, Spec: p.spec}
		},
		refs: func(c *swarm.ContainerSpec) (out []string) {
			for _, ref := range c.Secrets {
				out = append(out, ref.SecretID)
			}
			return out
		},
	}
}

func configDepot() depot {
	spec := func(s swarm.SecretSpec) swarm.ConfigSpec {
		return swarm.ConfigSpec{Annotations: s.Annotations, Data: s.Data, Templating: s.Templating}
	}
	return depot{
		kind: "config", limit: maxConfig,
		all: func(v *store.View) (out []payload) {
			for _, o := range v.Configs() {
				s := swarm.SecretSpec{Annotations: o.Spec.Annotations, Data: o.Spec.Data, Templating: o.Spec.Templating}
				out = append(out, payload{o, o.ID, o.Meta, s})
			}
			return out
		},
		make: func(p payload) store.Object {
			return &store.Config{Config: swarm.Config{ID: p.id, Meta: p.meta, Spec: spec(p.spec)}}
		},
		show: func(p payload) any { return swarm.Config{ID: p.id, Meta: p.meta, Spec: spec(p.spec)} },
		refs: func(c *swarm.ContainerSpec) (out []string) {
			for _, ref := range c.Configs {
				out = append(out, ref.ConfigID)
			}
			return out
		},
	}
}

func (d depot) find(v *store.View, ref string) (payload, error) {
	all := d.all(v)
	objects := make([]store.Object, len(all))
	names := make(map[string]string, len(all))
	for i, p := range all {
		objects[i], names[p.id] = p.object, p.spec.Name
	}
	o, err := find(d.kind, ref, objects, func(o store.Object) string { return names[o.Key()] })
	if err != nil {
		return payload{}, err
	}
	return all[slices.Index(objects, o)], nil
}

func (d depot) validate(s swarm.SecretSpec) error {
	if len(s.Name) > maxSecretName || !secretName.MatchString(s.Name) {
		return invalid("invalid name, only %d [a-zA-Z0-9-_.] characters allowed, and the start and end character must be [a-zA-Z0-9]", maxSecretName)
	}
	switch {
	case s.Driver != nil && s.Driver.Name != "":
		return refuse(http.StatusNotImplemented, "%s driver %q: drivers of secrets are not available in meshd; leave out Driver", d.kind, s.Driver.Name)
	case s.Templating != nil && s.Templating.Name != templateDriver:
		return invalid("unrecognized template driver %q, only %q is known", s.Templating.Name, templateDriver)
	case len(s.Data) == 0, len(s.Data) > d.limit:
		return invalid("%s data must be larger than 0 and less than %d bytes", d.kind, d.limit)
	}
	return nil
}

func (d depot) view(p payload) any {
	p.spec.Labels = orEmpty(p.spec.Labels)
	return d.show(p)
}

func (d depot) list(w http.ResponseWriter, r *http.Request, c Control) error {
	f, err := parseFilters(r, "id", "name", "names", "label")
	if err != nil {
		return err
	}
	out := []any{}
	c.Store().View(func(v *store.View) {
		for _, p := range d.all(v) {
			if f.prefix("id", p.id) && f.prefix("name", p.spec.Name) && f.exact("names", p.spec.Name) && f.labels("label", p.spec.Labels) {
				out = append(out, d.view(p))
			}
		}
	})
	reply(w, http.StatusOK, out)
	return nil
}

func (d depot) inspect(w http.ResponseWriter, r *http.Request, c Control) error {
	var out any
	err := look(c.Store(), func(v *store.View) error {
		p, err := d.find(v, r.PathValue("id"))
		if err == nil {
			out = d.view(p)
		}
		return err
	})
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, out)
	return nil
}

func (d depot) create(w http.ResponseWriter, r *http.Request, c Control) error {
	var spec swarm.SecretSpec
	if err := readBody(w, r, &spec); err != nil {
		return err
	}
	if err := d.validate(spec); err != nil {
		return err
	}
	spec.Labels = orEmpty(spec.Labels)
	p := payload{id: store.NewID(), spec: spec}
	err := store.Transact(r.Context(), c.Store(), c, func(tx *store.Tx) error {
		if slices.ContainsFunc(d.all(tx.View), func(e payload) bool { return e.spec.Name == spec.Name }) {
			return refuse(http.StatusConflict, "%s %s already exists", d.kind, spec.Name)
		}
		tx.Create(d.make(p))
		return nil
	})
	if err != nil {
		return err
	}
	reply(w, http.StatusCreated, swarm.SecretCreateResponse{ID: p.id})
	return nil
}

const textLabelsOnly = "only updates to Labels are allowed"

func (d depot) update(w http.ResponseWriter, r *http.Request, c Control) error {
	base, err := baseVersion(r)
	if err != nil {
		return err
	}
	var spec swarm.SecretSpec
	if err := readBody(w, r, &spec); err != nil {
		return err
	}
	err = store.TransactOnce(r.Context(), c.Store(), c, func(tx *store.Tx) error {
		p, err := d.find(tx.View, r.PathValue("id"))
		if err != nil {
			return err
		}
		if p.meta.Version.Index != base {
			return store.ErrSequence
		}
		if spec.Name != p.spec.Name || spec.Data != nil && !slices.Equal(spec.Data, p.spec.Data) {
			return invalid(textLabelsOnly)
		}
		p.spec.Labels = orEmpty(maps.Clone(spec.Labels))
		tx.Update(d.make(p))
		return nil
	})
	if err != nil {
		return err
	}
	return done(w)
}

func (d depot) remove(w http.ResponseWriter, r *http.Request, c Control) error {
	err := store.Transact(r.Context(), c.Store(), c, func(tx *store.Tx) error {
		p, err := d.find(tx.View, r.PathValue("id"))
		if err != nil {
			return err
		}
		if users := d.users(tx.View, p.id); len(users) > 0 {
			word := "service"
			if len(users) > 1 {
				word = "services"
			}
			return invalid("%s '%s' is in use by the following %s: %s", d.kind, p.spec.Name, word, strings.Join(users, ", "))
		}
		tx.Remove(p.object)
		return nil
	})
	if err == nil {
		w.WriteHeader(http.StatusNoContent)
	}
	return err
}

// users names the services that refer to the payload, or that may go back by
// themselves to a spec which does.
func (d depot) users(v *store.View, id string) []string {
	var out []string
	for _, s := range v.Services() {
		specs := []*swarm.ServiceSpec{&s.Spec}
		if s.PreviousSpec != nil && mayRollBack(s) {
			specs = append(specs, s.PreviousSpec)
		}
		if slices.ContainsFunc(specs, func(spec *swarm.ServiceSpec) bool {
			c := spec.TaskTemplate.ContainerSpec
			return c != nil && slices.Contains(d.refs(c), id)
		}) {
			out = append(out, s.Spec.Name)
		}
	}
	return out
}

// mayRollBack says that a failure would bring the service's previous spec back.
func mayRollBack(s *store.Service) bool {
	u, c := s.UpdateStatus, s.Spec.UpdateConfig
	return u != nil && u.State == swarm.UpdateStateUpdating && c != nil && c.FailureAction == swarm.UpdateFailureActionRollback
}
