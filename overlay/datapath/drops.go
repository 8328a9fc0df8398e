package datapath

import "fmt"

// dropReasons name the counters, in the order of enum drop_reason in bpf/maps.h.
func dropReasons() []string {
	return []string{
		"unknown-interface", // a device that no container has (any more)
		"not-ip",            // neither IPv4, IPv6 nor ARP, or cut short
		"forged-mac",        // the sender's MAC is not the container's
		"forged-address",    // the sender's address is not the container's
		"multicast",         // overlay networks carry none
		"no-endpoint",       // nobody has the destination address
		"isolated",          // container to container on the mesh network
		"foreign-network",   // a network that the container is not on
		"unknown-peer",      // tunnelled by a node that is not of the cluster
		"no-tunnel",         // the tunnel device is missing
		"arp",               // ARP that needs no answer
		"not-encrypted",     // of an encrypted network, but in the clear, or to a node that has no key yet
	}
}

// Drops counts the packets dropped since the maps were made, by reason.
func (d *Datapath) Drops() (map[string]uint64, error) {
	out := map[string]uint64{}
	for i, reason := range dropReasons() {
		var perCPU []uint64
		if err := d.obj.MeshDrops.Lookup(uint32(i), &perCPU); err != nil {
			return nil, fmt.Errorf("drops: %w", err)
		}
		for _, n := range perCPU {
			out[reason] += n
		}
	}
	return out, nil
}
