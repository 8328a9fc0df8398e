package api

import (
	"net/http"
	"net/netip"
	"strconv"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
)

// leastHostBits leave room for the gateway, one task and the two addresses at
// the ends.
const leastHostBits = 2

// families says which IP versions a network is to have: IPv4 unless it is
// switched off, IPv6 if it is switched on.
func families(r network.CreateRequest) (v4, v6 bool) {
	on, err := strconv.ParseBool(r.Options[store.OptionIPv4])
	v4 = err != nil || on
	if r.EnableIPv4 != nil {
		v4 = *r.EnableIPv4
	}
	return v4, r.EnableIPv6 != nil && *r.EnableIPv6
}

func validateNetwork(r network.CreateRequest) error {
	if predefined[r.Name] {
		return refuse(http.StatusForbidden, "operation is not permitted on predefined %s network", r.Name)
	}
	if err := validateName(r.Name); err != nil {
		return err
	}
	_, encrypted := r.Options["encrypted"]
	v4, v6 := families(r)
	switch {
	case r.Driver != "overlay":
		return invalid("driver %q cannot be used for networks of the swarm; use overlay", r.Driver)
	case r.Scope != "" && r.Scope != "swarm":
		return invalid("invalid network scope %q: an overlay network belongs to the swarm", r.Scope)
	case r.ConfigOnly, r.ConfigFrom != nil && r.ConfigFrom.Network != "":
		return invalid("configuration-only networks and overlay networks do not go together")
	case r.Ingress:
		return refuse(http.StatusConflict, "Ingress network (ingress) is already present")
	case encrypted:
		// Rather refuse than carry in clear what was meant to be encrypted.
		return refuse(http.StatusNotImplemented, "encrypted overlay networks are not available in this version of meshd")
	case !v4 && !v6:
		return invalid("invalid network config: IPv4 or IPv6 must be enabled")
	case r.IPAM == nil:
		return nil
	case r.IPAM.Driver != "" && r.IPAM.Driver != "default":
		return refuse(http.StatusNotFound, "plugin %q not found", r.IPAM.Driver)
	}
	for _, c := range r.IPAM.Config {
		if err := validateIPAM(c); err != nil {
			return err
		}
		if is4 := c.Subnet.Addr().Is4(); is4 && !v4 || !is4 && !v6 {
			return invalid("invalid network config: subnet %s is of an IP version that the network does not have; IPv6 needs --ipv6", c.Subnet)
		}
	}
	return nil
}

func validateIPAM(c network.IPAMConfig) error {
	switch p := c.Subnet; {
	case !p.IsValid():
		return invalid("invalid network config: a gateway or a range needs a subnet")
	case p != p.Masked():
		return invalid("invalid network config: invalid subnet %s: it should be %s", p, p.Masked())
	case p.Addr().BitLen()-p.Bits() < leastHostBits:
		return invalid("invalid network config: subnet %s has no room for tasks", p)
	case p.Bits() == 0, p.Addr().IsMulticast(), p.Addr().IsLoopback(), p.Addr().Is6() && p.Addr().IsLinkLocalUnicast(), p.Addr().Is4In6():
		return invalid("invalid network config: %s cannot be a subnet", p)
	case c.Gateway.IsValid() && !p.Contains(c.Gateway):
		return invalid("invalid network config: no matching subnet for gateway %s", c.Gateway)
	case c.IPRange.IsValid() && (!p.Contains(c.IPRange.Addr()) || c.IPRange.Bits() < p.Bits()):
		return invalid("invalid network config: no matching subnet for range %s", c.IPRange)
	}
	return nil
}

const textOverlap = "invalid pool request: Pool overlaps with other one on this address space"

// checkSubnets refuses subnets that overlap one another, another network of the
// swarm, or a range in use on this host.
func checkSubnets(ipam *swarm.IPAMOptions, networks []*store.Network, hosts []netip.Prefix) error {
	if ipam == nil {
		return nil
	}
	for i, c := range ipam.Configs {
		for _, o := range ipam.Configs[:i] {
			if c.Subnet.Overlaps(o.Subnet) {
				return invalid("%s: %s overlaps %s of the same network", textOverlap, c.Subnet, o.Subnet)
			}
		}
		for _, n := range networks {
			for _, p := range subnetsOf(n) {
				if c.Subnet.Overlaps(p) {
					return invalid("%s: %s overlaps %s of network %s", textOverlap, c.Subnet, p, n.Spec.Name)
				}
			}
		}
		for _, p := range hosts {
			if p.Bits() > 0 && c.Subnet.Overlaps(p) {
				return invalid("%s: %s overlaps the route to %s of this host", textOverlap, c.Subnet, p)
			}
		}
	}
	return nil
}

// subnetsOf lists what a network has, or has asked for.
func subnetsOf(n *store.Network) []netip.Prefix {
	var out []netip.Prefix
	for _, o := range []*swarm.IPAMOptions{n.IPAMOptions, n.Spec.IPAMOptions} {
		if o == nil {
			continue
		}
		for _, c := range o.Configs {
			if c.Subnet.IsValid() {
				out = append(out, c.Subnet)
			}
		}
	}
	return out
}
