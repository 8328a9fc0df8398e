package meshd

import (
	"fmt"
	"iter"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/meshd/meshd/dns"
	"github.com/meshd/meshd/orchestrator/remote"
	"github.com/meshd/meshd/overlay"
)

// The texts of these two errors are Docker's: its client adds a hint to them.
const (
	errNoAddress       = "could not find the system's IP address"
	errManyAddresses   = "could not choose an IP address to advertise since this system has multiple addresses"
	errManyOnInterface = "could not choose an IP address to advertise since interface %s has multiple addresses"
)

// hostInterface is what address selection needs of a network interface.
type hostInterface struct {
	Name  string
	Addrs []netip.Addr
}

// hostInterfaces lists the interfaces that are up, with their usable addresses:
// no loopback, no link-local ones, none of our own devices.
func hostInterfaces() ([]hostInterface, error) {
	return interfaces(func(i net.Interface) bool { return i.Flags&net.FlagUp == 0 || ownDevice(i.Name) })
}

// publishedInterfaces are those that published ports answer on: the machine's, and
// behind them the engine's bridges, from which containers call that are on none of
// our networks. A bridge counts when it is down, too: the engine brings it up after
// it has its address.
func publishedInterfaces() ([]hostInterface, error) {
	all, err := interfaces(func(i net.Interface) bool {
		return strings.HasPrefix(i.Name, "mesh") || strings.HasPrefix(i.Name, "mv") || i.Flags&net.FlagUp == 0 && !ownDevice(i.Name)
	})
	slices.SortStableFunc(all, func(a, b hostInterface) int {
		switch x, y := ownDevice(a.Name), ownDevice(b.Name); {
		case x == y:
			return 0
		case y:
			return -1
		}
		return 1
	})
	return all, err
}

func interfaces(skip func(net.Interface) bool) ([]hostInterface, error) {
	ifs, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list network interfaces: %w", err)
	}
	var out []hostInterface
	for _, i := range ifs {
		if i.Flags&net.FlagLoopback != 0 || skip(i) {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue // the interface has just gone
		}
		h := hostInterface{Name: i.Name}
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err == nil && p.Addr().IsGlobalUnicast() {
				h.Addrs = append(h.Addrs, p.Addr().Unmap())
			}
		}
		if len(h.Addrs) > 0 {
			out = append(out, h)
		}
	}
	return out, nil
}

// ownDevice tells the data plane's devices, and the engine's bridges, from the machine's.
func ownDevice(name string) bool {
	for _, prefix := range []string{"mesh", "mv", "docker", "br-", "veth"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// resolveAddress turns what a user gave for an address (an IP, an interface's
// name, or nothing) with an optional port into an address of this machine.
func resolveAddress(given string, defaultPort uint16, ifs []hostInterface) (netip.AddrPort, error) {
	host, port, err := splitPort(given, defaultPort)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return netip.AddrPortFrom(addr.Unmap(), port), nil
	}
	if host != "" {
		return interfaceAddress(host, port, ifs)
	}
	var found []netip.Addr
	for _, i := range ifs {
		found = append(found, i.Addrs...)
	}
	return single(found, port, errManyAddresses)
}

func interfaceAddress(name string, port uint16, ifs []hostInterface) (netip.AddrPort, error) {
	for _, i := range ifs {
		if i.Name == name {
			return single(i.Addrs, port, fmt.Sprintf(errManyOnInterface, name))
		}
	}
	return netip.AddrPort{}, invalid("invalid address %q: neither an IP address nor an interface of this machine", name)
}

// single takes the only IPv4 address, else the only IPv6 address.
func single(addrs []netip.Addr, port uint16, many string) (netip.AddrPort, error) {
	var v4, v6 []netip.Addr
	for _, a := range addrs {
		if a.Is4() {
			v4 = append(v4, a)
		} else {
			v6 = append(v6, a)
		}
	}
	for _, family := range [][]netip.Addr{v4, v6} {
		switch {
		case len(family) == 1:
			return netip.AddrPortFrom(family[0], port), nil
		case len(family) > 1:
			return netip.AddrPort{}, invalid("%s (%s) - specify one with --advertise-addr", many, joinAddrs(family))
		}
	}
	return netip.AddrPort{}, invalid("%s - specify one with --advertise-addr", errNoAddress)
}

// meshSubnets are the ranges that the routing mesh may take, best first.
func meshSubnets(yield func(netip.Prefix) bool) {
	const first, last = 255, 192
	for b := first; b >= last; b-- {
		if !yield(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(b)}), 16)) {
			return
		}
	}
}

// freeMeshSubnet returns the first range that this machine has no other use
// for: no route leads there, and none of its resolvers lives there. It takes
// nothing of the pools that the user named for networks if it can be helped.
// If a range was chosen, it has to be free of routes.
func freeMeshSubnet(chosen netip.Prefix, pools []netip.Prefix) (netip.Prefix, error) {
	routes, err := overlay.HostRoutes()
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("look for a free range for the routing mesh: %w", err)
	}
	var taken []netip.Prefix
	for _, r := range routes {
		if chosen.IsValid() && !r.Wide() && r.Prefix.Overlaps(chosen) {
			return chosen, invalid("--mesh-subnet %s overlaps a route of this host: %s", chosen, r)
		}
		taken = append(taken, r.Prefix)
	}
	if chosen.IsValid() {
		return chosen, nil
	}
	for _, r := range dns.SystemUpstreams(systemResolvConf) {
		taken = append(taken, netip.PrefixFrom(r.Addr(), r.Addr().BitLen()))
	}
	if p, err := firstFree(meshSubnets, slices.Concat(pools, taken)); err == nil {
		return p, nil
	}
	return firstFree(meshSubnets, taken)
}

// checkMeshSubnet says what is wrong with a range that was chosen for the mesh network.
func checkMeshSubnet(p netip.Prefix) error {
	const largest, smallest = 8, 24
	if !p.IsValid() || p.Addr().Is4() && p == p.Masked() && p.Bits() >= largest && p.Bits() <= smallest {
		return nil
	}
	return fmt.Errorf("--mesh-subnet %s: must be an IPv4 range between a /%d and a /%d, such as 10.240.0.0/12", p, largest, smallest)
}

func firstFree(candidates iter.Seq[netip.Prefix], taken []netip.Prefix) (netip.Prefix, error) {
	for p := range candidates {
		if !slices.ContainsFunc(taken, p.Overlaps) {
			return p, nil
		}
	}
	return netip.Prefix{}, invalid("no /16 within 10.192.0.0/10 is free of this machine's routes and resolvers; the routing mesh needs one")
}

func joinAddrs(addrs []netip.Addr) string {
	s := make([]string, len(addrs))
	for i, a := range addrs {
		s[i] = a.String()
	}
	return strings.Join(s, ", ")
}

func splitPort(given string, defaultPort uint16) (host string, port uint16, err error) {
	host, text, err := net.SplitHostPort(given)
	if err != nil {
		return strings.Trim(given, "[]"), defaultPort, nil
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return "", 0, invalid("invalid port %q in address %q", text, given)
	}
	return host, uint16(n), nil
}

func invalid(format string, args ...any) error {
	return remote.Errorf(errdefs.ErrInvalidArgument, format, args...)
}
