package ebpf

import (
	"fmt"

	"github.com/meshd/meshd/ipvs"
)

// algorithms are those of enum algorithm, in order.
func algorithms() []ipvs.Algorithm { return ipvs.Algorithms() }

// slotsOf lists what the programs pick from: all is so often there that picking
// evenly is right. Where connections are compared, they are so by weight.
func slotsOf(s ipvs.Service) []slot {
	backends := s.Choosable()
	var order []int
	switch s.Algorithm {
	case ipvs.Maglev:
		order = ipvs.MaglevTable(backends)
	case ipvs.LeastConn:
		for i := range backends {
			order = append(order, i)
		}
	default:
		order = turns(backends)
	}
	out := make([]slot, 0, len(order))
	for _, i := range order {
		b := backends[i]
		out = append(out, slot{Addr: addrOf(b.Addr), Port: portOf(b.Port), Weight: max(b.Weight, 1)})
	}
	return out
}

// turns is a round in which each backend has as many turns as it weighs, spread
// evenly (smooth weighted round-robin, as nginx has it).
func turns(backends []ipvs.Backend) []int {
	total, divisor := 0, 0
	for _, b := range backends {
		divisor = gcd(divisor, int(max(b.Weight, 1)))
	}
	weights := make([]int, len(backends))
	for i, b := range backends {
		weights[i] = int(max(b.Weight, 1)) / divisor
		total += weights[i]
	}
	out, credit := make([]int, 0, total), make([]int, len(backends))
	for range total {
		best := 0
		for i, w := range weights {
			credit[i] += w
			if credit[i] > credit[best] {
				best = i
			}
		}
		credit[best] -= total
		out = append(out, best)
	}
	return out
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// liveSeconds is how long a silent connection counts as one: an idle one costs its
// backend nothing, and one whose end nobody saw looks the same.
const liveSeconds = 300

// recount sets the connections of each backend to what the map of flows says: ends
// may have been missed, entries pushed out. A connection that the backend never
// answered is none: its client gave up, and nobody tells. While a node is cut off
// each of its backends collects some, and would be passed over for minutes after.
func (b *Balancer) recount(t *table) error {
	uptime, err := secondsSinceBoot()
	if err != nil {
		return err
	}
	found := map[backendKey]int32{}
	for k, f := range all[flowKey, flow](b.objects.Flows, &err) {
		if k.Direction == forwardFlow && k.Proto == uint8(ipvs.TCP) && f.Flags&(flowAccepted|flowClosing) == flowAccepted &&
			uptime-int64(f.Seen) < liveSeconds {
			found[backendKey{Service: f.Service, Addr: f.Dst, Port: f.BackendPort}]++
		}
	}
	if err != nil {
		return fmt.Errorf("count connections: %w", err)
	}
	for _, e := range t.held {
		for _, v := range e.Backends {
			key := backendKeyOf(e.id.ID, v)
			if err := put(t.maps.Loads, key, found[key]); err != nil {
				return fmt.Errorf("connections of %s: %w", v.Addr, err)
			}
		}
	}
	return nil
}
