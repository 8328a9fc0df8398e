package overlay

import (
	"net/netip"
	"slices"
)

// Bounds of a container's MTU in bytes. A path that is said to be narrower than
// leastMTU is not believed (RFC 791 has every host take 576): the outer packets
// are fragmented instead. IPv6 does not work on a device below leastMTU6 (RFC
// 8200, section 5), and there likewise.
const (
	leastMTU  = 576
	leastMTU6 = 1280
)

// innerMTU is what fits into a network's transport to every peer: one figure for all
// containers of the node, since the network's members may be anywhere.
func innerMTU(s State, f facts, n Network) int {
	least := 0
	for _, p := range s.Peers {
		path, ok := f.paths[p.Addr]
		if !ok {
			continue
		}
		inner := path.MTU - f.overhead(n, p)
		if least == 0 || inner < least {
			least = inner
		}
	}
	if least == 0 {
		least = f.mtu - f.overhead(n, Peer{Addr: s.Local})
	}
	return max(least, leastMTU)
}

// TunnelLimit is the largest packet in bytes that the tunnel takes to every peer;
// zero if it takes longer ones in parts. Over IPv6 it does not: the kernel
// fragments only what a socket of its own sent (ip6_fragment).
func (o *Overlay) TunnelLimit() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.desired()
	f, err := o.kernel.facts(s, false)
	if err != nil {
		return 0 // the next resync tells what is wrong
	}
	return tunnelLimit(s, f)
}

func tunnelLimit(s State, f facts) int {
	n := s.mesh()
	if !n.encrypted() && !slices.ContainsFunc(s.Peers, func(p Peer) bool { return is6(p.Addr) }) {
		return 0
	}
	return innerMTU(s, f, n)
}

// attachmentMTU is that of one container's interface.
func attachmentMTU(s State, f facts, a Attachment) int {
	network := Network{Mesh: a.Mesh}
	if i := slices.IndexFunc(s.Networks, func(n Network) bool { return n.VNI == a.VNI }); i >= 0 {
		network = s.Networks[i]
	}
	mtu := innerMTU(s, f, network)
	for _, p := range a.Addrs {
		if is6(p.Addr()) {
			mtu = max(mtu, leastMTU6)
		}
	}
	return mtu
}

func is6(a netip.Addr) bool { return a.Is6() && !a.Is4In6() }

// mesh is the mesh network.
func (s State) mesh() Network {
	if i := slices.IndexFunc(s.Networks, func(n Network) bool { return n.Mesh }); i >= 0 {
		return s.Networks[i]
	}
	return Network{Mesh: true}
}

// overhead is what a network's packets to a peer grow by.
func (f facts) overhead(n Network, p Peer) int {
	switch {
	case n.encrypted() && n.Mesh:
		return sealing(p.Addr) + overhead(netip.IPv6Unspecified())
	case n.encrypted():
		return sealing(p.Addr)
	case n.tunnelled() || !f.direct(p):
		return overhead(p.Addr)
	}
	return 0
}

// sealing is what WireGuard adds to a packet to a node: its header 16, the
// authentication tag 16, UDP 8, and the outer IP header.
func sealing(node netip.Addr) int {
	const sealed, v4, v6 = 16 + 16 + 8, 20, 40
	if is6(node) {
		return sealed + v6
	}
	return sealed + v4
}

// overhead is what VXLAN adds to a packet to a node (RFC 7348): inner Ethernet
// 14, VXLAN 8, UDP 8, and the outer IP header.
func overhead(node netip.Addr) int {
	const vxlan, v4, v6 = 14 + 8 + 8, 20, 40
	if is6(node) {
		return vxlan + v6
	}
	return vxlan + v4
}
