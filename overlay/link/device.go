package link

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Device is a network device as it is.
type Device struct {
	Name  string
	Index int
	MTU   int
	Up    bool
	// Ethernet devices have MAC headers.
	Ethernet bool
	MAC      [6]byte
	// Alias is the ifalias.
	Alias string
	// NetNsID is this namespace's number for the one that a veth's other end is in;
	// negative: none, or the same.
	NetNsID int
	// VXLANPort is that of a VXLAN device in external mode, zero for others.
	VXLANPort uint16
	// WireGuard devices encrypt; only ours are told from others.
	WireGuard bool
	// Silent devices ask nobody for neighbours (IFF_NOARP).
	Silent bool
}

// Ours says whether this package made the device.
func (d Device) Ours() bool {
	return d.Name == VXLANName || d.Name == GatewayName || d.WireGuard || strings.HasPrefix(d.Name, HostPrefix) && d.Alias != ""
}

// Devices lists all devices of the namespace, by index.
func (d *Door) Devices() (map[int]Device, error) {
	links, err := dump(d.h.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	out := make(map[int]Device, len(links))
	for _, l := range links {
		a := l.Attrs()
		dev := Device{
			Name: a.Name, Index: a.Index, MTU: a.MTU, Alias: a.Alias, NetNsID: a.NetNsID,
			Up: a.Flags&net.FlagUp != 0, Silent: a.RawFlags&unix.IFF_NOARP != 0,
			Ethernet: a.EncapType == "ether", WireGuard: strings.HasPrefix(a.Name, WireGuardPrefix),
		}
		if len(a.HardwareAddr) == len(dev.MAC) {
			dev.MAC = [6]byte(a.HardwareAddr)
		}
		if vx, ok := l.(*netlink.Vxlan); ok && vx.FlowBased {
			dev.VXLANPort = uint16(vx.Port)
		}
		out[a.Index] = dev
	}
	return out, nil
}

// VXLAN is the tunnel device.
type VXLAN struct {
	// Port is the UDP port (IANA: 4789).
	Port uint16
	// MAC, if set, is the device's, and the kernel forwards to it: it asks nobody on it for
	// neighbours. Otherwise programs do, and none is needed.
	MAC [6]byte
}

// PutVXLAN makes the tunnel device: external mode, so that one device carries
// all networks, and no learning, since the data path says who is where.
func (d *Door) PutVXLAN(v VXLAN) error {
	l, err := d.h.LinkByName(VXLANName)
	switch vx, ok := l.(*netlink.Vxlan); {
	case err == nil && ok && vx.FlowBased && vx.Port == int(v.Port):
		return d.raise(v)
	case err == nil:
		if err := d.h.LinkDel(l); err != nil {
			return fmt.Errorf("replace %s: %w", VXLANName, err)
		}
	case !missing(err):
		return fmt.Errorf("%s: %w", VXLANName, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = VXLANName
	if err := d.h.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, FlowBased: true, Port: int(v.Port)}); err != nil {
		return fmt.Errorf("make %s on UDP port %d (is another VXLAN device on it?): %w", VXLANName, v.Port, err)
	}
	return d.raise(v)
}

// raise brings the tunnel device up: one that the kernel forwards to, or one for programs.
func (d *Door) raise(v VXLAN) error {
	l, err := d.h.LinkByName(VXLANName)
	switch {
	case err != nil:
	case v.MAC == [6]byte{}:
		err = d.h.LinkSetARPOn(l)
	default:
		err = d.forwardTo(l, v.MAC)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", VXLANName, err)
	}
	return d.up(VXLANName)
}

// forwardTo has the kernel forward to a device of this MAC address, and ask for no neighbours there.
func (d *Door) forwardTo(l netlink.Link, mac [6]byte) error {
	if err := d.h.LinkSetHardwareAddr(l, mac[:]); err != nil {
		return err
	}
	if err := d.h.LinkSetARPOff(l); err != nil {
		return err
	}
	return forwards(l.Attrs().Name)
}

// PutGatewayDevice makes the device that holds the gateway addresses: a dummy,
// or, on a kernel without, a bridge that stays without ports.
func (d *Door) PutGatewayDevice() error {
	if _, err := d.h.LinkByName(GatewayName); missing(err) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = GatewayName
		err := d.h.LinkAdd(&netlink.Dummy{LinkAttrs: attrs})
		if errors.Is(err, unix.EOPNOTSUPP) {
			err = d.h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
		}
		if err != nil {
			return fmt.Errorf("make %s: %w", GatewayName, err)
		}
	} else if err != nil {
		return err
	}
	return d.up(GatewayName)
}

// up brings a device up that never speaks for itself, so without IPv6 addresses
// of its own. One that is up stays as it is.
func (d *Door) up(name string) error {
	l, err := d.h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if l.Attrs().Flags&net.FlagUp != 0 {
		return nil
	}
	if err := quiet(name); err != nil {
		return err
	}
	if err := d.h.LinkSetUp(l); err != nil {
		return fmt.Errorf("bring up %s: %w", name, err)
	}
	return nil
}

// DeleteDevice removes a device; one that is not there is no error.
func (d *Door) DeleteDevice(name string) error {
	l, err := d.h.LinkByName(name)
	if missing(err) {
		return nil
	}
	if err == nil {
		err = d.h.LinkDel(l)
	}
	if err != nil && !missing(err) {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	return nil
}
