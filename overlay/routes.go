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

// HostRoutes lists the address ranges that the machine reaches in other ways
// than through us; a network on such a range would cut it off from them.
func HostRoutes() ([]netip.Prefix, error) {
	door, err := link.Open()
	if err != nil {
		return nil, err
	}
	defer door.Close()
	return door.HostPrefixes()
}

// WatchAddrs calls changed whenever an address of this machine came or went; it
// returns when ctx ends or the kernel refuses.
func WatchAddrs(ctx context.Context, changed func()) error { return link.WatchAddrs(ctx, changed) }
