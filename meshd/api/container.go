package api

import (
	"encoding/json"
	"net/http"
)

// endpointMAC is the version since which a container's MAC address is asked for
// with its network and not with the container. Older engines ignore that, and
// would say nothing.
var endpointMAC = apiVersion{1, 44}

// containerCreate puts containers on the swarm's networks (attachment.go), and
// translates for an engine that is older than the version we advertise.
func (s *Server) containerCreate(w http.ResponseWriter, r *http.Request) error {
	body, err := wholeBody(w, r)
	if err != nil {
		return err
	}
	v, versioned := requestVersion(r.Context())
	high, _, err := s.engine.versions(r.Context())
	if err == nil && versioned && !v.less(endpointMAC) && high.less(endpointMAC) {
		body = moveMAC(body)
	}
	if done, err := s.createAttached(w, r, body); done || err != nil {
		return err
	}
	return s.engine.forward(w, withBody(r, body))
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
