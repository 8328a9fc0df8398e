package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Where the kernel itself forwards for containers, each packet finds its way in tables of
// ours, apart from the machine's. A route into the tunnel carries what the tunnel device is
// to be told: network and node (lightweight tunnel, RTA_ENCAP). So that not every container
// becomes a neighbour on that device, all these routes have one gateway that there is not.

// Table is the routing table that the kernel looks into first; 'm'.
const Table = 0x6d

// rulePriority is where our rules stand: before the main table's, behind the local one's.
const rulePriority = 0x6d

// hops is how far tunnelled packets travel (their TTL).
const hops = 64

// Hop is a route in a table of ours: to a container here, to one on another node, or nowhere.
type Hop struct {
	// Ifindex is the container's device or, with Node, the tunnel's; zero: who asks is told
	// that nobody is there.
	Ifindex int
	// Source is the address that the node's own packets carry; may be unset.
	Source netip.Addr
	// Node, if set, is reached through the tunnel on the network VNI.
	Node netip.Addr
	VNI  uint32
	// Sealed says that the device is a WireGuard one, which knows the node itself.
	Sealed bool
}

// HopKey is what a Hop is the way to: To, for who looks into Table.
type HopKey struct {
	Table uint32
	To    netip.Prefix
}

func noGateway(v6 bool) net.IP {
	if v6 {
		return net.ParseIP("fe80::6d")
	}
	return net.IPv4(169, 254, 109, 1).To4()
}

// PutHop sets a route.
func (d *Door) PutHop(k HopKey, h Hop) error {
	route := hopRoute(k)
	route.LinkIndex = h.Ifindex
	switch {
	case h.Ifindex == 0:
		route.Type = unix.RTN_UNREACHABLE
	case h.Node.IsValid():
		route.Gw, route.Flags = noGateway(k.To.Addr().Is6()), int(netlink.FLAG_ONLINK)
		route.Encap = &tunnelEncap{h.VNI, h.Node}
	default:
		route.Scope = netlink.SCOPE_LINK
		if h.Source.IsValid() {
			route.Src = h.Source.AsSlice()
		}
	}
	if h.Ifindex != 0 {
		if err := d.speak6At(k.To.Addr(), route.LinkIndex); err != nil {
			return err
		}
	}
	if err := d.h.RouteReplace(route); err != nil {
		return fmt.Errorf("route to %s in table %d: %w", k.To, k.Table, err)
	}
	return nil
}

// DeleteHop removes a route; none is no error.
func (d *Door) DeleteHop(k HopKey) error {
	if err := d.h.RouteDel(hopRoute(k)); err != nil && !missing(err) {
		return fmt.Errorf("delete route to %s in table %d: %w", k.To, k.Table, err)
	}
	return nil
}

func hopRoute(k HopKey) *netlink.Route {
	return &netlink.Route{
		Dst: ipNet(k.To), Table: int(k.Table), Protocol: routeProtocol,
	}
}

// tunnelEncap is LWTUNNEL_ENCAP_IP or LWTUNNEL_ENCAP_IP6, by the node's address.
type tunnelEncap struct {
	vni  uint32
	node netip.Addr
}

// The attributes of both; those of IPv6 have the same numbers (linux/lwtunnel.h).
const (
	encapID    = 1
	encapNode  = 2
	encapHops  = 4
	encapFlags = 6
	// encapChecksum (TUNNEL_CSUM): UDP over IPv6 must have one (RFC 8200).
	encapChecksum = 1
)

// Type implements netlink.Encap.
func (e *tunnelEncap) Type() int {
	if e.node.Is6() {
		return nl.LWTUNNEL_ENCAP_IP6
	}
	return nl.LWTUNNEL_ENCAP_IP
}

// Encode implements netlink.Encap.
func (e *tunnelEncap) Encode() ([]byte, error) {
	id := binary.BigEndian.AppendUint64(nil, uint64(e.vni))
	attrs := []*nl.RtAttr{nl.NewRtAttr(encapID, id), nl.NewRtAttr(encapNode, e.node.AsSlice()), nl.NewRtAttr(encapHops, []byte{hops})}
	if e.node.Is6() {
		attrs = append(attrs, nl.NewRtAttr(encapFlags, binary.BigEndian.AppendUint16(nil, encapChecksum)))
	}
	var out []byte
	for _, a := range attrs {
		out = append(out, a.Serialize()...)
	}
	return out, nil
}

// Decode implements netlink.Encap.
func (e *tunnelEncap) Decode(b []byte) error {
	attrs, err := nl.ParseRouteAttrAsMap(b)
	if err != nil {
		return err
	}
	if id := attrs[encapID].Value; len(id) == 8 {
		e.vni = uint32(binary.BigEndian.Uint64(id))
	}
	e.node = addr(attrs[encapNode].Value)
	return nil
}

// String implements netlink.Encap.
func (e *tunnelEncap) String() string { return fmt.Sprintf("network %d at %s", e.vni, e.node) }

// Equal implements netlink.Encap.
func (e *tunnelEncap) Equal(x netlink.Encap) bool {
	o, ok := x.(*tunnelEncap)
	return ok && *o == *e
}

// Hops lists the routes of ours that are not in the main table. The library keeps
// encapsulations of other kinds only to itself, so the messages are read here.
func (d *Door) Hops() (map[HopKey]Hop, error) {
	out := map[HopKey]Hop{}
	devices, err := d.Devices()
	if err != nil {
		return nil, err
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		messages, err := dump(func() ([][]byte, error) {
			req := nl.NewNetlinkRequest(unix.RTM_GETROUTE, unix.NLM_F_DUMP)
			req.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(family)}})
			return req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWROUTE)
		})
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		for _, m := range messages {
			k, h, ok, err := parseHop(m)
			if err != nil {
				return nil, fmt.Errorf("list routes: %w", err)
			}
			if ok {
				h.Sealed = devices[h.Ifindex].WireGuard
				out[k] = h
			}
		}
	}
	return out, nil
}

func parseHop(b []byte) (k HopKey, h Hop, ours bool, err error) {
	msg := nl.DeserializeRtMsg(b)
	attrs, err := nl.ParseRouteAttrAsMap(b[msg.Len():])
	if err != nil || msg.Protocol != uint8(routeProtocol) {
		return k, h, false, err
	}
	to, ok := netip.AddrFromSlice(attrs[unix.RTA_DST].Value)
	if !ok {
		to = netip.IPv4Unspecified()
		if msg.Family == unix.AF_INET6 {
			to = netip.IPv6Unspecified()
		}
	}
	k = HopKey{uint32(msg.Table), netip.PrefixFrom(to, int(msg.Dst_len))}
	if t := attrs[unix.RTA_TABLE].Value; len(t) == 4 {
		k.Table = binary.NativeEndian.Uint32(t)
	}
	if i := attrs[unix.RTA_OIF].Value; len(i) == 4 && msg.Type == unix.RTN_UNICAST {
		h.Ifindex = int(binary.NativeEndian.Uint32(i))
	}
	if s := attrs[unix.RTA_PREFSRC].Value; len(s) > 0 {
		h.Source = addr(s)
	}
	if e := attrs[unix.RTA_ENCAP].Value; len(e) > 0 {
		var encap tunnelEncap
		err = encap.Decode(e)
		h.VNI, h.Node = encap.vni, encap.node
	}
	return k, h, k.Table != unix.RT_TABLE_MAIN, err
}

// Rule leads packets with a mark to a table; those without one, Mark 0, to Table.
type Rule struct {
	V6   bool
	Mark uint32
}

// Table is where the rule leads: to a table of the mark's number.
func (r Rule) Table() uint32 {
	if r.Mark == 0 {
		return Table
	}
	return r.Mark
}

// PutRule adds a rule; one that is there is no error.
func (d *Door) PutRule(r Rule) error {
	if err := d.h.RuleAdd(r.netlink()); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("rule for table %d: %w", r.Table(), err)
	}
	return nil
}

// DeleteRule removes it; none is no error.
func (d *Door) DeleteRule(r Rule) error {
	if err := d.h.RuleDel(r.netlink()); err != nil && !missing(err) {
		return fmt.Errorf("delete rule for table %d: %w", r.Table(), err)
	}
	return nil
}

// netlink has marked packets look into Table first, too: a container here is here.
func (r Rule) netlink() *netlink.Rule {
	out := netlink.NewRule()
	out.Family, out.Table, out.Priority, out.Protocol = netlink.FAMILY_V4, int(r.Table()), rulePriority, uint8(routeProtocol)
	if r.V6 {
		out.Family = netlink.FAMILY_V6
	}
	if r.Mark != 0 {
		out.Mark, out.Priority = r.Mark, rulePriority+1
	}
	return out
}

// Rules lists ours.
func (d *Door) Rules() (map[Rule]bool, error) {
	out := map[Rule]bool{}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := dump(func() ([]netlink.Rule, error) { return d.h.RuleList(family) })
		if err != nil {
			return nil, fmt.Errorf("list rules: %w", err)
		}
		for _, r := range rules {
			ours := Rule{V6: family == netlink.FAMILY_V6, Mark: r.Mark}
			if r.Protocol == uint8(routeProtocol) && r.Table == int(ours.Table()) {
				out[ours] = true
			}
		}
	}
	return out, nil
}
