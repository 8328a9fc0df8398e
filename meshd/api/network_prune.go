package api

import (
	"encoding/json"
	"maps"
	"net/http"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/network"

	"github.com/meshd/meshd/orchestrator/store"
)

// networkPrune removes the networks that nothing uses: on a manager the swarm's, as
// Docker does, and the engine's own. It keeps the engine from removing what stands for
// ours: one without a container here now is still the swarm's.
func (s *Server) networkPrune(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	f, err := decodeFilters(q.Get("filters"))
	if err != nil {
		return err
	}
	local := maps.Clone(f)
	local["label!"] = append(local["label!"], meshLabel)
	q.Set("filters", local.encode())
	u := *r.URL
	u.RawQuery = q.Encode()
	r.URL = &u
	if _, manager := s.node.Manager(); !manager {
		return s.engine.forward(w, r)
	}
	status, header, body, err := s.engine.ask(r)
	if err != nil {
		return err
	}
	var report network.PruneReport
	if status != http.StatusOK || json.Unmarshal(body, &report) != nil {
		return pass(w, status, header, body) // the engine does not know such filters
	}
	return s.onManager(func(w http.ResponseWriter, r *http.Request, c Control) error {
		removed, err := pruneNetworks(r, c, f)
		if err != nil {
			return err
		}
		report.NetworksDeleted = append(report.NetworksDeleted, removed...)
		reply(w, http.StatusOK, report)
		return nil
	})(w, r)
}

// pruneNetworks removes the swarm's unused networks that the filters let through, and
// names them. Ingress stays: removing it has to be asked for.
func pruneNetworks(r *http.Request, c Control, f filters) (removed []string, err error) {
	before := time.Now()
	for _, v := range f["until"] {
		if before, err = untilTime(v, before); err != nil {
			return nil, err
		}
	}
	err = store.Transact(r.Context(), c.Store(), c, func(tx *store.Tx) error {
		removed = nil
		for _, n := range tx.Networks() {
			unwanted := len(f["label!"]) > 0 && f.labels("label!", n.Spec.Labels)
			if n.Spec.Ingress || unwanted || !f.labels("label", n.Spec.Labels) || n.CreatedAt.After(before) || networkInUse(tx.View, n) != nil {
				continue
			}
			tx.Remove(n)
			removed = append(removed, n.Spec.Name)
		}
		return nil
	})
	return removed, err
}

// untilTime reads the filter "until" of a prune: a time, or how long before now.
func untilTime(s string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, nil
	}
	if _, err := strconv.ParseFloat(s, 64); err == nil {
		return parseStamp(s)
	}
	return now, invalid("invalid filter until=%s: want a duration, a time (RFC 3339) or seconds since 1970", s)
}
