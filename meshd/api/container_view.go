package api

import (
	"bytes"
	"context"
	"net/http"
	"regexp"
	"strings"

	"github.com/moby/moby/api/types/network"
)

// Clients look a container's networks up by the ID that its inspection shows.
// The swarm knows them under another ID than the engine: what is shown here is
// the swarm's, on workers too, where only the engine's label tells it.

// meshNetworks maps the engine's IDs of the networks that stand for ours to ours.
func (e *engine) meshNetworks(ctx context.Context) (map[string]string, error) {
	var local []network.Network
	if err := e.get(ctx, "/networks?filters="+queryEscape(`{"label":["`+meshLabel+`"]}`), &local); err != nil {
		return nil, err
	}
	ids := map[string]string{}
	for _, n := range local {
		ids[n.ID] = n.Labels[meshLabel]
	}
	return ids, nil
}

// standIn finds the engine's ID of the network that stands for one of ours, by
// our ID or a start of it that no other has; empty if there is none.
func (e *engine) standIn(ctx context.Context, ref string) string {
	ids, err := e.meshNetworks(ctx)
	if err != nil {
		return ""
	}
	var begun []string
	for engineID, id := range ids {
		if id == ref {
			return engineID
		}
		if strings.HasPrefix(id, ref) {
			begun = append(begun, engineID)
		}
	}
	if len(begun) != 1 {
		return ""
	}
	return begun[0]
}

func (s *Server) containerInspect(w http.ResponseWriter, r *http.Request) error {
	if !partOfSwarm(s.node.Status().State) {
		return s.engine.forward(w, r)
	}
	return s.withSwarmIDs(w, r, nil)
}

// containerList also understands the swarm's IDs in the filter "network".
func (s *Server) containerList(w http.ResponseWriter, r *http.Request) error {
	if !partOfSwarm(s.node.Status().State) {
		return s.engine.forward(w, r)
	}
	f, err := decodeFilters(r.URL.Query().Get("filters"))
	if err != nil || len(f["network"]) == 0 {
		return s.withSwarmIDs(w, r, nil) // the engine says what is wrong
	}
	ids, err := s.engine.meshNetworks(r.Context())
	if err != nil {
		return err
	}
	for engineID, id := range ids {
		for i, want := range f["network"] {
			if want == id {
				f["network"][i] = engineID
			}
		}
	}
	q := r.URL.Query()
	q.Set("filters", f.encode())
	u := *r.URL
	u.RawQuery = q.Encode()
	r.URL = &u
	return s.withSwarmIDs(w, r, ids)
}

// withSwarmIDs answers with the engine's answer, the IDs of our networks in it
// replaced. ids may be nil: it is asked for then.
func (s *Server) withSwarmIDs(w http.ResponseWriter, r *http.Request, ids map[string]string) error {
	status, header, body, err := s.engine.ask(r)
	if err != nil {
		return err
	}
	if status != http.StatusOK || !bytes.Contains(body, []byte(networkIDKey)) {
		return pass(w, status, header, body)
	}
	if ids == nil {
		if ids, err = s.engine.meshNetworks(r.Context()); err != nil {
			return err
		}
	}
	return pass(w, status, header, replaceNetworkIDs(body, ids))
}

const networkIDKey = `"NetworkID":"`

// replaceNetworkIDs works on the text: the engine's answer stays as it is for
// the rest, numbers and unknown fields included. Inside of a JSON string the
// key's quotes would be escaped, so only keys match.
func replaceNetworkIDs(body []byte, ids map[string]string) []byte {
	for engineID, id := range ids {
		body = bytes.ReplaceAll(body, []byte(networkIDKey+engineID+`"`), []byte(networkIDKey+id+`"`))
	}
	return hideStandIns(body)
}

// hideStandIns takes away the IPv4 addresses that an engine gives to containers on
// networks without IPv4; 240.0.0.0/4 is where nothing else is.
func hideStandIns(body []byte) []byte {
	standIn := regexp.MustCompile(`"(IPAddress|Gateway)":"2(4\d|5[0-5])\.\d+\.\d+\.\d+"`)
	return standIn.ReplaceAll(body, []byte(`"$1":""`))
}
