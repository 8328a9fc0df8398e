package link

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Path is how the node sends to another, as far as the overlay goes by it.
type Path struct {
	Ifindex int
	// MAC is the device's.
	MAC [6]byte
	// MTU in bytes: the route's, which path MTU discovery lowers, else the device's.
	MTU int
	// OnLink: without a router between.
	OnLink bool
}

// PathTo asks the kernel's routing table; devices are those of the namespace.
// It gives false where no way leads or the way is through a device of ours.
func (d *Door) PathTo(to netip.Addr, devices map[int]Device) (Path, bool, error) {
	routes, err := d.h.RouteGet(to.AsSlice())
	if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) || err == nil && len(routes) == 0 {
		return Path{}, false, nil
	}
	if err != nil {
		return Path{}, false, fmt.Errorf("route to %s: %w", to, err)
	}
	r := routes[0]
	dev, ok := devices[r.LinkIndex]
	if !ok || dev.Ours() || dev.Name == "lo" {
		return Path{}, false, nil
	}
	p := Path{Ifindex: r.LinkIndex, MAC: dev.MAC, MTU: dev.MTU, OnLink: len(r.Gw) == 0 && r.Via == nil}
	if r.MTU > 0 {
		p.MTU = min(p.MTU, r.MTU)
	}
	return p, true, nil
}

// Resolve makes the kernel look for a neighbour's MAC if it does not know it
// (NTF_USE), as if there were a packet for it.
func (d *Door) Resolve(n Neighbour) error {
	use := neigh(n, nil)
	use.State, use.Flags = 0, netlink.NTF_USE
	err := d.h.NeighSet(use)
	if err != nil && !missing(err) {
		return fmt.Errorf("look for neighbour %s: %w", n.Addr, err)
	}
	return nil
}
