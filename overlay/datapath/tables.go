package datapath

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
)

// Addr is an IP address as the maps hold it: 16 bytes, IPv4 mapped into IPv6.
type Addr [16]byte

// AddrOf converts; the zero netip.Addr gives the zero Addr, which means none.
func AddrOf(a netip.Addr) Addr {
	if !a.IsValid() {
		return Addr{}
	}
	return a.As16()
}

// Netip converts back.
func (a Addr) Netip() netip.Addr {
	if a == (Addr{}) {
		return netip.Addr{}
	}
	return netip.AddrFrom16(a).Unmap()
}

// MAC is an Ethernet address.
type MAC [6]byte

// Iface flags.
const ifaceMesh = 1

// Iface is what may come from a container's interface (struct iface).
type Iface struct {
	VNI   uint32
	Flags uint32
	Addr4 Addr
	Addr6 Addr
	MAC   MAC
	_     [2]byte
}

// NewIface allows addrs, at most one of each family, on the network vni.
func NewIface(vni uint32, mesh bool, mac MAC, addrs []netip.Prefix) Iface {
	v := Iface{VNI: vni, MAC: mac}
	if mesh {
		v.Flags = ifaceMesh
	}
	for _, p := range addrs {
		if p.Addr().Unmap().Is4() {
			v.Addr4 = AddrOf(p.Addr())
		} else {
			v.Addr6 = AddrOf(p.Addr())
		}
	}
	return v
}

// EndpointKey is an address on a network (struct endpoint_key).
type EndpointKey struct {
	VNI  uint32
	Addr Addr
}

// Endpoint flags.
const (
	endpointHost      = 1
	endpointTunnel    = 2
	endpointEncrypted = 4
)

// The switches: SwitchDirect says that there may be peers in Datapath.OnLink,
// SwitchAnswer that probes of theirs are answered.
const (
	SwitchDirect uint32 = 1
	SwitchAnswer uint32 = 2
)

// OnLink is the way to a peer on a link (struct onlink). The MACs are zero for
// peers with an IPv4 address, for which the kernel's neighbour table is asked.
type OnLink struct {
	Ifindex  uint32
	MAC, Own MAC
}

// Endpoint says where an address is (struct endpoint): make one with
// LocalEndpoint, RemoteEndpoint or HostEndpoint.
type Endpoint struct {
	Ifindex uint32
	Flags   uint32
	Node    Addr
	MAC     MAC
	_       [2]byte
}

// LocalEndpoint is a container of this node behind the device ifindex.
func LocalEndpoint(ifindex int, mac MAC) Endpoint {
	return Endpoint{Ifindex: uint32(ifindex), MAC: mac}
}

// RemoteEndpoint is a container of another node.
func RemoteEndpoint(node netip.Addr) Endpoint { return Endpoint{Node: AddrOf(node)} }

// TunnelEndpoint is likewise, but is reached through the tunnel even where the
// node is sent to directly: its packets may carry others' source addresses.
func TunnelEndpoint(node netip.Addr) Endpoint {
	return Endpoint{Node: AddrOf(node), Flags: endpointTunnel}
}

// EncryptedEndpoint is likewise, but is reached through WireGuard or not at all.
func EncryptedEndpoint(node netip.Addr) Endpoint {
	return Endpoint{Node: AddrOf(node), Flags: endpointEncrypted}
}

// HostEndpoint is an address of the node itself.
func HostEndpoint() Endpoint { return Endpoint{Flags: endpointHost} }

// Local says whether the endpoint is a container of this node.
func (e Endpoint) Local() bool { return e.Ifindex != 0 }

// Tunnelled says whether it is never reached but through the tunnel.
func (e Endpoint) Tunnelled() bool { return e.Flags&endpointTunnel != 0 }

// Encrypted says whether it is never reached but through WireGuard.
func (e Endpoint) Encrypted() bool { return e.Flags&endpointEncrypted != 0 }

// Cipher is how to send to a node encrypted (struct cipher).
type Cipher struct {
	// Ifindex is the WireGuard device's.
	Ifindex uint32
	// Inside is where tunnelled packets go in it; zero: nowhere.
	Inside Addr
}

// SubnetKey is a network's subnet (struct subnet_key).
type SubnetKey struct {
	// Bits counts from the start of the 16 bytes: 96 more than an IPv4 prefix has.
	Bits uint32
	Addr Addr
}

// SubnetKeyOf converts a prefix.
func SubnetKeyOf(p netip.Prefix) SubnetKey {
	p = p.Masked()
	bits := uint32(p.Bits())
	if p.Addr().Is4() {
		bits += 96
	}
	return SubnetKey{Bits: bits, Addr: AddrOf(p.Addr())}
}

// Settings are what all programs of a node share (struct config).
type Settings struct {
	VXLANIfindex uint32
	// VXLANPort in network byte order.
	VXLANPort [2]byte
	RouterMAC MAC
}

// Self is a node's own MAC address in the tunnel (struct self).
type Self struct {
	MAC MAC
	_   [2]byte
}

// Table is a map of the kernel's.
type Table[K, V comparable] struct {
	name string
	m    *ebpf.Map
}

// Put inserts or replaces atomically: a packet sees the old value or the new. Where
// there is no room the error is a FullError.
func (t Table[K, V]) Put(k K, v V) error {
	if err := t.m.Put(k, v); err != nil {
		return fmt.Errorf("%s: put %v: %w", t.name, k, full(t.name, t.m, err))
	}
	return nil
}

// Delete removes k; a key that is not there is no error.
func (t Table[K, V]) Delete(k K) error {
	if err := t.m.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("%s: delete %v: %w", t.name, k, err)
	}
	return nil
}

// batch is how many entries are read by one call: more than any bucket of a hash
// table has, which is what one call gives at least.
const batch = 4096

// All reads the whole table, by a call for some thousand entries where the
// kernel can do that (hash tables from Linux 5.6 on, tries from 5.15 on).
func (t Table[K, V]) All() (map[K]V, error) {
	size := min(batch, int(t.m.MaxEntries()))
	var (
		keys   = make([]K, size)
		values = make([]V, size)
		all    = map[K]V{}
		cursor ebpf.MapBatchCursor
	)
	for {
		n, err := t.m.BatchLookup(&cursor, keys, values, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return t.each()
		}
		for i := range n {
			all[keys[i]] = values[i]
		}
		if err != nil {
			return all, nil
		}
	}
}

func (t Table[K, V]) each() (map[K]V, error) {
	var (
		k   K
		v   V
		all = map[K]V{}
		it  = t.m.Iterate()
	)
	for it.Next(&k, &v) {
		all[k] = v
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("%s: read: %w", t.name, err)
	}
	return all, nil
}
