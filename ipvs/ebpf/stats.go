package ebpf

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/meshd/meshd/ipvs"
)

// Counts are what this node saw of the connections that it leads. Connections of a
// task to itself do not come by.
type Counts struct {
	Connections uint64
	// Packets and Bytes are those of clients, the Answer ones those of backends: IP
	// packets with their headers, as they left or reached the container.
	Packets, Bytes, AnswerPackets, AnswerBytes uint64
	// Refusals of connections or datagrams by the backend's machine; Timeouts are
	// connections whose first packet had to be sent again; Resets ended connections
	// that nobody had begun to close.
	Refusals, Timeouts, Resets uint64
}

// ServiceStats counts what a service got on this node since it was set up. Its own
// counts include those of backends that are gone.
type ServiceStats struct {
	Key  ipvs.Key
	Name string
	Counts
	// Refused counts what was led to no backend, by reason.
	Refused  map[string]uint64
	Backends []BackendStats
}

// BackendStats counts what a backend got, since its first connection.
type BackendStats struct {
	Addr netip.Addr
	// Port is zero where the client's own is kept.
	Port uint16
	Counts
}

// Stats is a reading of all counters.
type Stats struct {
	Services []ServiceStats
	// Drops counts packets that were refused or dropped, by reason.
	Drops map[string]uint64
}

// dropReasons are those of bpf/maps.h, in order.
func dropReasons() []string {
	return []string{"no-backend", "backend-gone", "fragment", "protocol", "rewrite", "no-forwarding", "too-big"}
}

// Stats reads the counters.
func (b *Balancer) Stats() (Stats, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := Stats{Drops: map[string]uint64{}}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return out, fmt.Errorf("load balancer counters: %w", err)
	}
	at := map[uint32]int{}
	for k, v := range all[serviceKey, service](b.objects.Services, &err) {
		at[v.ID] = len(out.Services)
		out.Services = append(out.Services, ServiceStats{Key: k.key(), Name: b.names[k.key()], Refused: map[string]uint64{}})
	}
	sums := map[backendKey]counters{}
	for k, v := range allOn[backendKey, counters](b.objects.Counters, cpus, &err) {
		sum := sums[k]
		sum.add(v)
		sums[k] = sum
	}
	for k, sum := range sums {
		if i, ok := at[k.Service]; ok {
			out.Services[i].count(k, Counts(sum))
		}
	}
	reasons := dropReasons()
	for k, n := range allOn[refusalKey, uint64](b.objects.Refusals, cpus, &err) {
		if i, ok := at[k.Service]; ok && int(k.Reason) < len(reasons) {
			out.Services[i].Refused[reasons[k.Reason]] += n
		}
	}
	if err != nil {
		return out, fmt.Errorf("load balancer counters: %w", err)
	}
	for i, s := range out.Services {
		slices.SortFunc(s.Backends, func(a, b BackendStats) int {
			return netip.AddrPortFrom(a.Addr, a.Port).Compare(netip.AddrPortFrom(b.Addr, b.Port))
		})
		out.Services[i] = s
	}
	return out, b.readDrops(out.Drops)
}

func (b *Balancer) readDrops(into map[string]uint64) error {
	for i, reason := range dropReasons() {
		var perCPU []uint64
		if err := b.objects.Drops.Lookup(uint32(i), &perCPU); err != nil {
			return fmt.Errorf("load balancer drops: %w", err)
		}
		for _, n := range perCPU {
			into[reason] += n
		}
	}
	return nil
}

// count adds what an entry of the map counters says; that of no address is of former backends.
func (s *ServiceStats) count(k backendKey, n Counts) {
	total := counters(s.Counts)
	total.add(counters(n))
	s.Counts = Counts(total)
	if k.Addr != (addr{}) {
		s.Backends = append(s.Backends, BackendStats{k.Addr.netip(), k.Port.number(), n})
	}
}

func (c *counters) add(o counters) {
	c.Connections += o.Connections
	c.Packets += o.Packets
	c.Bytes += o.Bytes
	c.AnswerPackets += o.AnswerPackets
	c.AnswerBytes += o.AnswerBytes
	c.Refusals += o.Refusals
	c.Timeouts += o.Timeouts
	c.Resets += o.Resets
}
