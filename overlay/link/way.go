package link

import (
	"fmt"
	"net/netip"
)

// Way is how the node itself sends to an address.
type Way struct {
	Device  string
	Gateway netip.Addr // unset: the address is on the device's own link
	Source  netip.Addr
	// MTU in bytes: the route's, which path MTU discovery lowers, else the device's.
	MTU int
}

// WayTo asks the kernel's routing table.
func (d *Door) WayTo(to netip.Addr) (Way, error) {
	routes, err := d.h.RouteGet(to.AsSlice())
	if err != nil {
		return Way{}, fmt.Errorf("route to %s: %w", to, err)
	}
	if len(routes) == 0 {
		return Way{}, fmt.Errorf("route to %s: none", to)
	}
	r := routes[0]
	w := Way{Gateway: addr(r.Gw), Source: addr(r.Src), MTU: r.MTU}
	l, err := d.h.LinkByIndex(r.LinkIndex)
	if err != nil {
		return w, fmt.Errorf("device of the route to %s: %w", to, err)
	}
	w.Device = l.Attrs().Name
	if w.MTU == 0 {
		w.MTU = l.Attrs().MTU
	}
	return w, nil
}
