package overlay

import (
	"net/netip"

	"github.com/meshd/meshd/overlay/link"
)

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
