package link

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// aliasSize is the kernel's IFALIASZ, with the closing zero.
const aliasSize = 256

// Veth is a container's interface: two ends, one of which the engine moves into
// the container's namespace, renames and addresses.
type Veth struct {
	// ID names it; see HostName and PeerName.
	ID      string
	MTU     int
	HostMAC net.HardwareAddr
	PeerMAC net.HardwareAddr
	// Alias is what is to be known of it after a restart.
	Alias string
}

// HostName is the name of the host side: a device's name has 15 characters.
func HostName(id string) string { return HostPrefix + head(id) }

// PeerName is the name that the container's side has at first.
func PeerName(id string) string { return PeerPrefix + head(id) }

func head(id string) string { return id[:min(len(id), 12)] }

// PutVeth makes the pair. One that is there with the same alias is kept; one
// with another is from an earlier life and replaced.
func (d *Door) PutVeth(v Veth) error {
	if len(v.Alias) >= aliasSize {
		return fmt.Errorf("alias of %s has %d bytes, the kernel takes %d", HostName(v.ID), len(v.Alias), aliasSize-1)
	}
	host := HostName(v.ID)
	l, err := d.h.LinkByName(host)
	if err == nil && l.Attrs().Alias == v.Alias {
		return d.up(host)
	}
	if err := d.DeleteDevice(host); err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = host, v.MTU, v.HostMAC
	pair := netlink.NewVeth(attrs)
	pair.PeerName, pair.PeerMTU, pair.PeerHardwareAddr = PeerName(v.ID), uint32(v.MTU), v.PeerMAC
	if err := d.h.LinkAdd(pair); err != nil {
		return fmt.Errorf("make %s: %w", host, err)
	}
	if err := d.finish(host, v.Alias); err != nil {
		_ = d.DeleteDevice(host)
		return err
	}
	return nil
}

func (d *Door) finish(host, alias string) error {
	l, err := d.h.LinkByName(host)
	if err != nil {
		return fmt.Errorf("%s: %w", host, err)
	}
	if err := d.h.LinkSetAlias(l, alias); err != nil {
		return fmt.Errorf("alias of %s: %w", host, err)
	}
	if err := edge(host); err != nil {
		return err
	}
	return d.up(host)
}

// Raise brings the host side of a container's interface up.
func (d *Door) Raise(id string) error { return d.up(HostName(id)) }

// Rejoin makes the interface of a container anew whose two ends are gone, and sets
// its inner end up as the engine had: the first free name, addresses, and a
// default route by each gateway. It gives false if no process is left in the
// container's namespace, which this one knows as nsid.
func (d *Door) Rejoin(v Veth, nsid int, addrs []netip.Prefix, gateways []netip.Addr) (bool, error) {
	ns, err := d.namespaceOf(nsid)
	if err != nil || !ns.IsOpen() {
		return false, err
	}
	defer ns.Close()
	if err := d.PutVeth(v); err != nil {
		return false, err
	}
	if err := d.enter(v.ID, ns, addrs, gateways); err != nil {
		return false, errors.Join(fmt.Errorf("container's end of %s: %w", HostName(v.ID), err), d.DeleteDevice(HostName(v.ID)))
	}
	return true, nil
}

func (d *Door) enter(id string, ns netns.NsHandle, addrs []netip.Prefix, gateways []netip.Addr) error {
	peer, err := d.h.LinkByName(PeerName(id))
	if err != nil {
		return err
	}
	inside, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer inside.Close()
	name, err := freeName(inside)
	if err != nil {
		return err
	}
	if err := d.h.LinkSetNsFd(peer, int(ns)); err != nil {
		return err
	}
	if peer, err = inside.LinkByName(PeerName(id)); err != nil {
		return err
	}
	if err := inside.LinkSetName(peer, name); err != nil {
		return err
	}
	for _, a := range addrs {
		addr := &netlink.Addr{IPNet: ipNet(a)}
		if a.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD // the address is ours to give
		}
		if err := inside.AddrAdd(peer, addr); err != nil {
			return fmt.Errorf("address %s: %w", a, err)
		}
	}
	if err := inside.LinkSetUp(peer); err != nil {
		return err
	}
	for _, g := range gateways {
		def := &net.IPNet{IP: make(net.IP, g.BitLen()/8), Mask: net.CIDRMask(0, g.BitLen())}
		if err := inside.RouteReplace(&netlink.Route{Dst: def, Gw: g.AsSlice(), LinkIndex: peer.Attrs().Index}); err != nil {
			return fmt.Errorf("default route by %s: %w", g, err)
		}
	}
	return nil
}

// freeName is the first of the names that the engine gives which is free.
func freeName(h *netlink.Handle) (string, error) {
	links, err := dump(h.LinkList)
	if err != nil {
		return "", err
	}
	for i := 0; ; i++ {
		name := fmt.Sprintf("eth%d", i)
		if !slices.ContainsFunc(links, func(l netlink.Link) bool { return l.Attrs().Name == name }) {
			return name, nil
		}
	}
}

// IsHost says whether a device is the host side of a container's interface.
func (d Device) IsHost() bool { return strings.HasPrefix(d.Name, HostPrefix) && d.Alias != "" }
