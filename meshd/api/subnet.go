package api

import (
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strconv"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/overlay"
	"github.com/meshd/meshd/overlay/ipam"
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
	case !v4 && !v6:
		return invalid("invalid network config: IPv4 or IPv6 must be enabled")
	}
	if err := validateIPAM(r.IPAM); err != nil || r.IPAM == nil {
		return err
	}
	for _, c := range r.IPAM.Config {
		if is4 := c.Subnet.Addr().Is4(); is4 && !v4 || !is4 && !v6 {
			return invalid("invalid network config: subnet %s is of an IP version that the network does not have; IPv6 needs --ipv6", c.Subnet)
		}
	}
	return nil
}

// ipamSerial is the one option of Docker's address management: addresses are
// handed out in turn, which ours always are.
const ipamSerial = "com.docker.network.ipam.serial"

func validateIPAM(given *network.IPAM) error {
	if given == nil {
		return nil
	}
	if given.Driver != "" && given.Driver != "default" {
		return refuse(http.StatusNotFound, "plugin %q not found", given.Driver)
	}
	for option := range given.Options {
		if option != ipamSerial {
			return invalid("invalid network config: unknown ipam option %q", option)
		}
	}
	names := map[string]bool{}
	for _, c := range given.Config {
		if err := validateIPAMConfig(c); err != nil {
			return err
		}
		for name := range c.AuxAddress {
			if names[name] {
				return invalid("invalid network config: auxiliary address %q is given twice", name)
			}
			names[name] = true
		}
	}
	return nil
}

// validateIPAMConfig checks a subnet and what is said of it. The texts are
// Docker's where it has any.
func validateIPAMConfig(c network.IPAMConfig) error {
	bad := func(format string, args ...any) error { return invalid("invalid network config: "+format, args...) }
	switch p := c.Subnet; {
	case !p.IsValid():
		return bad("a gateway, an ip-range or an auxiliary address needs a subnet that it belongs to")
	case p != p.Masked():
		return bad("invalid subnet %s: it should be %s", p, p.Masked())
	case p.Addr().BitLen()-p.Bits() < leastHostBits:
		return bad("invalid subnet %s: it has no room for tasks; /%d is the smallest", p, p.Addr().BitLen()-leastHostBits)
	case p.Bits() == 0, p.Addr().IsMulticast(), p.Addr().IsLoopback(), p.Addr().IsLinkLocalUnicast(), p.Addr().Is4In6():
		return bad("%s cannot be a subnet: its addresses are not for networks", p)
	}
	if err := validateRange(c.IPRange, c.Subnet); err != nil {
		return err
	}
	if err := validateHost("gateway", c.Gateway, c.Subnet); err != nil {
		return err
	}
	gateway := c.Gateway
	if !gateway.IsValid() {
		gateway = c.Subnet.Addr().Next()
	}
	seen := map[netip.Addr]string{gateway: "the gateway"}
	for _, name := range slices.Sorted(maps.Keys(c.AuxAddress)) {
		a := c.AuxAddress[name]
		if !a.IsValid() {
			return bad("invalid auxiliary address %q: it is empty", name)
		}
		if err := validateHost(fmt.Sprintf("auxiliary address %q", name), a, c.Subnet); err != nil {
			return err
		}
		if other := seen[a]; other != "" {
			return bad("invalid auxiliary address %q: %s is %s", name, a, other)
		}
		seen[a] = fmt.Sprintf("auxiliary address %q", name)
	}
	if s, err := ipam.NewSubnet(ipam.SubnetConfig{
		Prefix: c.Subnet, Gateway: c.Gateway, Range: c.IPRange, Reserved: slices.Collect(maps.Values(c.AuxAddress)),
	}); err != nil {
		return bad("subnet %s: %v", c.Subnet, err)
	} else if taken, of := s.Usage(); taken == of {
		return bad("subnet %s leaves no address for tasks: gateway and auxiliary addresses take all %d", c.Subnet, of)
	}
	return nil
}

func validateRange(r, subnet netip.Prefix) error {
	switch {
	case !r.IsValid():
		return nil
	case r != r.Masked():
		return invalid("invalid network config: invalid ip-range %s: it should be %s", r, r.Masked())
	case !subnet.Overlaps(r):
		return invalid("invalid network config: invalid ip-range %s: parent subnet %s doesn't contain ip-range", r, subnet)
	case r.Bits() < subnet.Bits():
		return invalid("invalid network config: invalid ip-range %s: CIDR block is bigger than its parent subnet %s", r, subnet)
	}
	return nil
}

// validateHost checks that an address is one that a host of the subnet may have.
func validateHost(what string, a netip.Addr, subnet netip.Prefix) error {
	switch {
	case !a.IsValid():
		return nil
	case !subnet.Contains(a):
		return invalid("invalid network config: invalid %s %s: parent subnet %s doesn't contain this address", what, a, subnet)
	case a == subnet.Addr() || a.Is4() && !subnet.Contains(a.Next()):
		return invalid("invalid network config: invalid %s %s: no host may have the first or the last address of subnet %s", what, a, subnet)
	}
	return nil
}

const textOverlap = "invalid pool request: Pool overlaps with other one on this address space"

// checkSubnets refuses subnets that overlap one another, another network of the
// swarm, or a range in use on this host.
func checkSubnets(given *swarm.IPAMOptions, networks []*store.Network, hosts []overlay.HostRoute) error {
	if given == nil {
		return nil
	}
	for i, c := range given.Configs {
		for _, o := range given.Configs[:i] {
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
		for _, r := range hosts {
			if c.Subnet.Overlaps(r.Prefix) {
				return invalid("%s: %s overlaps a route of this host: %s", textOverlap, c.Subnet, r)
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
