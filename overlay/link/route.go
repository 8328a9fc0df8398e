package link

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Route is the way from the node to one container.
type Route struct {
	Ifindex int
	// Source is the address that the node's own packets carry; may be unset.
	Source netip.Addr
}

// Routes lists our routes.
func (d *Door) Routes() (map[netip.Addr]Route, error) {
	routes, err := dump(func() ([]netlink.Route, error) {
		return d.h.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	out := map[netip.Addr]Route{}
	for _, r := range routes {
		if r.Dst != nil {
			out[addr(r.Dst.IP)] = Route{Ifindex: r.LinkIndex, Source: addr(r.Src)}
		}
	}
	return out, nil
}

// PutRoute sets the way to one address.
func (d *Door) PutRoute(to netip.Addr, r Route) error {
	if err := d.speak6At(to, r.Ifindex); err != nil {
		return err
	}
	route := hostRoute(to)
	route.LinkIndex, route.Scope = r.Ifindex, netlink.SCOPE_LINK
	if r.Source.IsValid() {
		route.Src = r.Source.AsSlice()
	}
	if err := d.h.RouteReplace(route); err != nil {
		return fmt.Errorf("route to %s: %w", to, err)
	}
	return nil
}

// speak6At prepares a device of ours for an address, if it is IPv6.
func (d *Door) speak6At(a netip.Addr, ifindex int) error {
	if a.Is4() {
		return nil
	}
	l, err := d.h.LinkByIndex(ifindex)
	if err != nil {
		return fmt.Errorf("device %d: %w", ifindex, err)
	}
	return speak6(l.Attrs().Name)
}

// DeleteRoute removes our route to an address; none is no error.
func (d *Door) DeleteRoute(to netip.Addr) error {
	if err := d.h.RouteDel(hostRoute(to)); err != nil && !missing(err) {
		return fmt.Errorf("delete route to %s: %w", to, err)
	}
	return nil
}

func hostRoute(to netip.Addr) *netlink.Route {
	return &netlink.Route{
		Dst:      ipNet(alone(to)),
		Protocol: routeProtocol,
	}
}

// Neighbour is an address behind a device.
type Neighbour struct {
	Ifindex int
	Addr    netip.Addr
}

// Neighbours lists the permanent neighbours of the namespace.
func (d *Door) Neighbours() (map[Neighbour][6]byte, error) {
	return d.neighbours(netlink.NUD_PERMANENT)
}

// KnownNeighbours lists those whose MAC the kernel sends to (NUD_VALID).
func (d *Door) KnownNeighbours() (map[Neighbour][6]byte, error) {
	return d.neighbours(netlink.NUD_PERMANENT | netlink.NUD_NOARP | netlink.NUD_REACHABLE |
		netlink.NUD_PROBE | netlink.NUD_STALE | netlink.NUD_DELAY)
}

func (d *Door) neighbours(states int) (map[Neighbour][6]byte, error) {
	list, err := dump(func() ([]netlink.Neigh, error) { return d.h.NeighList(0, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list neighbours: %w", err)
	}
	out := map[Neighbour][6]byte{}
	for _, n := range list {
		if n.State&states != 0 && len(n.HardwareAddr) == 6 {
			out[Neighbour{n.LinkIndex, addr(n.IP)}] = [6]byte(n.HardwareAddr)
		}
	}
	return out, nil
}

// PutNeighbour tells the node a container's MAC, so that it need not ask.
func (d *Door) PutNeighbour(n Neighbour, mac [6]byte) error {
	if err := d.speak6At(n.Addr, n.Ifindex); err != nil {
		return err
	}
	if err := d.h.NeighSet(neigh(n, mac[:])); err != nil {
		return fmt.Errorf("neighbour %s: %w", n.Addr, err)
	}
	return nil
}

// DeleteNeighbour forgets a neighbour; one that is not there is no error.
func (d *Door) DeleteNeighbour(n Neighbour) error {
	if err := d.h.NeighDel(neigh(n, nil)); err != nil && !missing(err) && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("delete neighbour %s: %w", n.Addr, err)
	}
	return nil
}

func neigh(n Neighbour, mac net.HardwareAddr) *netlink.Neigh {
	family := netlink.FAMILY_V4
	if n.Addr.Is6() {
		family = netlink.FAMILY_V6
	}
	return &netlink.Neigh{
		LinkIndex: n.Ifindex, Family: family, State: netlink.NUD_PERMANENT,
		IP: n.Addr.AsSlice(), HardwareAddr: mac,
	}
}

// GatewayAddrs lists the addresses on the gateway device.
func (d *Door) GatewayAddrs() (map[netip.Addr]bool, error) {
	out := map[netip.Addr]bool{}
	l, err := d.h.LinkByName(GatewayName)
	if missing(err) {
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return d.h.AddrList(l, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("addresses of %s: %w", GatewayName, err)
	}
	for _, a := range addrs {
		out[addr(a.IP)] = true
	}
	return out, nil
}

// PutGatewayAddr gives the node a gateway's address.
func (d *Door) PutGatewayAddr(a netip.Addr) error { return d.PutAddr(GatewayName, a) }

// PutAddr gives a device of ours an address, without a range around it.
func (d *Door) PutAddr(name string, a netip.Addr) error {
	l, err := d.h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := d.speak6At(a, l.Attrs().Index); err != nil {
		return err
	}
	if err := d.h.AddrReplace(l, hostAddr(a)); err != nil {
		return fmt.Errorf("address %s on %s: %w", a, name, err)
	}
	return nil
}

// DeleteGatewayAddr takes it away again.
func (d *Door) DeleteGatewayAddr(a netip.Addr) error {
	l, err := d.h.LinkByName(GatewayName)
	if err == nil {
		err = d.h.AddrDel(l, hostAddr(a))
	}
	if err != nil && !missing(err) {
		return fmt.Errorf("delete address %s on %s: %w", a, GatewayName, err)
	}
	return nil
}

func hostAddr(a netip.Addr) *netlink.Addr {
	out := &netlink.Addr{IPNet: ipNet(alone(a))}
	if a.Is6() {
		out.Flags = unix.IFA_F_NODAD // every node has it, and nobody else is on the device
	}
	return out
}

// Underlay lists the indexes of the devices that carry local, a default route, or
// any address that others could call.
func (d *Door) Underlay(local netip.Addr) (byAddr, byRoute, addressed []int, err error) {
	addrs, err := dump(func() ([]netlink.Addr, error) { return d.h.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, nil, nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if local.IsValid() && addr(a.IP) == local {
			byAddr = append(byAddr, a.LinkIndex)
		}
		if a.IP.IsGlobalUnicast() {
			addressed = append(addressed, a.LinkIndex)
		}
	}
	routes, err := dump(func() ([]netlink.Route, error) { return d.h.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, nil, nil, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst != nil && !isDefault(r.Dst) || r.Type != unix.RTN_UNICAST {
			continue
		}
		if r.LinkIndex > 0 {
			byRoute = append(byRoute, r.LinkIndex)
		}
		for _, hop := range r.MultiPath {
			byRoute = append(byRoute, hop.LinkIndex)
		}
	}
	return byAddr, byRoute, addressed, nil
}

// HostRoute is a route of the machine's own.
type HostRoute struct {
	Prefix netip.Prefix
	// Device is its name; empty for a route over several.
	Device string
	// Gateway is not valid where the destination is on the link.
	Gateway netip.Addr
}

// HostRoutes lists the machine's unicast routes, default routes and those through
// our own devices apart.
func (d *Door) HostRoutes() ([]HostRoute, error) {
	devices, err := d.Devices()
	if err != nil {
		return nil, err
	}
	routes, err := dump(func() ([]netlink.Route, error) { return d.h.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var out []HostRoute
	for _, r := range routes {
		if r.Dst == nil || isDefault(r.Dst) || r.Type != unix.RTN_UNICAST || devices[r.LinkIndex].Ours() {
			continue
		}
		ones, _ := r.Dst.Mask.Size()
		out = append(out, HostRoute{netip.PrefixFrom(addr(r.Dst.IP), ones), devices[r.LinkIndex].Name, addr(r.Gw)})
	}
	return out, nil
}

func isDefault(n *net.IPNet) bool {
	ones, _ := n.Mask.Size()
	return ones == 0
}

func addr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// alone is the range of one address.
func alone(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// ipNet is a range as the library has it, with the address as it is.
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
