package ipvs

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Plan turns one State into another. Its steps are to be done in the order of its
// fields: what is new stands before what is old goes.
type Plan struct {
	// AddAddrs are addresses of the node that begin to answer.
	AddAddrs []netip.Addr
	// Put are services that are new or have other backends than before.
	Put []Service
	// PublishedChanged tells that the set of published ports is another.
	PublishedChanged bool
	// MeshChanged tells that MeshVNI, MeshAddr, TunnelAddr, or the first of NodeAddrs of an
	// IP version, is another.
	MeshChanged bool
	// PutClients are containers that are new or have other addresses than before.
	PutClients []Client
	// RemoveClients are addresses that no container has any more.
	RemoveClients []ClientAddr
	Remove        []Key
	RemoveAddrs   []netip.Addr
}

// Empty tells that there is nothing to do.
func (p Plan) Empty() bool {
	return len(p.AddAddrs)+len(p.Put)+len(p.Remove)+len(p.RemoveAddrs)+len(p.PutClients)+len(p.RemoveClients) == 0 &&
		!p.PublishedChanged && !p.MeshChanged
}

// Diff plans the way from one normalized state to another. Names do not matter.
func Diff(have, want State) Plan {
	var p Plan
	held := make(map[Key]Service, len(have.Services))
	for _, s := range have.Services {
		held[s.Key] = s
	}
	wanted := make(map[Key]bool, len(want.Services))
	for _, s := range want.Services {
		wanted[s.Key] = true
		old, ok := held[s.Key]
		if !ok || !sameBalance(old, s) {
			p.Put = append(p.Put, s)
		}
		p.PublishedChanged = p.PublishedChanged || !ok && s.Published()
	}
	for _, s := range have.Services {
		if !wanted[s.Key] {
			p.Remove = append(p.Remove, s.Key)
			p.PublishedChanged = p.PublishedChanged || s.Published()
		}
	}
	p.AddAddrs = without(want.NodeAddrs, have.NodeAddrs)
	p.RemoveAddrs = without(have.NodeAddrs, want.NodeAddrs)
	p.diffClients(have.Clients, want.Clients)
	p.MeshChanged = have.MeshVNI != want.MeshVNI || have.Loopback4() != want.Loopback4() || have.Loopback6() != want.Loopback6() ||
		have.TunnelAddr != want.TunnelAddr
	return p
}

func sameBalance(a, b Service) bool {
	return a.Algorithm == b.Algorithm && a.Affinity == b.Affinity && a.PreferLocal == b.PreferLocal && a.LocalOnly == b.LocalOnly &&
		a.DirectReturn == b.DirectReturn && a.Ejection == b.Ejection && slices.Equal(a.Backends, b.Backends)
}

func (p *Plan) diffClients(have, want []Client) {
	held := byAddr(have)
	for _, c := range want {
		// Each address counts: another process may have died between two of them.
		if slices.ContainsFunc(c.Addrs, func(a ClientAddr) bool { return !slices.Equal(held[a].Addrs, c.Addrs) }) {
			p.PutClients = append(p.PutClients, c)
		}
	}
	wanted := byAddr(want)
	for _, c := range have {
		for _, a := range c.Addrs {
			if _, ok := wanted[a]; !ok {
				p.RemoveClients = append(p.RemoveClients, a)
			}
		}
	}
}

func byAddr(clients []Client) map[ClientAddr]Client {
	out := map[ClientAddr]Client{}
	for _, c := range clients {
		for _, a := range c.Addrs {
			out[a] = c
		}
	}
	return out
}

// Published tells whether the key is a published port and not a VIP.
func (k Key) Published() bool {
	return k.Port != 0 || !k.VIP.IsValid() || k.VIP == netip.IPv6Unspecified()
}

// Everywhere tells whether a published port answers on all addresses of its IP version.
func (k Key) Everywhere() bool { return !k.VIP.IsValid() || k.VIP == netip.IPv6Unspecified() }

// Loopback4 is where connections to 127.0.0.1 go: the node's first IPv4 address, or the
// one that it has on the mesh network.
func (s State) Loopback4() netip.Addr {
	if i := slices.IndexFunc(s.NodeAddrs, netip.Addr.Is4); i >= 0 {
		return s.NodeAddrs[i]
	}
	return s.MeshAddr
}

// Loopback6 is where connections to ::1 go: the node's first IPv6 address. Invalid: to
// Loopback4.
func (s State) Loopback6() netip.Addr {
	if i := slices.IndexFunc(s.NodeAddrs, netip.Addr.Is6); i >= 0 {
		return s.NodeAddrs[i]
	}
	return netip.Addr{}
}

// Normalize returns the state in the one form that equal states share: services
// and backends in order, IPv4 addresses unmapped, nothing twice. NodeAddrs keep
// their order, since the first one counts. It fails on a service that no
// Balancer could hold.
func Normalize(s State) (State, error) {
	out := State{MeshVNI: s.MeshVNI, TunnelLimit: s.TunnelLimit}
	for _, a := range s.NodeAddrs {
		if a = a.Unmap(); a.IsValid() && !slices.Contains(out.NodeAddrs, a) {
			out.NodeAddrs = append(out.NodeAddrs, a)
		}
	}
	if out.MeshAddr = s.MeshAddr; slices.ContainsFunc(out.NodeAddrs, netip.Addr.Is4) {
		out.MeshAddr = netip.Addr{} // which is not needed
	}
	if a := s.TunnelAddr.Unmap(); slices.Contains(out.NodeAddrs, a) {
		out.TunnelAddr = a
	}
	seen := make(map[Key]string, len(s.Services))
	for _, svc := range s.Services {
		n, err := normalizeService(svc)
		if err != nil {
			return State{}, fmt.Errorf("service %q: %w", svc.Name, err)
		}
		if other, ok := seen[n.Key]; ok {
			return State{}, fmt.Errorf("services %q and %q have the same key %s", other, svc.Name, n.Key)
		}
		seen[n.Key] = svc.Name
		out.Services = append(out.Services, n)
	}
	slices.SortFunc(out.Services, func(a, b Service) int { return compareKeys(a.Key, b.Key) })
	var err error
	out.Clients, err = normalizeClients(s.Clients)
	return out, err
}

func normalizeClients(clients []Client) ([]Client, error) {
	var out []Client
	taken := map[ClientAddr]bool{}
	for _, c := range clients {
		addrs := make([]ClientAddr, 0, len(c.Addrs))
		for _, a := range c.Addrs {
			addrs = append(addrs, ClientAddr{a.VNI, a.Addr.Unmap()})
		}
		slices.SortFunc(addrs, compareClientAddrs)
		addrs = slices.Compact(addrs)
		for _, a := range addrs {
			if !a.Addr.IsValid() || taken[a] {
				return nil, fmt.Errorf("address %s on network %d: of two containers, or none", a.Addr, a.VNI)
			}
			taken[a] = true
		}
		if len(addrs) > 0 {
			out = append(out, Client{addrs})
		}
	}
	slices.SortFunc(out, func(a, b Client) int { return compareClientAddrs(a.Addrs[0], b.Addrs[0]) })
	return out, nil
}

func compareClientAddrs(a, b ClientAddr) int {
	return cmp.Or(cmp.Compare(a.VNI, b.VNI), a.Addr.Compare(b.Addr))
}

// String gives the key as people write it.
func (k Key) String() string {
	if k.Published() {
		family := ""
		switch {
		case !k.Everywhere():
			family = " at " + k.VIP.String()
		case k.VIP.IsValid():
			family = " (IPv6)"
		}
		return fmt.Sprintf("published %d/%d%s on network %d", k.Port, k.Protocol, family, k.VNI)
	}
	return fmt.Sprintf("VIP %s on network %d", k.VIP, k.VNI)
}

func normalizeService(s Service) (Service, error) {
	s.VIP = s.VIP.Unmap()
	if s.Algorithm == "" {
		s.Algorithm = Random2
	}
	if err := errors.Join(checkKey(s.Key), checkChoice(s)); err != nil {
		return s, err
	}
	backends := make([]Backend, 0, len(s.Backends))
	for _, b := range s.Backends {
		if !b.Addr.IsValid() {
			return s, fmt.Errorf("a backend of %s has no address", s.Key)
		}
		if b.Weight > MaxWeight {
			return s, fmt.Errorf("backend %s of %s has weight %d, more than %d", b.Addr, s.Key, b.Weight, MaxWeight)
		}
		b.Addr, b.Weight = b.Addr.Unmap(), max(b.Weight, 1)
		b.Draining = b.Draining || b.Away
		if b.Addr.Is4() != (s.VIP.Is4() || !s.VIP.IsValid()) {
			return s, fmt.Errorf("backend %s of %s is of another IP version", b.Addr, s.Key)
		}
		backends = append(backends, b)
	}
	// One that both serves and drains serves: it sorts first and wins.
	slices.SortFunc(backends, compareBackends)
	s.Backends = slices.CompactFunc(backends, func(a, b Backend) bool { return a.Addr == b.Addr && a.Port == b.Port })
	return s, nil
}

func checkChoice(s Service) error {
	switch {
	case !slices.Contains(Algorithms(), s.Algorithm):
		return fmt.Errorf("unknown algorithm %q", s.Algorithm)
	case s.Affinity < 0 || s.Affinity > MaxAffinity || s.Affinity%time.Second != 0:
		return fmt.Errorf("affinity of %v: must be whole seconds, at most %v", s.Affinity, MaxAffinity)
	}
	return checkEjection(s.Ejection)
}

func checkEjection(e Ejection) error {
	if e == (Ejection{}) {
		return nil
	}
	if e.After < 1 || e.After > MaxFailures {
		return fmt.Errorf("ejection after %d failures: must be 1 to %d", e.After, MaxFailures)
	}
	for _, d := range []time.Duration{e.Within, e.First, e.Longest} {
		if d < time.Second || d > MaxEjection || d%time.Second != 0 {
			return fmt.Errorf("ejection with a time of %v: must be whole seconds, 1s to %v", d, MaxEjection)
		}
	}
	if e.Longest < e.First {
		return fmt.Errorf("ejection for at most %v, which is less than %v, the first one", e.Longest, e.First)
	}
	return nil
}

func checkKey(k Key) error {
	switch {
	case k.VNI == 0 || k.VNI >= 1<<24:
		return fmt.Errorf("network identifier %d is not one of a VXLAN (RFC 7348)", k.VNI)
	case k.Published() && (k.Port == 0 || k.Protocol != TCP && k.Protocol != UDP):
		return fmt.Errorf("published port %d of protocol %d: neither TCP nor UDP, or no port", k.Port, k.Protocol)
	case !k.Published() && k.Protocol != AnyProtocol:
		return fmt.Errorf("VIP %s with a protocol: VIPs pass all of them", k.VIP)
	}
	return nil
}

func compareKeys(a, b Key) int {
	return cmp.Or(cmp.Compare(a.VNI, b.VNI), a.VIP.Compare(b.VIP), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
}

func compareBackends(a, b Backend) int {
	draining := func(b Backend) int {
		if b.Draining {
			return 1
		}
		return 0
	}
	return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port), cmp.Compare(draining(a), draining(b)))
}

// without returns those of a that are not in b.
func without(a, b []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, x := range a {
		if !slices.Contains(b, x) {
			out = append(out, x)
		}
	}
	return out
}
