package overlay

import (
	"context"
	"net/netip"

	"github.com/meshd/meshd/overlay/link"
)

// HasIPv6 says whether this machine's kernel speaks IPv6.
func HasIPv6() bool {
	have, err := link.Sysctl(link.Forwarding6)
	return err == nil && have != ""
}

// HostRoute is a range that the machine reaches in another way than through us; a
// network on such a range would cut it off from it.
type HostRoute struct {
	Prefix netip.Prefix
	// Device and Gateway say where it leads; either may be unset.
	Device  string
	Gateway netip.Addr
}

// String is the route as "ip route" writes it.
func (r HostRoute) String() string {
	out := r.Prefix.String()
	if r.Gateway.IsValid() {
		out += " via " + r.Gateway.String()
	}
	if r.Device != "" {
		out += " dev " + r.Device
	}
	return out
}

// Wide says that the route is one into a whole world, as default routes are and
// as VPNs set them (10.0.0.0/8, 0.0.0.0/1): smaller ranges are taken out of it.
func (r HostRoute) Wide() bool {
	const wide4, wide6 = 8, 16
	if r.Prefix.Addr().Is4() {
		return r.Prefix.Bits() <= wide4
	}
	return r.Prefix.Bits() <= wide6
}

// HostRoutes lists the machine's own routes but for default ones.
func HostRoutes() ([]HostRoute, error) {
	door, err := link.Open()
	if err != nil {
		return nil, err
	}
	defer door.Close()
	routes, err := door.HostRoutes()
	var out []HostRoute
	for _, r := range routes {
		out = append(out, HostRoute(r))
	}
	return out, err
}

// WatchAddrs calls changed whenever an address of this machine came or went; it
// returns when ctx ends or the kernel refuses.
func WatchAddrs(ctx context.Context, changed func()) error { return link.WatchAddrs(ctx, changed) }
