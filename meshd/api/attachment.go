package api

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/network"
)

// networksOf lists the networks that a request to create a container names. What
// cannot be read is left to the engine.
func networksOf(body []byte) []string {
	var spec struct {
		HostConfig       struct{ NetworkMode string }
		NetworkingConfig struct {
			EndpointsConfig map[string]json.RawMessage
		}
	}
	if json.Unmarshal(body, &spec) != nil {
		return nil
	}
	names := slices.Collect(maps.Keys(spec.NetworkingConfig.EndpointsConfig))
	names = append(names, spec.HostConfig.NetworkMode)
	slices.Sort(names)
	return slices.DeleteFunc(slices.Compact(names), func(name string) bool {
		return name == "" || name == network.NetworkDefault || predefined[name] || strings.HasPrefix(name, "container:")
	})
}

// refuseAttachment says why a container that is no task cannot be on a network
// of the swarm; nil if the network is none of the swarm's. Addresses are the
// allocator's to give: one that the engine picks may be a task's or a VIP.
//
// The engine is asked first, so that local networks need no quorum.
func (s *Server) refuseAttachment(ctx context.Context, ref string) error {
	name := ref
	local, err := s.engine.network(ctx, ref)
	if err == nil {
		if local.Labels[meshLabel] == "" {
			return nil
		}
		name, ref = local.Name, local.Labels[meshLabel]
	}
	n, storeErr := s.swarmNetwork(ctx, ref)
	switch {
	case n != nil && !n.Spec.Attachable:
		return refuse(http.StatusForbidden, "Could not attach to network %s: rpc error: code = PermissionDenied desc = network %s not manually attachable", n.Spec.Name, n.Spec.Name)
	case n != nil:
		name = n.Spec.Name
	case err != nil:
		return storeErr // or nobody knows it, which the engine says itself
	}
	return refuse(http.StatusNotImplemented, "Could not attach to network %s: containers outside of services cannot be on an overlay network in this version of meshd; use \"docker service create --network %s\"", name, name)
}
