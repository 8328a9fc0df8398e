package overlay

import (
	"encoding/binary"
	"net/netip"

	"github.com/meshd/meshd/overlay/datapath"
	"github.com/meshd/meshd/overlay/link"
	"github.com/meshd/meshd/overlay/nft"
	"github.com/meshd/meshd/overlay/wireguard"
)

// object names one thing of ours in the kernel; its dynamic type says which
// kind, its rank when it is made.
type object interface{ rank() rank }

// rank orders the making of objects; removal goes the other way round. What a
// packet meets first comes last, so that it finds all that it needs.
type rank int

const (
	rankSysctl rank = iota
	rankDevice
	rankGateway
	lastDeviceRank = rankGateway
	rankSettings   = iota
	rankSelf
	rankPort
	rankEdge
	rankSpeaker
	rankSilent
	rankSubnet
	rankEncrypted
	rankCipher
	rankEndpoint
	rankIface
	rankPeer
	rankOnLink
	rankSwitches
	rankDirect
	rankTunnelMTU
	rankSlot
	rankHook
	rankNeighbour
	rankRoute
	rankInsideRoute
	rankHop
	rankRule
	rankArrive
	rankNode
	rankMasquerade
	rankUntracked
	rankAccept
	rankAdmit
	rankMTU
	lastRank = rankMTU
)

// The kinds of object, and what is kept under each.
type (
	sysctlObject     struct{ path string }              // string
	vxlanObject      struct{}                           // link.VXLAN
	gatewayDevObject struct{}                           // present
	gatewayObject    struct{ addr netip.Addr }          // present
	settingsObject   struct{}                           // datapath.Settings
	selfObject       struct{}                           // datapath.Self
	portObject       struct{ id string }                // present: it is up
	subnetObject     struct{ key datapath.SubnetKey }   // uint32: VNI
	encryptedObject  struct{ vni uint32 }               // present
	cipherObject     struct{ addr datapath.Addr }       // datapath.Cipher
	insideObject     struct{ addr datapath.Addr }       // datapath.Addr: the node
	insideRoute      struct{ to netip.Addr }            // link.Route
	endpointObject   struct{ key datapath.EndpointKey } // datapath.Endpoint
	ifaceObject      struct{ ifindex uint32 }           // datapath.Iface
	peerObject       struct{ addr datapath.Addr }       // present
	onLinkObject     struct{ addr datapath.Addr }       // datapath.OnLink
	directObject     struct{ addr datapath.Addr }       // uint32: device
	switchesObject   struct{}                           // uint32
	tunnelMTUObject  struct{}                           // int: bytes
	slotObject       struct{ slot uint32 }              // present
	hookObject       struct{ hook datapath.Hook }       // present
	neighbourObject  struct{ key link.Neighbour }       // datapath.MAC
	routeObject      struct{ to netip.Addr }            // link.Route
	masqueradeObject struct{}                           // string: the subnets, by nft.Key
	untrackedObject  struct{}                           // netip.AddrPort: this node's end of the tunnel
	acceptObject     struct{ v6 bool }                  // nft.Accepting
	admitObject      struct{ v6 bool }                  // present
	mtuObject        struct{ id string }                // int: bytes
)

// present is the value of objects that are there or not.
type present struct{}

func (sysctlObject) rank() rank     { return rankSysctl }
func (vxlanObject) rank() rank      { return rankDevice }
func (gatewayDevObject) rank() rank { return rankDevice }
func (gatewayObject) rank() rank    { return rankGateway }
func (settingsObject) rank() rank   { return rankSettings }
func (selfObject) rank() rank       { return rankSelf }
func (portObject) rank() rank       { return rankPort }
func (subnetObject) rank() rank     { return rankSubnet }
func (encryptedObject) rank() rank  { return rankEncrypted }
func (cipherObject) rank() rank     { return rankCipher }
func (insideObject) rank() rank     { return rankCipher }
func (insideRoute) rank() rank      { return rankInsideRoute }
func (endpointObject) rank() rank   { return rankEndpoint }
func (ifaceObject) rank() rank      { return rankIface }
func (peerObject) rank() rank       { return rankPeer }
func (onLinkObject) rank() rank     { return rankOnLink }
func (directObject) rank() rank     { return rankDirect }
func (switchesObject) rank() rank   { return rankSwitches }
func (tunnelMTUObject) rank() rank  { return rankTunnelMTU }
func (slotObject) rank() rank       { return rankSlot }
func (hookObject) rank() rank       { return rankHook }
func (neighbourObject) rank() rank  { return rankNeighbour }
func (routeObject) rank() rank      { return rankRoute }
func (masqueradeObject) rank() rank { return rankMasquerade }
func (untrackedObject) rank() rank  { return rankUntracked }
func (acceptObject) rank() rank     { return rankAccept }
func (admitObject) rank() rank      { return rankAdmit }
func (mtuObject) rank() rank        { return rankMTU }

// objects are things in the kernel with what they hold.
type objects map[object]any

// facts are what the node has that the objects depend on.
type facts struct {
	// live: there is an overlay, so that the node's own devices are wanted.
	live bool
	// tunnel is the VXLAN device's index, zero while there is none.
	tunnel int
	// loopback is lo's index.
	loopback int
	// underlay are the indexes of the devices on which clients reach the node: those
	// to the world, and the engine's bridges.
	underlay []int
	// mtu is that of the underlay, in bytes.
	mtu int
	// paths lead to the peers, by their addresses; none to one that is unreachable.
	paths map[netip.Addr]link.Path
	// macs are those of peers with an IPv6 address, as far as known.
	macs map[netip.Addr]datapath.MAC
	// asking: direct frames are sent to peers where they are reached by them.
	asking  bool
	reached map[netip.Addr]reach
	// ciphers are the WireGuard devices, by name; keys are this node's, newest first.
	ciphers map[string]cipher
	keys    []wireguard.PublicKey
	// forwarding is what iptables does with forwarded packets of IPv4 and IPv6.
	forwarding, forwarding6 nft.Forwarding
	// admit is Config.Admit.
	admit bool
	// ports are the attached containers' interfaces.
	ports []port
}

// port is a container's interface.
type port struct {
	Attachment
	ifindex int
	// idle: the end for the container is in the node's namespace.
	idle bool
	// nsid is the node's number for the namespace that it is in.
	nsid int
}

// routerMAC is what every container sends to ("mesh" in ASCII, locally administered).
func routerMAC() datapath.MAC { return datapath.MAC{0x02, 0x6d, 0x65, 0x73, 0x68, 0x01} }

// empty says whether a state asks for nothing: the node is in no cluster.
func (s State) empty() bool {
	return !s.Local.IsValid() && len(s.Peers) == 0 && len(s.Networks) == 0 && len(s.Endpoints) == 0
}

// switches are those under /proc/sys that the overlay needs.
func switches() map[string]string {
	return map[string]string{
		"net/ipv4/ip_forward": "1",
		// What a node sends to itself and a program turns to a container comes from a local address.
		"net/ipv4/conf/lo/accept_local": "1",
	}
}

// wantDevices gives what must be there before anything can refer to it.
func wantDevices(s State, f facts, vxlanPort uint16) objects {
	w := objects{}
	if !f.live {
		return w
	}
	for path, value := range switches() {
		w[sysctlObject{path}] = value
	}
	w[vxlanObject{}] = link.VXLAN{Port: vxlanPort}
	w[gatewayDevObject{}] = present{}
	for _, g := range gateways(s) {
		w[gatewayObject{g.addr}] = present{}
		if is6(g.addr) {
			w[sysctlObject{link.Forwarding6}] = "1"
		}
	}
	return w
}

type gateway struct {
	vni  uint32
	addr netip.Addr
}

// gateways are the addresses of the mesh network that the node itself has.
func gateways(s State) []gateway {
	var out []gateway
	for _, n := range s.Networks {
		if !n.Mesh {
			continue
		}
		for _, g := range n.Gateways {
			if g.IsValid() {
				out = append(out, gateway{n.VNI, g})
			}
		}
	}
	return out
}

// want gives all the rest.
func want(s State, f facts, vxlanPort uint16) objects {
	w := make(objects, len(s.Endpoints)+len(s.Peers)+8*len(f.ports)+16)
	wantCluster(w, s)
	wantDirect(w, s, f)
	wantCiphers(w, s, f)
	wantAccept(w, s, f)
	for _, p := range f.ports {
		wantPort(w, s, p)
		w[mtuObject{p.ID}] = attachmentMTU(s, f, p.Attachment)
	}
	if f.live {
		w[tunnelMTUObject{}] = innerMTU(s, f, s.mesh())
		wantHooks(w, f, vxlanPort)
	}
	if f.live && s.Local.IsValid() {
		w[untrackedObject{}] = netip.AddrPortFrom(s.Local.Unmap(), vxlanPort)
		w[selfObject{}] = datapath.Self{MAC: nodeMAC(s.Local)}
	}
	return w
}

// wantHooks gives the programs on the node's own devices.
func wantHooks(w objects, f facts, vxlanPort uint16) {
	if f.tunnel != 0 {
		settings := datapath.Settings{VXLANIfindex: uint32(f.tunnel), RouterMAC: routerMAC()}
		binary.BigEndian.PutUint16(settings.VXLANPort[:], vxlanPort)
		w[settingsObject{}] = settings
		w[hookObject{datapath.Hook{Program: datapath.Tunnel, Ifindex: f.tunnel}}] = present{}
	}
	for _, slot := range datapath.Slots() {
		w[slotObject{slot}] = present{}
	}
	for _, index := range f.underlay {
		w[hookObject{datapath.Hook{Program: datapath.Underlay, Ifindex: index}}] = present{}
	}
	if f.loopback != 0 {
		w[hookObject{datapath.Hook{Program: datapath.Local, Ifindex: f.loopback}}] = present{}
	}
}

// wantCluster gives what follows from the state alone.
func wantCluster(w objects, s State) {
	wantWayOut(w, s)
	networks := map[uint32]Network{}
	for _, n := range s.Networks {
		networks[n.VNI] = n
		for _, subnet := range n.Subnets {
			w[subnetObject{datapath.SubnetKeyOf(subnet)}] = n.VNI
		}
	}
	for _, e := range s.Endpoints {
		if !e.Node.IsValid() || e.Node == s.Local {
			continue
		}
		w[endpointObject{datapath.EndpointKey{VNI: e.VNI, Addr: datapath.AddrOf(e.Addr)}}] = networks[e.VNI].remote(e.Node)
	}
	for _, g := range gateways(s) {
		w[endpointObject{datapath.EndpointKey{VNI: g.vni, Addr: datapath.AddrOf(g.addr)}}] = datapath.HostEndpoint()
	}
	for _, p := range s.Peers {
		if p.Addr.IsValid() {
			w[peerObject{datapath.AddrOf(p.Addr)}] = present{}
		}
	}
}

// wantWayOut translates what leaves the node for the world.
func wantWayOut(w objects, s State) {
	var out []netip.Prefix
	for _, n := range s.Networks {
		if n.Mesh {
			out = append(out, n.Subnets...)
		}
	}
	if key := nft.Key(out); key != "" {
		w[masqueradeObject{}] = key
	}
}

// tunnelled says whether a network's packets take the tunnel to every peer.
func (n Network) tunnelled() bool { return n.Mesh || n.Transport == TransportVXLAN }

// remote is a container of the network on another node.
func (n Network) remote(node netip.Addr) datapath.Endpoint {
	switch {
	case n.tunnelled():
		return datapath.TunnelEndpoint(node)
	case n.encrypted():
		return datapath.EncryptedEndpoint(node)
	}
	return datapath.RemoteEndpoint(node)
}

// onLink says whether a peer's direct frames are taken: whatever this node's own
// packets do, since the peer may be the last to hear that they should not come.
func (f facts) onLink(p Peer) bool {
	return p.Transport == TransportDirect && f.paths[p.Addr].OnLink
}

// direct says whether a peer is sent to without encapsulation.
func (f facts) direct(p Peer) bool {
	return f.asking && f.onLink(p) && f.reached[p.Addr].direct
}

// wantDirect gives the peers that need no tunnel.
func wantDirect(w objects, s State, f facts) {
	for _, p := range s.Peers {
		if !f.onLink(p) {
			continue
		}
		path := f.paths[p.Addr]
		on := datapath.OnLink{Ifindex: uint32(path.Ifindex)}
		if is6(p.Addr) {
			if on.MAC, on.Own = f.macs[p.Addr], path.MAC; on.MAC == (datapath.MAC{}) {
				continue
			}
		}
		w[onLinkObject{datapath.AddrOf(p.Addr)}] = on
		w[switchesObject{}] = switchesFor(f)
		if f.direct(p) {
			w[directObject{datapath.AddrOf(p.Addr)}] = uint32(path.Ifindex)
		}
	}
}

func switchesFor(f facts) uint32 {
	if f.asking {
		return datapath.SwitchDirect | datapath.SwitchAnswer
	}
	return datapath.SwitchDirect
}

// wantAccept lets packets through where iptables drops what nobody accepts, and takes
// from the input hook what is for the load balancer.
func wantAccept(w objects, s State, f facts) {
	for _, n := range s.Networks {
		for _, subnet := range n.Subnets {
			v6 := subnet.Addr().Is6()
			if n.Mesh && f.forwardingOf(v6) == nft.ForwardingDocker {
				w[acceptObject{v6}] = nft.AcceptsAll
			}
			if n.Mesh && f.admit {
				w[admitObject{v6}] = present{}
			}
		}
	}
}

func (f facts) forwardingOf(v6 bool) nft.Forwarding {
	if v6 {
		return f.forwarding6
	}
	return f.forwarding
}

// wantPort gives what one container needs. A container that is here is here,
// whatever the state says of its address.
func wantPort(w objects, s State, p port) {
	mac, err := parseMAC(p.MAC)
	if err != nil {
		return // checked when it was attached
	}
	for _, a := range p.Addrs {
		key := datapath.EndpointKey{VNI: p.VNI, Addr: datapath.AddrOf(a.Addr())}
		w[endpointObject{key}] = datapath.LocalEndpoint(p.ifindex, mac)
		if p.Mesh {
			w[neighbourObject{link.Neighbour{Ifindex: p.ifindex, Addr: a.Addr()}}] = mac
			w[routeObject{a.Addr()}] = link.Route{Ifindex: p.ifindex, Source: sourceFor(s, p.VNI, a)}
		}
	}
	w[portObject{p.ID}] = present{}
	w[ifaceObject{uint32(p.ifindex)}] = datapath.NewIface(p.VNI, p.Mesh, mac, p.Addrs)
	w[hookObject{datapath.Hook{Program: datapath.Container, Ifindex: p.ifindex}}] = present{}
}

// sourceFor gives the address that the node speaks to a container from: the
// gateway of the container's own subnet.
func sourceFor(s State, vni uint32, a netip.Prefix) netip.Addr {
	for _, g := range gateways(s) {
		if g.vni == vni && a.Contains(g.addr) {
			return g.addr
		}
	}
	return netip.Addr{}
}

// followsFromPorts says whether an object is there for a container of this node
// and so can be decided on before any state is known.
func followsFromPorts(o object, value any) bool {
	switch o := o.(type) {
	case portObject, ifaceObject, neighbourObject, routeObject, mtuObject, speakerObject, silentObject:
		return true
	case hopObject:
		h, ok := value.(link.Hop)
		return ok && h.Ifindex != 0 && !h.Node.IsValid() && !h.Sealed
	case endpointObject:
		e, ok := value.(datapath.Endpoint)
		return ok && e.Local()
	case hookObject:
		return o.hook.Program == datapath.Container
	default:
		return false
	}
}
