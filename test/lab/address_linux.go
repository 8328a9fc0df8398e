package lab

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Readdress gives a node that runs another address of the lab's subnet in place of
// the one it has, as a new DHCP lease does.
func (l *Lab) Readdress(node string, addr netip.Addr) error {
	r, err := readRecord(l.name)
	if err != nil {
		return err
	}
	n, err := r.node(node)
	if err != nil {
		return err
	}
	if !r.Subnet.Contains(addr) {
		return fmt.Errorf("address %s is not of the lab's subnet %s", addr, r.Subnet)
	}
	h, err := handleIn(l.name, node)
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName("eth0")
	if err != nil {
		return err
	}
	old := &net.IPNet{IP: n.Address.AsSlice(), Mask: net.CIDRMask(r.Subnet.Bits(), n.Address.BitLen())}
	if err := h.AddrDel(link, &netlink.Addr{IPNet: old}); err != nil {
		return fmt.Errorf("take %s from %s: %w", old, node, err)
	}
	if err := configure(h, "eth0", []netip.Prefix{netip.PrefixFrom(addr, r.Subnet.Bits())}); err != nil {
		return err
	}
	if err := h.RouteReplace(&netlink.Route{Dst: defaultRoute(addr), Gw: host(r.Subnet, hubHost).AsSlice()}); err != nil {
		return fmt.Errorf("default route of %s: %w", node, err)
	}
	return updateNode(l.name, node, func(n *nodeRecord) { n.Address = addr })
}
