package link

import (
	"fmt"
	"net"
	"strings"

	"github.com/vishvananda/netlink"
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

// IsHost says whether a device is the host side of a container's interface.
func (d Device) IsHost() bool { return strings.HasPrefix(d.Name, HostPrefix) && d.Alias != "" }
