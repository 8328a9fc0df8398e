package ebpf

import (
	"fmt"

	"github.com/meshd/meshd/ipvs"
)

// ServiceStats counts what a service got on this node since it was set up.
type ServiceStats struct {
	Key         ipvs.Key
	Name        string
	Connections uint64
	// Packets are those of clients after the first of each connection.
	Packets uint64
}

// Stats is a reading of all counters.
type Stats struct {
	Services []ServiceStats
	// Drops counts packets that were refused or dropped, by reason.
	Drops map[string]uint64
}

// dropReasons are those of bpf/maps.h, in order.
func dropReasons() []string {
	return []string{"no-backend", "backend-gone", "fragment", "protocol", "rewrite", "no-forwarding"}
}

// Stats reads the counters.
func (b *Balancer) Stats() (Stats, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := Stats{Drops: map[string]uint64{}}
	var err error
	for k, v := range all[serviceKey, service](b.objects.Services, &err) {
		var perCPU []counters
		if lookup := b.objects.Counters.Lookup(v.ID, &perCPU); lookup != nil {
			continue // removed meanwhile
		}
		s := ServiceStats{Key: k.key(), Name: b.names[k.key()]}
		for _, c := range perCPU {
			s.Connections += c.Connections
			s.Packets += c.Packets
		}
		out.Services = append(out.Services, s)
	}
	if err != nil {
		return out, fmt.Errorf("load balancer counters: %w", err)
	}
	for i, reason := range dropReasons() {
		var perCPU []uint64
		if err := b.objects.Drops.Lookup(uint32(i), &perCPU); err != nil {
			return out, fmt.Errorf("load balancer drops: %w", err)
		}
		for _, n := range perCPU {
			out.Drops[reason] += n
		}
	}
	return out, nil
}
