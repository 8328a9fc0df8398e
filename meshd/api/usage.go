package api

import (
	"net/netip"

	"github.com/moby/moby/api/types/network"

	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/tasklife"
	"github.com/meshd/meshd/overlay/ipam"
)

// usage says how many addresses of a network are in use and how many are left, as
// the engine does of its own networks: what no host may have counts as in use.
func usage(v *store.View, n *store.Network) *network.Status {
	if n.IPAMOptions == nil {
		return nil
	}
	var subnets []*ipam.Subnet
	for _, c := range n.IPAMOptions.Configs {
		conf := ipam.SubnetConfig{Prefix: c.Subnet, Gateway: c.Gateway, Range: c.Range}
		for _, a := range n.Aux {
			if c.Subnet.Contains(a) {
				conf.Reserved = append(conf.Reserved, a)
			}
		}
		if s, err := ipam.NewSubnet(conf); err == nil {
			subnets = append(subnets, s)
		}
	}
	take := func(p netip.Prefix) {
		for _, s := range subnets {
			if s.Prefix().Contains(p.Addr()) {
				_ = s.Reserve(p.Addr()) // a slot's address may be named twice: by its task and its former one
			}
		}
	}
	for _, s := range v.Services() {
		for _, vip := range s.Endpoint.VirtualIPs {
			if vip.NetworkID == n.ID {
				take(vip.Addr)
			}
		}
	}
	for _, t := range v.TasksOnNetwork(n.ID) {
		for _, a := range t.NetworksAttachments {
			for _, p := range a.Addresses {
				if a.Network.ID == n.ID && !tasklife.Ended(t) {
					take(p)
				}
			}
		}
	}
	out := network.SubnetStatuses{}
	for _, s := range subnets {
		ends := uint64(1) // the subnet-router anycast address
		if s.Prefix().Addr().Is4() {
			ends = 2
		}
		taken, of := s.Usage()
		out[s.Prefix()] = network.SubnetStatus{IPsInUse: uint64(s.Used()) + ends, DynamicIPsAvailable: of - taken}
	}
	return &network.Status{IPAM: network.IPAMStatus{Subnets: out}}
}
