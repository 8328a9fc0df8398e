package link

import (
	"fmt"

	"github.com/vishvananda/netlink"
)

// PutMTU sets the MTU of both ends of a container's interface. The far end is in
// the container's namespace, which is found by a process in it; without one the
// near end alone is set, and nobody is there to mind.
func (d *Door) PutMTU(id string, mtu int) error {
	host, err := d.h.LinkByName(HostName(id))
	if missing(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", HostName(id), err)
	}
	err = d.atPeer(id, host.Attrs(), func(h *netlink.Handle, peer netlink.Link) error { return h.LinkSetMTU(peer, mtu) })
	if err != nil {
		return fmt.Errorf("MTU of the container's end of %s: %w", HostName(id), err)
	}
	if err := d.h.LinkSetMTU(host, mtu); err != nil && !missing(err) {
		return fmt.Errorf("MTU of %s: %w", HostName(id), err)
	}
	return nil
}

// PutTunnelMTU sets the MTU of the tunnel device: who sends more into it is told so.
func (d *Door) PutTunnelMTU(mtu int) error {
	l, err := d.h.LinkByName(VXLANName)
	if err == nil {
		err = d.h.LinkSetMTU(l, mtu)
	}
	if err != nil {
		return fmt.Errorf("MTU of %s: %w", VXLANName, err)
	}
	return nil
}
