package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
)

func pathEscape(s string) string  { return url.PathEscape(s) }
func queryEscape(s string) string { return url.QueryEscape(s) }

// networkCreate makes overlay networks here and leaves the others to the engine.
func (s *Server) networkCreate(w http.ResponseWriter, r *http.Request) error {
	body, err := wholeBody(w, r)
	if err != nil {
		return err
	}
	var kind struct{ Name, Driver, Scope string }
	if err := json.Unmarshal(body, &kind); err != nil {
		return invalid("invalid JSON: %v", err)
	}
	if kind.Driver == "overlay" || kind.Scope == "swarm" {
		var req network.CreateRequest
		if err := json.Unmarshal(body, &req); err != nil {
			return invalid("invalid network: %v", err)
		}
		return s.onManager(func(w http.ResponseWriter, r *http.Request, c Control) error {
			return s.overlayCreate(w, r, c, req)
		})(w, r)
	}
	if kind.Driver == meshDriver {
		return invalid("networks of driver %s are made by meshd itself; use the driver overlay", meshDriver)
	}
	if n, err := s.swarmNetwork(r.Context(), kind.Name); err == nil && nameOf(n) == kind.Name && n != nil {
		return nameTaken(kind.Name)
	}
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return s.engine.forward(w, r)
}

func nameTaken(name string) error {
	return refuse(http.StatusConflict, "network with name %s already exists", name)
}

func (s *Server) overlayCreate(w http.ResponseWriter, r *http.Request, c Control, req network.CreateRequest) error {
	if err := validateNetwork(req); err != nil {
		return err
	}
	if local, err := s.engine.network(r.Context(), req.Name); err == nil && local.Name == req.Name && local.Labels[meshLabel] == "" {
		return nameTaken(req.Name)
	}
	hosts, err := s.hosts()
	if err != nil {
		return fmt.Errorf("api: read the host's routes: %w", err)
	}
	n := &store.Network{Network: swarm.Network{ID: store.NewID(), Spec: networkSpec(req)}, Aux: auxAddresses(req.IPAM)}
	watch := c.Store().Watch(nil)
	defer watch.Close()
	err = store.Transact(r.Context(), c.Store(), c, func(tx *store.Tx) error {
		if tx.NetworkByName(req.Name) != nil {
			return nameTaken(req.Name)
		}
		if err := checkSubnets(n.Spec.IPAMOptions, tx.Networks(), hosts); err != nil {
			return err
		}
		encryptUnasked(tx.Cluster(), n)
		tx.Create(n)
		return nil
	})
	if err != nil {
		return err
	}
	out := network.CreateResponse{ID: n.ID}
	ready, reason := allocated(r.Context(), c.Store(), watch, n.ID)
	if reason != "" {
		return s.withdraw(r.Context(), c, n.ID, reason)
	}
	if !ready {
		out.Warning = "the network has no addresses yet; tasks on it wait until the leader gave it some"
	}
	reply(w, http.StatusCreated, out)
	return nil
}

// allocateTime is how long a client waits for its network's subnet.
const allocateTime = 5 * time.Second

// allocated waits until the allocator has dealt with the network; the reason is
// why it cannot.
func allocated(ctx context.Context, st *store.Store, watch *store.Watcher, id string) (ready bool, reason string) {
	ctx, cancel := context.WithTimeout(ctx, allocateTime)
	defer cancel()
	for {
		st.View(func(v *store.View) {
			if n := v.Network(id); n != nil {
				ready, reason = n.Ready, n.Error
			}
		})
		if ready || reason != "" {
			return ready, reason
		}
		select {
		case <-ctx.Done():
			return false, ""
		case _, open := <-watch.C:
			if !open { // lagged: look with a fresh watch
				watch = st.Watch(nil)
				defer watch.Close()
			}
		}
	}
}

// withdraw takes back a network that cannot be had, and says why.
func (s *Server) withdraw(ctx context.Context, c Control, id, reason string) error {
	err := store.Transact(ctx, c.Store(), c, func(tx *store.Tx) error {
		n := tx.Network(id)
		if n == nil || n.Ready {
			return nil
		}
		tx.Remove(n)
		return nil
	})
	if err != nil {
		return fmt.Errorf("api: take back network %s, which has no subnet (%s): %w", id, reason, err)
	}
	return invalid("could not find an available, non-overlapping address pool among the defaults to assign to the network: %s; name a subnet (--subnet), or remove networks", reason)
}

func networkSpec(req network.CreateRequest) swarm.NetworkSpec {
	v4, v6 := families(req)
	options := req.Options
	if !v4 {
		options = maps.Clone(orEmpty(options))
		options[store.OptionIPv4] = "false"
	}
	spec := swarm.NetworkSpec{
		Annotations:         swarm.Annotations{Name: req.Name, Labels: orEmpty(req.Labels)},
		DriverConfiguration: &swarm.Driver{Name: "overlay", Options: options}, IPv6Enabled: v6,
		Internal: req.Internal, Attachable: req.Attachable, Scope: "swarm",
		IPAMOptions: &swarm.IPAMOptions{Driver: swarm.Driver{Name: "default"}},
	}
	if req.IPAM != nil {
		spec.IPAMOptions.Driver.Options = req.IPAM.Options
		for _, c := range req.IPAM.Config {
			spec.IPAMOptions.Configs = append(spec.IPAMOptions.Configs, swarm.IPAMConfig{Subnet: c.Subnet, Range: c.IPRange, Gateway: c.Gateway})
		}
	}
	return spec
}

// auxAddresses are those of all subnets.
func auxAddresses(given *network.IPAM) map[string]netip.Addr {
	var out map[string]netip.Addr
	if given == nil {
		return nil
	}
	for _, c := range given.Config {
		for name, a := range c.AuxAddress {
			if out == nil {
				out = map[string]netip.Addr{}
			}
			out[name] = a
		}
	}
	return out
}

func (s *Server) networkRemove(w http.ResponseWriter, r *http.Request) error {
	ref := r.PathValue("id")
	n, err := s.swarmNetwork(r.Context(), ref)
	if n == nil {
		local, localErr := s.engine.network(r.Context(), ref)
		_, manager := s.node.Manager()
		mesh := localErr == nil && local.Labels[meshLabel] != ""
		switch {
		case err != nil && (localErr != nil || mesh):
			return err
		case mesh && !manager:
			return s.onlyWorker()
		}
		return s.engine.forward(w, r)
	}
	return s.onManager(func(w http.ResponseWriter, r *http.Request, c Control) error {
		err := store.Transact(r.Context(), c.Store(), c, func(tx *store.Tx) error {
			n := tx.Network(n.ID)
			if n == nil {
				return notFound("network", ref)
			}
			if n.Spec.Ingress {
				return refuse(http.StatusForbidden, "network %s carries the routing mesh and cannot be removed", n.Spec.Name)
			}
			if err := networkInUse(tx.View, n); err != nil {
				return err
			}
			tx.Remove(n)
			return nil
		})
		if err == nil {
			w.WriteHeader(http.StatusNoContent)
		}
		return err
	})(w, r)
}

// networkInUse says who uses a network: a service, or a task that is to run on.
func networkInUse(v *store.View, n *store.Network) error {
	for _, s := range v.Services() {
		for _, a := range s.Spec.TaskTemplate.Networks {
			if a.Target == n.ID {
				return invalid("network %s is in use by service %s", n.ID, s.ID)
			}
		}
	}
	for _, t := range v.TasksOnNetwork(n.ID) {
		if wanted(t) && !ended(t.Status.State) {
			return invalid("network %s is in use by task %s", n.ID, t.ID)
		}
	}
	return nil
}

func wanted(t *store.Task) bool {
	switch t.DesiredState { //nolint:exhaustive // all others stop it
	case swarm.TaskStateReady, swarm.TaskStateRunning:
		return true
	case swarm.TaskStateComplete: // a job's
		return !ended(t.Status.State)
	}
	return false
}

func ended(st swarm.TaskState) bool {
	switch st { //nolint:exhaustive // all others are before the end
	case swarm.TaskStateComplete, swarm.TaskStateShutdown, swarm.TaskStateFailed, swarm.TaskStateRejected, swarm.TaskStateRemove, swarm.TaskStateOrphaned:
		return true
	}
	return false
}

// refuseLocalNetworks tells a service that asks for a network which only this
// node's engine knows that it must be the swarm's. An engine's ID of one of ours
// is replaced by ours.
func (s *Server) refuseLocalNetworks(ctx context.Context, c Control, spec *swarm.ServiceSpec) error {
	for i, a := range spec.TaskTemplate.Networks {
		if predefined[a.Target] {
			continue
		}
		err := look(c.Store(), func(v *store.View) error {
			_, err := findNetwork(v, a.Target)
			return err
		})
		if err == nil || faultOf(err).status != http.StatusNotFound {
			continue // resolve has the last word
		}
		local, err := s.engine.network(ctx, a.Target)
		switch {
		case err != nil:
		case predefined[local.Name]:
			spec.TaskTemplate.Networks[i].Target = local.Name
		case local.Labels[meshLabel] != "":
			spec.TaskTemplate.Networks[i].Target = local.Labels[meshLabel]
		default:
			return refuse(http.StatusForbidden, "The network %s cannot be used with services. Only networks scoped to the swarm can be used, such as those created with the overlay driver.", local.Name)
		}
	}
	return nil
}
