package overlay

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/meshd/meshd/overlay/datapath"
	"github.com/meshd/meshd/overlay/link"
)

// Difference is one thing in the kernel that is not as a state asks.
type Difference struct {
	Kind, What string
	// Want and Have are for people; "nothing" stands for an absent object.
	Want, Have string
}

const nothing = "nothing"

// Differences compares the kernel with a state and changes neither.
func (o *Overlay) Differences(s State) ([]Difference, error) {
	s = o.cfg.complete(s)
	o.mu.Lock()
	defer o.mu.Unlock()
	f, err := o.facts(s, true)
	if err != nil {
		return nil, err
	}
	f.live = !s.empty()
	held, err := o.kernel.read(f)
	if err != nil {
		return nil, err
	}
	wanted := o.cfg.Driver.objects()
	ops := append(diff(wanted.devices(s, f, s.VXLANPort), held, 0, lastDeviceRank),
		diff(wanted.rest(s, f, s.VXLANPort), held, lastDeviceRank+1, lastRank)...)
	out := make([]Difference, 0, len(ops))
	for _, op := range ops {
		d := Difference{Want: nothing, Have: nothing}
		d.Kind, d.What = nameOf(op.object)
		if have, ok := held[op.object]; ok {
			d.Have = valueText(have)
		}
		if !op.remove {
			d.Want = valueText(op.value)
		}
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b Difference) int { return strings.Compare(a.What, b.What) })
	return out, nil
}

// valueText shows an object's value.
func valueText(v any) string {
	switch v := v.(type) {
	case present:
		return "there"
	case datapath.Endpoint:
		switch {
		case v.Local():
			return fmt.Sprintf("device %d of this node", v.Ifindex)
		case v.Node != datapath.Addr{}:
			return "node " + v.Node.Netip().String()
		}
		return "this node itself"
	case datapath.Iface:
		return fmt.Sprintf("%s %s on network %d", v.Addr4.Netip(), macText(v.MAC), v.VNI)
	case datapath.MAC:
		return macText(v)
	case link.Route:
		return fmt.Sprintf("device %d from %s", v.Ifindex, v.Source)
	case link.VXLAN:
		return fmt.Sprintf("UDP port %d", v.Port)
	case uint32:
		return fmt.Sprintf("network %d", v)
	}
	return fmt.Sprint(v)
}

func macText(m datapath.MAC) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// Place says where an address is.
type Place string

// The places.
const (
	PlaceNowhere Place = "nowhere" // the data path drops packets to it
	PlaceHere    Place = "here"    // a container of this node
	PlaceNode    Place = "node"    // a container of another node
	PlaceSelf    Place = "self"    // the node itself: a gateway
)

// Path is where this node's kernel sends packets to an address on a network.
type Path struct {
	Place Place
	// Network: the data path knows the subnet that the address is in.
	Network bool
	// Device, of a container here, is the node's end of its interface; Attachment
	// is what it is for. Guarded: the program on it is in place.
	Device     string
	Attachment Attachment
	Guarded    bool
	// Node, elsewhere, is the underlay address of the container's node. Peer:
	// packets from it are let in. Tunnel: the tunnel device is up.
	Node   netip.Addr
	Peer   bool
	Tunnel bool
	// Way is the underlay's route to Node, NoWay why there is none.
	Way   link.Way
	NoWay string
	// Direct: packets go to Node without the tunnel.
	Direct bool
	// Encrypted: packets go to Node by WireGuard or not at all; Sealed: there is a key for it.
	Encrypted, Sealed bool
	// Returns: answers to this node's clients may be sent from Node in its name.
	Returns bool
	// Overhead is what the tunnel or WireGuard adds to a packet, in bytes; none if Direct.
	Overhead int
	// MTU is that of the containers' interfaces on this node, in bytes.
	MTU int
}

// wayfinder is an edge that can ask the underlay's routing table.
type wayfinder interface {
	way(to netip.Addr) (link.Way, error)
}

func (k *linuxKernel) way(to netip.Addr) (link.Way, error) { return k.door.WayTo(to) }

// Transports counts the peers by how packets to them travel, on networks that do
// not have a transport of their own; and those that encrypted networks lead to.
func (o *Overlay) Transports() map[Transport]int {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := map[Transport]int{TransportVXLAN: 0, TransportDirect: 0, TransportWireGuard: 0}
	for object := range o.held {
		switch object.(type) {
		case peerObject, nodeObject:
			out[TransportVXLAN]++
		case cipherObject:
			out[TransportWireGuard]++
		case directObject:
			out[TransportDirect]++
			out[TransportVXLAN]--
		}
	}
	return out
}

// Path reads from the kernel how packets to an address on a network go on.
func (o *Overlay) Path(vni uint32, to netip.Addr) (Path, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.desired()
	f, err := o.facts(s, true)
	if err != nil {
		return Path{}, err
	}
	held, err := o.kernel.read(f)
	if err != nil {
		return Path{}, err
	}
	p := Path{Place: PlaceNowhere, Overhead: overhead(s.Local), MTU: innerMTU(s, f, s.mesh()), Tunnel: f.tunnel != 0}
	if o.cfg.Driver == DriverBridge {
		p.bridged(s, f, held, vni, to)
		if p.Place == PlaceNode {
			p.findWay(o.kernel)
		}
		return p, nil
	}
	for object, v := range held {
		if sub, ok := object.(subnetObject); ok && v == any(vni) {
			bits := int(sub.key.Bits)
			if to.Is4() {
				bits -= 96
			}
			p.Network = p.Network || bits >= 0 && netip.PrefixFrom(sub.key.Addr.Netip(), bits).Contains(to)
		}
	}
	e, ok := held[endpointObject{datapath.EndpointKey{VNI: vni, Addr: datapath.AddrOf(to)}}].(datapath.Endpoint)
	switch {
	case !ok:
	case e.Local():
		p.Place = PlaceHere
		p.here(f, held, int(e.Ifindex))
	case e.Node != datapath.Addr{}:
		p.Place, p.Node = PlaceNode, e.Node.Netip()
		_, p.Peer = held[peerObject{e.Node}]
		_, p.Returns = held[directObject{e.Node}]
		_, p.Sealed = held[cipherObject{e.Node}]
		switch {
		case e.Encrypted():
			n := Network{Transport: TransportWireGuard}
			p.Encrypted, p.Overhead, p.MTU = true, f.overhead(n, Peer{Addr: p.Node}), innerMTU(s, f, n)
		case p.Returns && !e.Tunnelled():
			p.Direct, p.Overhead = true, 0
		}
		p.findWay(o.kernel)
	default:
		p.Place = PlaceSelf
	}
	return p, nil
}

func (p *Path) here(f facts, held objects, ifindex int) {
	for _, port := range f.ports {
		if port.ifindex == ifindex {
			p.Attachment, p.Device = port.Attachment, link.HostName(port.ID)
		}
	}
	_, p.Guarded = held[hookObject{datapath.Hook{Program: datapath.Container, Ifindex: ifindex}}]
}

func (p *Path) findWay(k kernel) {
	finder, ok := k.(wayfinder)
	if !ok {
		return
	}
	var err error
	if p.Way, err = finder.way(p.Node); err != nil {
		p.NoWay = err.Error()
	}
}
