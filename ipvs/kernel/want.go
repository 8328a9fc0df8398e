package kernel

import (
	"cmp"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/meshd/meshd/ipvs"
)

// key is one VIP's service of one protocol.
type key struct {
	vip netip.Addr
	udp bool
}

// service is what IPVS is told of one.
type service struct {
	scheduler string
	flags     uint32
	// timeout is how long clients stay with their backends in seconds; only with flagPersistent.
	timeout uint32
	weights map[netip.Addr]int
}

func (s service) equal(o service) bool { return s.sameOptions(o) && maps.Equal(s.weights, o.weights) }

func (s service) sameOptions(o service) bool {
	return s.scheduler == o.scheduler && s.flags == o.flags && s.timeout == o.timeout
}

// Flags of a service (linux/ip_vs.h).
const (
	flagPersistent = 0x0001
	flagHashed     = 0x0002 // the kernel's own: in its table
	// mh: take another backend where the chosen one has weight 0, and hash the port, too.
	flagMaglevFallback = 0x0008
	flagMaglevPort     = 0x0010
)

// wanted is what one container's namespace is to hold.
func wanted(s ipvs.State, c ipvs.Client) map[key]service {
	out := map[key]service{}
	for _, svc := range s.Services {
		if svc.Published() || !slices.ContainsFunc(c.Addrs, func(a ipvs.ClientAddr) bool { return a.VNI == svc.VNI }) {
			continue
		}
		for _, udp := range []bool{false, true} {
			out[key{svc.VIP, udp}] = translate(svc, udp)
		}
	}
	return out
}

func translate(s ipvs.Service, udp bool) service {
	out := service{weights: map[netip.Addr]int{}}
	out.scheduler, out.flags = scheduler(s)
	if s.Affinity > 0 && s.Algorithm != ipvs.Maglev {
		out.flags |= flagPersistent
		out.timeout = uint32(s.Affinity / time.Second)
	}
	for _, b := range s.Backends {
		if !udp || !b.Away {
			out.weights[b.Addr] = 0 // keeps connections and gets no new ones
		}
	}
	for _, b := range s.Choosable() {
		out.weights[b.Addr] = int(b.Weight)
	}
	return out
}

// scheduler maps an algorithm. In one namespace there is one client, so that two choices at random would tell no more than turns do.
// wrr and wlc are rr and lc with weights. Maglev with affinity goes by the client's address alone, as sh does; but sh deals all clients
// anew when a backend comes or goes, mh without ports leaves nearly all where they are.
func scheduler(s ipvs.Service) (name string, flags uint32) {
	switch {
	case s.Algorithm == ipvs.LeastConn:
		return "wlc", 0
	case s.Algorithm == ipvs.Maglev && s.Affinity > 0:
		return "mh", flagMaglevFallback
	case s.Algorithm == ipvs.Maglev:
		return "mh", flagMaglevFallback | flagMaglevPort
	}
	return "wrr", 0
}

// order is the order in which a container's backends are put in: another one in each container.
func order(backends []netip.Addr, c ipvs.Client) []netip.Addr {
	place := func(a netip.Addr) uint32 {
		h := fnv.New32a()
		h.Write(c.Addrs[0].Addr.AsSlice())
		h.Write(a.AsSlice())
		return h.Sum32()
	}
	return slices.SortedFunc(slices.Values(backends), func(a, b netip.Addr) int {
		return cmp.Or(cmp.Compare(place(a), place(b)), a.Compare(b))
	})
}
