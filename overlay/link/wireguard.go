package link

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrNoWireGuard means that this kernel has no WireGuard.
var ErrNoWireGuard = errors.New("kernel has no WireGuard")

// PutWireGuard makes a WireGuard device of the kernel's and brings it up; one that is
// there, whoever made it, only gets its MTU.
func (d *Door) PutWireGuard(name string, mtu int) error {
	l, err := d.h.LinkByName(name)
	switch {
	case err == nil && l.Attrs().MTU != mtu:
		if err := d.h.LinkSetMTU(l, mtu); err != nil {
			return fmt.Errorf("MTU of %s: %w", name, err)
		}
	case err == nil:
	case missing(err):
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = name, mtu
		err := d.h.LinkAdd(&netlink.Wireguard{LinkAttrs: attrs})
		if errors.Is(err, unix.EOPNOTSUPP) {
			return ErrNoWireGuard
		}
		if err != nil {
			return fmt.Errorf("make %s: %w", name, err)
		}
	default:
		return fmt.Errorf("%s: %w", name, err)
	}
	return d.up(name)
}

// CanEncrypt says whether the kernel has WireGuard: ErrNoWireGuard if not.
func CanEncrypt() error {
	return Apart(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("netlink: %w", err)
		}
		defer h.Close()
		err = h.LinkAdd(&netlink.Wireguard{LinkAttrs: netlink.LinkAttrs{Name: "wg"}})
		if errors.Is(err, unix.EOPNOTSUPP) {
			return ErrNoWireGuard
		}
		return err
	})
}
