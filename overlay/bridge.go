package overlay

import (
	"hash/fnv"
	"net/netip"
	"slices"

	"github.com/meshd/meshd/overlay/datapath"
	"github.com/meshd/meshd/overlay/link"
	"github.com/meshd/meshd/overlay/nft"
)

// What DriverBridge keeps in the kernel beside what both drivers have.
type (
	edgeObject    struct{}                      // nft.Edge
	speakerObject struct{ speaker nft.Speaker } // present
	silentObject  struct{ id string }           // datapath.MAC
	hopObject     struct{ key link.HopKey }     // link.Hop
	ruleObject    struct{ rule link.Rule }      // present
	arriveObject  struct{}                      // int: the tunnel device's index
	nodeObject    struct{ peer nft.EdgePeer }   // present
)

func (edgeObject) rank() rank    { return rankEdge }
func (speakerObject) rank() rank { return rankSpeaker }
func (silentObject) rank() rank  { return rankSilent }
func (hopObject) rank() rank     { return rankHop }
func (ruleObject) rank() rank    { return rankRule }
func (arriveObject) rank() rank  { return rankArrive }
func (nodeObject) rank() rank    { return rankNode }

// nodeMAC is what the frames of a node's tunnel bear as their source, so that a node where
// connections enter is known by its frames ("n").
func nodeMAC(node netip.Addr) datapath.MAC {
	b := short(node)
	mac := datapath.MAC{0x02, 0x6e, b[0], b[1], b[2], b[3]}
	if mac[2] == 0xd5 && mac[3] == 0 { // MESH_NOTE_RETURN of datapath/bpf/hook.h
		mac[2]--
	}
	return mac
}

// nodeMark stands for a node in packets and connections, and is the number of the table that
// leads back to it.
func nodeMark(node netip.Addr) uint32 {
	b := short(node)
	return nft.MarkPrefix | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

// short stands for a node's address: an IPv4 one itself, a digest of an IPv6 one, whose last
// bytes many nodes may have in common (every link's ::1).
func short(node netip.Addr) [4]byte {
	if node = node.Unmap(); node.Is4() {
		return node.As4()
	}
	digest := fnv.New32a()
	digest.Write(node.AsSlice())
	return [4]byte(digest.Sum(nil))
}

func edgePeer(node netip.Addr) nft.EdgePeer {
	return nft.EdgePeer{Addr: node, MAC: nodeMAC(node), Mark: nodeMark(node)}
}

// wantBridgeDevices is wantDevices, with a tunnel that the kernel itself forwards into.
func wantBridgeDevices(s State, f facts, vxlanPort uint16) objects {
	w := wantDevices(s, f, vxlanPort)
	if !f.live {
		return w
	}
	tunnel := link.VXLAN{Port: vxlanPort}
	if s.Local.IsValid() {
		tunnel.MAC = nodeMAC(s.Local)
	}
	w[vxlanObject{}] = tunnel
	for _, v6 := range families(s) {
		if v6 {
			w[sysctlObject{link.Forwarding6}] = "1"
		}
	}
	return w
}

// families lists those of the networks' subnets: IPv4, IPv6 (true), or both.
func families(s State) (out []bool) {
	for _, v6 := range []bool{false, true} {
		if slices.ContainsFunc(s.Networks, func(n Network) bool {
			return slices.ContainsFunc(n.Subnets, func(p netip.Prefix) bool { return p.Addr().Is6() == v6 })
		}) {
			out = append(out, v6)
		}
	}
	return out
}

// wantBridge gives all the rest.
func wantBridge(s State, f facts, vxlanPort uint16) objects {
	w := make(objects, 2*len(s.Endpoints)+4*len(s.Peers)+8*len(f.ports)+16)
	if f.live || len(f.ports) > 0 {
		w[edgeObject{}] = edge(s, vxlanPort)
	}
	wantWayOut(w, s)
	wantForwarded(w, s, f)
	if f.live && f.tunnel != 0 {
		wantTunnel(w, s, f)
	}
	for _, p := range f.ports {
		wantBridgePort(w, s, p)
		w[mtuObject{p.ID}] = attachmentMTU(s, f, p.Attachment)
	}
	if f.live && s.Local.IsValid() {
		w[untrackedObject{}] = netip.AddrPortFrom(s.Local.Unmap(), vxlanPort)
	}
	return w
}

// edge says who may speak to whom.
func edge(s State, vxlanPort uint16) nft.Edge {
	var networks, sealed, mesh, gates []netip.Prefix
	for _, n := range s.Networks {
		if n.encrypted() {
			sealed = append(sealed, n.Subnets...)
		}
		if n.Mesh {
			mesh = append(mesh, n.Subnets...)
		} else {
			networks = append(networks, n.Subnets...)
		}
	}
	for _, g := range gateways(s) {
		gates = append(gates, netip.PrefixFrom(g.addr, g.addr.BitLen()))
	}
	return nft.Edge{Port: vxlanPort, Networks: nft.Key(networks), Sealed: nft.Key(sealed), Mesh: nft.Key(mesh), Gateways: nft.Key(gates)}
}

// wantForwarded lets packets through where iptables drops what nobody accepts.
func wantForwarded(w objects, s State, f facts) {
	for _, v6 := range families(s) {
		if f.forwardingOf(v6) == nft.ForwardingDocker {
			w[acceptObject{v6}] = nft.AcceptsForwarded
		}
	}
}

// wantTunnel gives the ways to other nodes.
func wantTunnel(w objects, s State, f facts) {
	w[arriveObject{}] = f.tunnel
	w[tunnelMTUObject{}] = tunnelMTU(s, f)
	for _, v6 := range families(s) {
		w[ruleObject{link.Rule{V6: v6}}] = present{}
	}
	for _, n := range s.Networks {
		for _, subnet := range n.Subnets {
			switch {
			case !n.Mesh:
				w[hopObject{link.HopKey{Table: link.Table, To: subnet.Masked()}}] = link.Hop{}
			case !n.encrypted():
				wantWaysBack(w, s.Peers, n.VNI, subnet.Addr().Is6(), f.tunnel)
			}
		}
	}
	to := waysTo(s, f)
	for _, e := range s.Endpoints {
		if h, ok := to(e); ok {
			w[hopTo(e.Addr)] = h
		}
	}
	for _, p := range s.Peers {
		if p.Addr.IsValid() {
			w[nodeObject{edgePeer(p.Addr)}] = present{}
		}
	}
}

// waysTo gives the way to a container of another node; none where it must be encrypted and
// cannot be. The mesh network's tunnel inside of WireGuard is the programs' alone.
func waysTo(s State, f facts) func(Endpoint) (link.Hop, bool) {
	networks, sealed := map[uint32]Network{}, map[netip.Addr]int{}
	for _, n := range s.Networks {
		networks[n.VNI] = n
	}
	for _, p := range partners(s) {
		sealed[p.Addr] = f.cipherTo(p)
	}
	return func(e Endpoint) (link.Hop, bool) {
		switch n := networks[e.VNI]; {
		case !e.Node.IsValid() || e.Node == s.Local || n.encrypted() && n.Mesh:
			return link.Hop{}, false
		case n.encrypted():
			return link.Hop{Ifindex: sealed[e.Node], Sealed: true}, sealed[e.Node] != 0
		}
		return link.Hop{Ifindex: f.tunnel, Node: e.Node, VNI: e.VNI}, true
	}
}

// tunnelMTU is that of the tunnel device, on which IPv6 does not work below its least.
func tunnelMTU(s State, f facts) int {
	mtu := innerMTU(s, f, Network{Transport: TransportVXLAN})
	if slices.Contains(families(s), true) {
		mtu = max(mtu, leastMTU6)
	}
	return mtu
}

// wantWaysBack leads answers to connections that entered at another node back to it.
func wantWaysBack(w objects, peers []Peer, vni uint32, v6 bool, tunnel int) {
	everywhere := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if v6 {
		everywhere = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	for _, p := range peers {
		if !p.Addr.IsValid() {
			continue
		}
		mark := nodeMark(p.Addr)
		w[ruleObject{link.Rule{V6: v6, Mark: mark}}] = present{}
		w[hopObject{link.HopKey{Table: mark, To: everywhere}}] = link.Hop{Ifindex: tunnel, Node: p.Addr, VNI: vni}
	}
}

func hopTo(a netip.Addr) hopObject {
	return hopObject{link.HopKey{Table: link.Table, To: netip.PrefixFrom(a, a.BitLen())}}
}

// wantBridgePort gives what one container needs. A container that is here is here,
// whatever the state says of its address.
func wantBridgePort(w objects, s State, p port) {
	mac, err := parseMAC(p.MAC)
	if err != nil {
		return // checked when it was attached
	}
	for _, a := range p.Addrs {
		w[speakerObject{nft.Speaker{Device: link.HostName(p.ID), MAC: mac, Addr: a.Addr()}}] = present{}
		w[neighbourObject{link.Neighbour{Ifindex: p.ifindex, Addr: a.Addr()}}] = mac
		w[hopTo(a.Addr())] = link.Hop{Ifindex: p.ifindex, Source: sourceFor(s, p.VNI, a)}
	}
	w[silentObject{p.ID}] = mac
	w[portObject{p.ID}] = present{}
}

// trialState is enough for every kind of object.
func trialState() State {
	self, peer := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	return State{
		Local: self, Peers: []Peer{{ID: "peer", Addr: peer}},
		Networks: []Network{
			{ID: "mesh", VNI: 1, Mesh: true, Subnets: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/25")}, Gateways: []netip.Addr{netip.MustParseAddr("198.51.100.1")}},
			{ID: "user", VNI: 2, Subnets: []netip.Prefix{netip.MustParsePrefix("198.51.100.128/25")}},
		},
		Endpoints: []Endpoint{{VNI: 2, Addr: netip.MustParseAddr("198.51.100.130"), Node: peer}},
	}
}

// bridged reads from what DriverBridge holds how packets to an address go on.
func (p *Path) bridged(s State, f facts, held objects, vni uint32, to netip.Addr) {
	for _, n := range s.Networks {
		for _, subnet := range n.Subnets {
			_, known := held[hopObject{link.HopKey{Table: link.Table, To: subnet.Masked()}}]
			p.Network = p.Network || (known || n.Mesh) && n.VNI == vni && subnet.Contains(to)
		}
	}
	h, _ := held[hopTo(to)].(link.Hop)
	_, self := held[gatewayObject{to}]
	switch {
	case self:
		p.Place = PlaceSelf
	case h.Ifindex == 0:
	case h.Node.IsValid() || h.Sealed:
		p.Place, p.Node = PlaceNode, h.Node
		for _, e := range s.Endpoints {
			if e.Addr == to && e.VNI == vni {
				p.Node = e.Node
			}
		}
		_, p.Peer = held[nodeObject{edgePeer(p.Node)}]
	default:
		p.Place = PlaceHere
		for _, port := range f.ports {
			if port.ifindex != h.Ifindex {
				continue
			}
			p.Attachment, p.Device = port.Attachment, link.HostName(port.ID)
			mac, _ := parseMAC(port.MAC)
			_, speaks := held[speakerObject{nft.Speaker{Device: p.Device, MAC: mac, Addr: to}}]
			_, ruled := held[edgeObject{}]
			p.Guarded = speaks && ruled
		}
	}
}
