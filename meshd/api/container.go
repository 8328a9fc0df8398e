package api

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
)

// endpointMAC is the version since which a container's MAC address is asked for
// with its network and not with the container. Older engines ignore that, and
// would say nothing.
var endpointMAC = apiVersion{1, 44}

// containerCreate keeps containers that are no tasks off the swarm's networks,
// and translates for an engine that is older than the version we advertise.
func (s *Server) containerCreate(w http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return err
	}
	if partOfSwarm(s.node.Status().State) {
		for _, name := range networksOf(body) {
			if err := s.refuseAttachment(r.Context(), name); err != nil {
				return err
			}
		}
	}
	v, versioned := requestVersion(r.Context())
	high, _, err := s.engine.versions(r.Context())
	if err == nil && versioned && !v.less(endpointMAC) && high.less(endpointMAC) {
		body = moveMAC(body)
	}
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return s.engine.forward(w, r)
}

// moveMAC turns the newer form of the request into the older one. What it does
// not understand it leaves to the engine.
func moveMAC(body []byte) []byte {
	var spec map[string]json.RawMessage
	var networking struct {
		EndpointsConfig map[string]struct{ MacAddress string }
	}
	var mac string
	if json.Unmarshal(body, &spec) != nil || json.Unmarshal(spec["NetworkingConfig"], &networking) != nil || len(networking.EndpointsConfig) != 1 {
		return body
	}
	for _, e := range networking.EndpointsConfig {
		mac = e.MacAddress
	}
	if mac == "" {
		return body
	}
	spec["MacAddress"], _ = json.Marshal(mac) // strings always encode
	out, err := json.Marshal(spec)
	if err != nil {
		return body
	}
	return out
}
