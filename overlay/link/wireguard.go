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
		if err := addWireGuard(d.h, attrs); err != nil {
			return fmt.Errorf("make %s: %w", name, err)
		}
	default:
		return fmt.Errorf("%s: %w", name, err)
	}
	return d.up(name)
}

// CanEncrypt says whether the kernel has WireGuard: ErrNoWireGuard if not.
func CanEncrypt() error {
	return try(func(h *netlink.Handle) error { return addWireGuard(h, netlink.LinkAttrs{Name: "wg"}) })
}

func addWireGuard(h *netlink.Handle, attrs netlink.LinkAttrs) error {
	err := h.LinkAdd(&netlink.Wireguard{LinkAttrs: attrs})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return ErrNoWireGuard
	}
	return err
}
