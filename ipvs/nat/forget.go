package nat

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/ipvs"
)

// forget ends the tracking of connections to backends that are gone, and of UDP flows to those that
// are away, too. Their next packets choose anew: datagrams are answered by another, and a TCP
// connection, which nobody there knows, ends with a reset (nf_conntrack_tcp_loose must be on, as it is
// by itself).
func forget(before, now ipvs.State) error {
	filters := map[netlink.InetFamily][]netlink.CustomConntrackFilter{}
	for _, p := range []ipvs.Protocol{ipvs.TCP, ipvs.UDP} {
		stay := backends(now, p)
		for a := range backends(before, p) {
			if stay[a] {
				continue
			}
			f := &netlink.ConntrackFilter{}
			if err := f.AddIP(netlink.ConntrackReplySrcIP, a.AsSlice()); err != nil {
				return err
			}
			if err := f.AddProtocol(uint8(p)); err != nil {
				return err
			}
			family := netlink.InetFamily(unix.AF_INET)
			if a.Is6() {
				family = unix.AF_INET6
			}
			filters[family] = append(filters[family], f)
		}
	}
	for family, fs := range filters {
		if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, fs...); err != nil {
			return fmt.Errorf("forget connections to %d backends that are gone: %w", len(fs), err)
		}
	}
	return nil
}

// backends are those with whom connections or flows may go on.
func backends(s ipvs.State, p ipvs.Protocol) map[netip.Addr]bool {
	out := map[netip.Addr]bool{}
	for _, svc := range s.Services {
		for _, b := range svc.Backends {
			if !b.Away || p == ipvs.TCP {
				out[b.Addr] = true
			}
		}
	}
	return out
}
