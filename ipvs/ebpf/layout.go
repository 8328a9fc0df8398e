package ebpf

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/meshd/meshd/ipvs"
)

// The structures of bpf/maps.h, in its names. Ports are in network byte order.
type (
	addr [16]byte
	port [2]byte

	serviceKey struct {
		VNI   uint32
		Addr  addr
		Port  port
		Proto uint8
		_     uint8
	}
	service struct {
		ID, Generation, Count uint32
		Affinity              uint32 // seconds
		Algorithm             uint8
		Local                 uint8
		// All but the first in seconds.
		EjectAfter                            uint16
		EjectWithin, EjectFirst, EjectLongest uint32
	}
	slotKey struct {
		Service, Generation, Index uint32
	}
	slot struct {
		Addr   addr
		Port   port
		Weight uint16
	}
	backendKey struct {
		Service uint32
		Addr    addr
		Port    port
		_       uint16
	}
	node struct {
		Netns   uint64
		MeshVNI uint32
		Addr4   [4]byte
		Flags   uint32
		Limit   uint32
		Addr6   addr
	}
	clientKey struct {
		VNI  uint32
		Addr addr
	}
	clientEntry struct {
		Count    uint32
		Networks [clientNetworks]clientKey
	}
	counters struct {
		Connections, Packets, Bytes, AnswerPackets, AnswerBytes, Refusals, Timeouts, Resets uint64
	}
	refusalKey struct {
		Service, Reason uint32
	}
	streak struct {
		Count, Since uint32
	}
	health struct {
		Limit, Window, Told uint32
		_                   uint32
		Streaks             [2]streak
	}
	suspect struct {
		Backend        backendKey
		Failure, Count uint32
		Port           port
		Proto          uint8
		_              [5]uint8
	}
)

const (
	// What a backend is: bits, and the weight above.
	serving     uint32 = 0
	draining    uint32 = 1
	hereabouts  uint32 = 2
	ejected     uint32 = 4
	away        uint32 = 8
	weightShift        = 16
	// portWords is PORT_WORDS.
	portWords = 1024
	// clientNetworks is CLIENT_NETWORKS.
	clientNetworks = 16
	// leadSockets is NODE_SOCKETS.
	leadSockets uint32 = 1
	// askFilter is NODE_ADMIT.
	askFilter uint32 = 2
	// carrying is NODE_CARRYING.
	carrying uint32 = 4
)

func clientKeyOf(a ipvs.ClientAddr) clientKey { return clientKey{a.VNI, addrOf(a.Addr)} }

// clientOf is the whole container; of one on very many networks, sockets see some
// and packets the rest.
func clientOf(c ipvs.Client) clientEntry {
	var out clientEntry
	for i, a := range c.Addrs[:min(len(c.Addrs), clientNetworks)] {
		out.Networks[i] = clientKeyOf(a)
		out.Count++
	}
	return out
}

func (c clientEntry) client() ipvs.Client {
	var out ipvs.Client
	for _, k := range c.Networks[:min(c.Count, clientNetworks)] {
		out.Addrs = append(out.Addrs, ipvs.ClientAddr{VNI: k.VNI, Addr: k.Addr.netip()})
	}
	return out
}

// anyIPv6 stands for every IPv6 address of the node, addr{} for every IPv4 one.
func anyIPv6() (a addr) {
	for i := range a {
		a[i] = 0xff
	}
	return a
}

func addrOf(a netip.Addr) addr {
	switch {
	case !a.IsValid():
		return addr{}
	case a == netip.IPv6Unspecified():
		return anyIPv6()
	}
	return a.As16()
}

func (a addr) netip() netip.Addr {
	switch a {
	case addr{}:
		return netip.Addr{}
	case anyIPv6():
		return netip.IPv6Unspecified()
	}
	return netip.AddrFrom16(a).Unmap()
}

func portOf(p uint16) (out port) {
	binary.BigEndian.PutUint16(out[:], p)
	return out
}

func (p port) number() uint16 { return binary.BigEndian.Uint16(p[:]) }

func keyOf(k ipvs.Key) serviceKey {
	return serviceKey{VNI: k.VNI, Addr: addrOf(k.VIP), Port: portOf(k.Port), Proto: uint8(k.Protocol)}
}

func (k serviceKey) key() ipvs.Key {
	return ipvs.Key{VNI: k.VNI, VIP: k.Addr.netip(), Port: k.Port.number(), Protocol: ipvs.Protocol(k.Proto)}
}

func backendKeyOf(id uint32, b ipvs.Backend) backendKey {
	return backendKey{Service: id, Addr: addrOf(b.Addr), Port: portOf(b.Port)}
}

func stateOf(b ipvs.Backend) uint32 {
	state := serving | uint32(max(b.Weight, 1))<<weightShift
	if b.Draining {
		state |= draining
	}
	if b.Local {
		state |= hereabouts
	}
	if b.Ejected {
		state |= ejected
	}
	if b.Away {
		state |= away
	}
	return state
}

func (k backendKey) backend(state uint32) ipvs.Backend {
	return ipvs.Backend{
		Addr: k.Addr.netip(), Port: k.Port.number(), Weight: uint16(state >> weightShift),
		Draining: state&draining != 0, Local: state&hereabouts != 0, Ejected: state&ejected != 0, Away: state&away != 0,
	}
}

// What service.Local says.
const (
	preferLocal  = 1
	localOnly    = 2
	directReturn = 4 // SERVICE_RETURN, beside one of them
)

// What an address of the node is: one, NODE_ADDR_TUNNEL, or NODE_ADDR_MESH.
const (
	nodeAddr   uint32 = 1
	tunnelAddr uint32 = 2
	meshAddr   uint32 = 3
)

// serviceOf is how a service is written, but for who it is and its slots.
func serviceOf(s ipvs.Service) service {
	out := service{Affinity: seconds(s.Affinity)}
	out.Algorithm = uint8(max(slices.Index(algorithms(), s.Algorithm), 0))
	switch {
	case s.LocalOnly:
		out.Local = localOnly
	case s.PreferLocal:
		out.Local = preferLocal
	}
	if s.DirectReturn {
		out.Local |= directReturn
	}
	out.EjectAfter = uint16(s.Ejection.After)
	out.EjectWithin, out.EjectFirst, out.EjectLongest = seconds(s.Ejection.Within), seconds(s.Ejection.First), seconds(s.Ejection.Longest)
	return out
}

func seconds(d time.Duration) uint32 { return uint32(d / time.Second) }

func duration(seconds uint32) time.Duration { return time.Duration(seconds) * time.Second }

func (v service) read(k ipvs.Key) ipvs.Service {
	out := ipvs.Service{Key: k, Affinity: duration(v.Affinity), PreferLocal: v.Local&preferLocal != 0, LocalOnly: v.Local&localOnly != 0}
	out.DirectReturn = v.Local&directReturn != 0
	out.Ejection = ipvs.Ejection{
		After: int(v.EjectAfter), Within: duration(v.EjectWithin), First: duration(v.EjectFirst), Longest: duration(v.EjectLongest),
	}
	if all := algorithms(); int(v.Algorithm) < len(all) {
		out.Algorithm = all[v.Algorithm]
	}
	return out
}

// publishedBits is the content of the map published.
func publishedBits(services []ipvs.Service) []uint64 {
	words := make([]uint64, 2*portWords)
	for _, s := range services {
		if !s.Published() {
			continue
		}
		at := int(s.Port >> 6)
		if s.Protocol == ipvs.UDP {
			at += portWords
		}
		words[at] |= 1 << (s.Port & 63)
	}
	return words
}
