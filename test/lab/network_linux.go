package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const bridgeName = "br0"

// takenPrefixes lists what the machine's own addresses and routes cover.
func takenPrefixes() ([]netip.Prefix, error) {
	var taken []netip.Prefix
	add := func(n *net.IPNet) {
		if n == nil {
			return
		}
		addr, ok := netip.AddrFromSlice(n.IP)
		bits, _ := n.Mask.Size()
		if ok && bits > 0 && !addr.IsMulticast() { // a default route takes nothing
			taken = append(taken, netip.PrefixFrom(addr.Unmap(), bits))
		}
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list the machine's addresses: %w", err)
	}
	for _, a := range addrs {
		add(a.IPNet)
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("list the machine's routes: %w", err)
	}
	for _, r := range routes {
		add(r.Dst)
	}
	return taken, nil
}

// handleIn opens netlink in a machine of the lab.
func handleIn(lab, node string) (*netlink.Handle, error) {
	ns, err := netns.GetFromPath(netnsPath(lab, node))
	if err != nil {
		return nil, fmt.Errorf("open network namespace %s: %w", netnsName(lab, node), err)
	}
	defer ns.Close()
	return netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
}

// makeHub makes the bridge that joins the machines.
func makeHub(r record) error {
	if err := addNetns(netnsName(r.Name, hub)); err != nil {
		return err
	}
	if err := hubSettings(r.Name); err != nil {
		return err
	}
	h, err := handleIn(r.Name, hub)
	if err != nil {
		return err
	}
	defer h.Close()
	if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName}}); err != nil {
		return fmt.Errorf("make the bridge: %w", err)
	}
	addrs := r.addresses(hubHost)
	if err := configure(h, bridgeName, addrs); err != nil {
		return err
	}
	// What leaves the lab is refused at once ("administratively prohibited"), so that nobody waits for a resolver or a registry.
	for _, a := range addrs {
		if err := h.RouteAdd(&netlink.Route{Dst: defaultRoute(a.Addr()), Type: unix.RTN_PROHIBIT}); err != nil {
			return fmt.Errorf("refuse what leaves the lab: %w", err)
		}
	}
	return nil
}

// hasIPv6 says whether the kernel speaks it.
func hasIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}

func hubSettings(lab string) error {
	return onOwnThread(func() error {
		if err := enter(netnsPath(lab, hub)); err != nil {
			return err
		}
		// ICMP errors are sent only by a router, and by default to each host once a second.
		settings := map[string]string{"ipv4/ip_forward": "1", "ipv4/icmp_ratelimit": "0"}
		if hasIPv6() {
			settings["ipv6/conf/all/forwarding"], settings["ipv6/icmp/ratelimit"] = "1", "0"
		}
		for path, value := range settings {
			if err := os.WriteFile("/proc/sys/net/"+path, []byte(value), 0); err != nil {
				return err
			}
		}
		// A machine with br_netfilter would run every bridged packet through the hub's connection tracking; ENOENT: it has not.
		for _, name := range []string{"iptables", "ip6tables", "arptables"} {
			if err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-"+name, []byte("0"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		return nil
	})
}

// plug makes a machine's namespace and joins it to the hub.
func plug(r record, node string) error {
	number := r.number(node)
	if err := addNetns(netnsName(r.Name, node)); err != nil {
		return err
	}
	if err := addLink(r.Name, node, host(r.Subnet, number)); err != nil {
		return fmt.Errorf("join %s to the hub: %w", node, err)
	}
	h, err := handleIn(r.Name, node)
	if err != nil {
		return err
	}
	defer h.Close()
	if err := configure(h, "lo", nil); err != nil {
		return err
	}
	if err := configure(h, "eth0", r.addresses(number)); err != nil {
		return err
	}
	for _, gateway := range r.addresses(hubHost) {
		if err := h.RouteAdd(&netlink.Route{Dst: defaultRoute(gateway.Addr()), Gw: gateway.Addr().AsSlice()}); err != nil {
			return fmt.Errorf("default route of %s: %w", node, err)
		}
	}
	return nil
}

func addLink(lab, node string, addr netip.Addr) error {
	h, err := handleIn(lab, hub)
	if err != nil {
		return err
	}
	defer h.Close()
	bridge, err := h.LinkByName(bridgeName)
	if err != nil {
		return err
	}
	ns, err := netns.GetFromPath(netnsPath(lab, node))
	if err != nil {
		return err
	}
	defer ns.Close()
	// The port of an earlier life may still be there: the kernel takes namespaces down in its own time.
	if old, err := h.LinkByName(node); err == nil {
		if err := h.LinkDel(old); err != nil && !errors.Is(err, unix.ENODEV) {
			return err
		}
	}
	link := &netlink.Veth{
		LinkAttrs:        netlink.LinkAttrs{Name: node, MasterIndex: bridge.Attrs().Index},
		PeerName:         "eth0",
		PeerHardwareAddr: hardwareAddr(addr),
		PeerNamespace:    netlink.NsFd(int(ns)),
	}
	if err := h.LinkAdd(link); err != nil {
		return err
	}
	return h.LinkSetUp(link)
}

// unplug cuts a machine's cable: the namespace behind it may live on for a moment, and must not answer.
func unplug(lab, node string) error {
	h, err := handleIn(lab, hub)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName(node)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		return nil
	}
	if err != nil {
		return err
	}
	if err := h.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("unplug %s: %w", node, err)
	}
	return nil
}

// configure gives a link its addresses and sets it up.
func configure(h *netlink.Handle, name string, addrs []netip.Prefix) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	for _, addr := range addrs {
		a := &netlink.Addr{IPNet: &net.IPNet{IP: addr.Addr().AsSlice(), Mask: net.CIDRMask(addr.Bits(), addr.Addr().BitLen())}}
		if addr.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD // usable at once
		}
		if err := h.AddrAdd(link, a); err != nil {
			return fmt.Errorf("address %s of %s: %w", addr, name, err)
		}
	}
	return h.LinkSetUp(link)
}

// defaultRoute is the destination that takes every address of a's version.
func defaultRoute(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: make(net.IP, a.BitLen()/8), Mask: net.CIDRMask(0, a.BitLen())}
}
