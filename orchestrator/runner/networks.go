package runner

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"github.com/meshd/meshd/orchestrator/protocol"
)

// ensureNetwork makes the engine network that stands for a cluster network,
// unless it is there. Engines before API 1.44 accept two networks of one name,
// so only one caller per network tries.
func (r *Runner) ensureNetwork(ctx context.Context, n protocol.Network) error {
	r.mu.Lock()
	known := r.networks[n.ID] != ""
	r.mu.Unlock()
	if known {
		return nil
	}
	_, err, _ := r.making.Do(n.ID, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), engineTimeout)
		defer cancel()
		id, err := r.makeNetwork(ctx, n)
		if err != nil {
			return nil, err
		}
		r.mu.Lock()
		r.networks[n.ID] = id
		r.mu.Unlock()
		return nil, nil
	})
	return err
}

func (r *Runner) makeNetwork(ctx context.Context, n protocol.Network) (string, error) {
	id, err := r.findNetwork(ctx, n)
	if err != nil || id != "" {
		return id, err
	}
	options := r.networkOptions(n)
	if !r.knowsIPv4() {
		standIn(&options, n.VNI)
	}
	res, err := r.api.NetworkCreate(ctx, n.Name, options)
	if err == nil {
		return res.ID, nil
	}
	// Somebody else may have made it meanwhile, an earlier run of this program say.
	if id, ferr := r.findNetwork(ctx, n); ferr == nil && id != "" {
		return id, nil
	}
	return "", fmt.Errorf("network %s cannot be made on the engine: %w", n.Name, plain(err))
}

// findNetwork looks for the engine network of a cluster network. One that stood
// for an earlier network of the same name makes way; anything else of that name
// is an error.
func (r *Runner) findNetwork(ctx context.Context, n protocol.Network) (string, error) {
	res, err := r.api.NetworkList(ctx, client.NetworkListOptions{Filters: client.Filters{}.Add("name", n.Name)})
	if err != nil {
		return "", plain(err)
	}
	for _, s := range res.Items {
		switch {
		case s.Name != n.Name: // the filter matches parts of names, too
		case s.Driver == r.cfg.Driver && s.Labels[labelNetwork] == n.ID:
			return s.ID, nil
		case s.Driver == r.cfg.Driver && s.Labels[labelNetwork] != "":
			if _, err := r.api.NetworkRemove(ctx, s.ID, client.NetworkRemoveOptions{}); err != nil && !errdefs.IsNotFound(err) {
				return "", fmt.Errorf("network %s of cluster network %s is in the way: %w", n.Name, s.Labels[labelNetwork], plain(err))
			}
		default:
			return "", fmt.Errorf("the engine has a network %s of its own (driver %s, ID %.12s); remove or rename it", n.Name, s.Driver, s.ID)
		}
	}
	return "", nil
}

func (r *Runner) networkOptions(n protocol.Network) client.NetworkCreateOptions {
	o := client.NetworkCreateOptions{
		Driver: r.cfg.Driver, Scope: "local", Internal: n.Internal,
		IPAM:    &network.IPAM{Driver: "default"},
		Options: map[string]string{labelNetwork: n.ID, optVNI: strconv.FormatUint(uint64(n.VNI), 10)},
		Labels:  map[string]string{labelNetwork: n.ID},
	}
	if n.Ingress {
		o.Options[optMesh] = "true"
	}
	v4, v6 := false, false
	for _, s := range n.Subnets {
		o.IPAM.Config = append(o.IPAM.Config, network.IPAMConfig{Subnet: s.Prefix, Gateway: s.Gateway})
		v4, v6 = v4 || s.Prefix.Addr().Is4(), v6 || s.Prefix.Addr().Is6()
	}
	if v6 {
		o.EnableIPv6 = &v6
	}
	if !v4 {
		o.EnableIPv4 = &v4
	}
	return o
}

// optionalIPv4 is the API version since which an engine can have networks
// without IPv4.
var optionalIPv4 = [2]int{1, 48}

// knowsIPv4 says whether the engine does; it has been spoken with before.
func (r *Runner) knowsIPv4() bool {
	var have [2]int
	_, err := fmt.Sscanf(r.api.ClientVersion(), "%d.%d", &have[0], &have[1])
	return err == nil && slices.Compare(have[:], optionalIPv4[:]) >= 0
}

// standIn gives a network without IPv4 a range for an engine that wants one, a
// different one for each network, and has the driver pass it over. The range is
// of 240.0.0.0/4, where nothing is (RFC 1112, section 4).
func standIn(o *client.NetworkCreateOptions, vni uint32) {
	const bits, reserved = 22, 0xf0 << 24
	if o.EnableIPv4 == nil {
		return
	}
	o.EnableIPv4 = nil
	var base [4]byte
	binary.BigEndian.PutUint32(base[:], reserved|vni<<(32-bits)&^uint32(reserved))
	o.IPAM.Config = append(o.IPAM.Config, network.IPAMConfig{Subnet: netip.PrefixFrom(netip.AddrFrom4(base), bits)})
	o.Options[optNoIPv4] = "true"
}

// PruneNetworks implements agent.Engine.
func (r *Runner) PruneNetworks(ctx context.Context, keep []string) error {
	res, err := r.api.NetworkList(ctx, client.NetworkListOptions{Filters: client.Filters{}.Add("label", labelNetwork)})
	if err != nil {
		return plain(err)
	}
	attached, _, err := r.Attached(ctx) // the engine does not count those that do not run
	if err != nil {
		return err
	}
	for _, c := range attached {
		for _, n := range c.Networks {
			keep = append(slices.Clip(keep), n.ID)
		}
	}
	var errs []error
	for _, s := range res.Items {
		id := s.Labels[labelNetwork]
		if s.Driver != r.cfg.Driver || slices.Contains(keep, id) {
			continue
		}
		r.mu.Lock()
		delete(r.networks, id)
		r.mu.Unlock()
		_, err := r.api.NetworkRemove(ctx, s.ID, client.NetworkRemoveOptions{})
		// Forbidden: containers are attached; conflict and not found: others were faster.
		if err != nil && !errdefs.IsPermissionDenied(err) && !errdefs.IsConflict(err) && !errdefs.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("network %s: %w", s.Name, plain(err)))
		}
	}
	return errors.Join(errs...)
}
