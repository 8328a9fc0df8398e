package nat

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/ipvs"
)

// version is an IP version.
type version struct {
	name   string // what its maps' names end with
	proto  byte   // NFPROTO
	kind   nftables.SetDatatype
	size   uint32 // of an address, in bytes
	source uint32 // where the source address stands in the header; the destination follows
}

func versions() []version {
	return []version{
		{"4", unix.NFPROTO_IPV4, nftables.TypeIPAddr, 4, 12},
		{"6", unix.NFPROTO_IPV6, nftables.TypeIP6Addr, 16, 8},
	}
}

func (v version) is(a netip.Addr) bool { return uint32(a.BitLen()) == 8*v.size }

// tables are the maps of one IP version. Nobody can change them: they are constant.
type tables struct {
	version
	// ports and vips lead to a service's chain by destination: address, protocol and port, or address alone.
	ports, vips *nftables.Set
	// backends has an address and a port for each rule's index and slot.
	backends *nftables.Set
}

// putTables makes the maps of one IP version. The services' chains are there.
func putTables(c *nftables.Conn, v version, rules []rule) (tables, error) {
	port, err := nftables.ConcatSetType(v.kind, nftables.TypeInetProto, nftables.TypeInetService)
	if err != nil {
		return tables{}, err
	}
	slot, err := nftables.ConcatSetType(nftables.TypeInteger, nftables.TypeInteger)
	if err != nil {
		return tables{}, err
	}
	backend, err := nftables.ConcatSetType(v.kind, nftables.TypeInetService)
	if err != nil {
		return tables{}, err
	}
	lookup := func(name string, key, value nftables.SetDatatype, concat bool) *nftables.Set {
		return &nftables.Set{Table: table(), Name: name + v.name, Constant: true, IsMap: true, KeyType: key, DataType: value, Concatenation: concat}
	}
	t := tables{
		v,
		lookup("ports", port, nftables.TypeVerdict, true),
		lookup("vips", v.kind, nftables.TypeVerdict, false),
		lookup("backends", slot, backend, true),
	}
	ports, vips, backends := t.elements(rules)
	if err := putSet(c, t.ports, ports); err != nil {
		return t, err
	}
	if err := putSet(c, t.vips, vips); err != nil {
		return t, err
	}
	return t, putSet(c, t.backends, backends)
}

// most elements fit into a message, whose length is a number of 16 bits.
const most = 200

func putSet(c *nftables.Conn, s *nftables.Set, elements []nftables.SetElement) error {
	if err := c.AddSet(s, nil); err != nil {
		return fmt.Errorf("nftables: map %s: %w", s.Name, err)
	}
	for part := range slices.Chunk(elements, most) {
		if err := c.SetAddElements(s, part); err != nil {
			return fmt.Errorf("nftables: map %s: %w", s.Name, err)
		}
	}
	return nil
}

// elements are those of the three maps. Where a port is published on all addresses and on one, the one counts.
func (t tables) elements(rules []rule) (ports, vips, backends []nftables.SetElement) {
	to := map[string]int{}
	for i, r := range rules {
		for j, b := range r.slots {
			if !t.is(b.Addr) {
				break
			}
			backends = append(backends, nftables.SetElement{Key: append(number(i), number(j)...), Val: padded(b.Addr.AsSlice(), b.Port)})
		}
		for _, a := range r.nodes {
			if !t.is(a) {
				break
			}
			key := string(r.key(a))
			if _, taken := to[key]; !taken || !r.service.Everywhere() {
				to[key] = i
			}
		}
	}
	for key, i := range to {
		e := nftables.SetElement{Key: []byte(key), VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: serviceChain(i).Name}}
		if rules[i].service.Published() {
			ports = append(ports, e)
		} else {
			vips = append(vips, e)
		}
	}
	return ports, vips, backends
}

// key is by what connections to an address of the service find its chain.
func (r rule) key(a netip.Addr) []byte {
	if !r.service.Published() {
		return a.AsSlice()
	}
	return padded(append(a.AsSlice(), byte(r.service.Protocol), 0, 0, 0), r.service.Port)
}

// padded appends a port and fills its register.
func padded(key []byte, port uint16) []byte {
	return append(binary.BigEndian.AppendUint16(key, port), 0, 0)
}

func number(i int) []byte { return binaryutil.NativeEndian.PutUint32(uint32(i)) }

// Registers of 4 bytes.
const first = uint32(unix.NFT_REG32_00)

// find gives the rules that lead a connection to its service's chain: meta nfproto, ip daddr . meta l4proto . th dport vmap @ports; ip daddr vmap @vips.
func (t tables) find() [][]expr.Any {
	behind := first + t.size/4
	to := func(s *nftables.Set, more ...expr.Any) []expr.Any {
		out := append(t.isVersion(), &expr.Payload{DestRegister: first, Base: expr.PayloadBaseNetworkHeader, Offset: t.source + t.size, Len: t.size})
		return append(append(out, more...), &expr.Lookup{SourceRegister: first, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true, SetName: s.Name, SetID: s.ID})
	}
	return [][]expr.Any{
		to(t.ports,
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: behind},
			&expr.Payload{DestRegister: behind + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}),
		to(t.vips),
	}
}

func (v version) isVersion() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: first},
		&expr.Cmp{Op: expr.CmpOpEq, Register: first, Data: []byte{v.proto}},
	}
}

// lead: the rule's index . slot, map @backends to address and port, dnat.
func (t tables) lead(i int, r rule) []expr.Any {
	nat := &expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(t.proto), RegAddrMin: first}
	if r.service.Published() {
		nat.RegProtoMin, nat.Specified = first+t.size/4, true
	}
	return append(r.slot(t.version, first+1),
		&expr.Immediate{Register: first, Data: number(i)},
		&expr.Lookup{SourceRegister: first, DestRegister: first, IsDestRegSet: true, SetName: t.backends.Name, SetID: t.backends.ID},
		nat)
}

// seed makes a client's choice the same after each change of the rules.
const seed = 0x6d657368

// slot puts that of a new connection into a register: the client's hash, by turns, or any.
func (r rule) slot(v version, register uint32) []expr.Any {
	n := uint32(len(r.slots))
	if r.service.Affinity > 0 || r.service.Algorithm == ipvs.Maglev {
		return []expr.Any{
			&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: v.source, Len: v.size},
			&expr.Hash{SourceRegister: register, DestRegister: register, Length: v.size, Modulus: n, Seed: seed, Type: expr.HashTypeJenkins},
		}
	}
	kind := uint32(unix.NFT_NG_RANDOM)
	if r.service.Algorithm == ipvs.RoundRobin {
		kind = unix.NFT_NG_INCREMENTAL
	}
	return []expr.Any{&expr.Numgen{Register: register, Modulus: n, Type: kind}}
}

// selves translates the source of who was led to itself, which otherwise would take its own
// packets for forged: ip saddr . ip daddr of each local backend, masquerade. Without any there is no rule.
func (v version) selves(c *nftables.Conn, rules []rule) ([]expr.Any, error) {
	pair, err := nftables.ConcatSetType(v.kind, v.kind)
	if err != nil {
		return nil, err
	}
	set := &nftables.Set{Table: table(), Name: "selves" + v.name, Constant: true, Concatenation: true, KeyType: pair}
	var elements []nftables.SetElement
	for _, a := range locals(rules, v) {
		elements = append(elements, nftables.SetElement{Key: append(a.AsSlice(), a.AsSlice()...)})
	}
	if len(elements) == 0 {
		return nil, nil
	}
	if err := putSet(c, set, elements); err != nil {
		return nil, err
	}
	return append(v.isVersion(),
		// Both addresses stand one behind the other in the packet, too.
		&expr.Payload{DestRegister: first, Base: expr.PayloadBaseNetworkHeader, Offset: v.source, Len: 2 * v.size},
		&expr.Lookup{SourceRegister: first, SetName: set.Name, SetID: set.ID},
		&expr.Masq{}), nil
}
