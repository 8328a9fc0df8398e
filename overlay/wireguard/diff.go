package wireguard

import (
	"bytes"
	"maps"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// change gives what makes a device as it is wanted; nil: nothing. published are the
// endpoints that peers were given before.
//
// There is no call for taking one address from a peer (before Linux 6.16). So an
// address that nobody is to have any more goes to a peer made for that, which is
// removed at once; one that another peer gets moves by itself.
func change(want Device, have *wgtypes.Device, published map[Key]netip.AddrPort, now time.Time) *wgtypes.Config {
	var c wgtypes.Config
	if private := wgtypes.Key(want.Private); have.PrivateKey != private {
		c.PrivateKey = &private
	}
	if port := int(want.Port); have.ListenPort != port {
		c.ListenPort = &port
	}
	owners, known, has := want.owners(), map[Key]wgtypes.Peer{}, map[netip.Addr]Key{}
	var orphans []net.IPNet
	for _, p := range have.Peers {
		key := Key(p.PublicKey)
		known[key] = p
		if _, stays := want.Peers[key]; !stays {
			c.Peers = append(c.Peers, wgtypes.PeerConfig{PublicKey: p.PublicKey, Remove: true})
			continue
		}
		for _, ip := range p.AllowedIPs {
			a, ok := addrOf(ip)
			if _, wanted := owners[a]; !ok || !wanted {
				orphans = append(orphans, ip)
			}
			has[a] = key
		}
	}
	for _, key := range slices.SortedFunc(maps.Keys(want.Peers), func(a, b Key) int { return bytes.Compare(a[:], b[:]) }) {
		p := want.Peers[key]
		old, there := known[key]
		pc := wgtypes.PeerConfig{PublicKey: wgtypes.Key(key), UpdateOnly: there}
		for _, a := range p.Allowed {
			if has[a] != key {
				pc.AllowedIPs = append(pc.AllowedIPs, netOf(a))
			}
		}
		if !there || moved(p, old, published[key], now) {
			pc.Endpoint = net.UDPAddrFromAddrPort(p.Endpoint)
		}
		if old.PersistentKeepaliveInterval != keepalive {
			pc.PersistentKeepaliveInterval = new(keepalive)
		}
		if len(pc.AllowedIPs) > 0 || pc.Endpoint != nil || pc.PersistentKeepaliveInterval != nil {
			c.Peers = append(c.Peers, pc)
		}
	}
	if len(orphans) > 0 {
		c.Peers = append(c.Peers, sink(orphans)...)
	}
	if c.PrivateKey == nil && c.ListenPort == nil && len(c.Peers) == 0 {
		return nil
	}
	return &c
}

// moved says whether a peer that is known is to be looked for where it says that it
// is: it says so anew, or it is not heard from.
func moved(p Peer, old wgtypes.Peer, published netip.AddrPort, now time.Time) bool {
	if old.Endpoint != nil && endpointOf(old.Endpoint) == p.Endpoint {
		return false
	}
	said := published.IsValid() && published != p.Endpoint
	return said || Status{Handshake: old.LastHandshakeTime}.Silent(now)
}

// sink takes addresses away from whoever has them.
func sink(addrs []net.IPNet) []wgtypes.PeerConfig {
	key := wgtypes.Key{'n', 'o', 'b', 'o', 'd', 'y'}
	return []wgtypes.PeerConfig{{PublicKey: key, AllowedIPs: addrs}, {PublicKey: key, Remove: true}}
}

// owners says who is to have each address.
func (d Device) owners() map[netip.Addr]Key {
	out := map[netip.Addr]Key{}
	for key, p := range d.Peers {
		for _, a := range p.Allowed {
			out[a] = key
		}
	}
	return out
}

// netOf is an address as a range of one.
func netOf(a netip.Addr) net.IPNet {
	return net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

// addrOf is the address of a range of one; false for others.
func addrOf(n net.IPNet) (netip.Addr, bool) {
	a, ok := netip.AddrFromSlice(n.IP)
	a = a.Unmap()
	ones, _ := n.Mask.Size()
	return a, ok && ones == a.BitLen()
}

func endpointOf(a *net.UDPAddr) netip.AddrPort {
	ap := a.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
