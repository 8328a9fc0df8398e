package nat

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/ipvs"
)

// Table is the name of our table.
const Table = "meshd_balance"

// The chains: all services, for who comes from outside or from a container and for who is a process
// of the node; and who was led to itself.
const (
	chainServices = "services"
	chainIn       = "prerouting"
	chainOwn      = "output"
	chainSelf     = "postrouting"
)

func table() *nftables.Table {
	return &nftables.Table{Name: Table, Family: nftables.TableFamilyINet}
}

func chains() []*nftables.Chain {
	chain := func(name string, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
		return &nftables.Chain{Name: name, Table: table(), Type: nftables.ChainTypeNAT, Hooknum: hook, Priority: priority}
	}
	return []*nftables.Chain{
		{Name: chainServices, Table: table()},
		chain(chainIn, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest),
		chain(chainOwn, nftables.ChainHookOutput, nftables.ChainPriorityNATDest),
		chain(chainSelf, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource),
	}
}

// rule leads the connections to one service; the zero choice leads back whom a service has led to
// itself.
type rule struct {
	service ipvs.Service
	// nodes are the addresses that it answers on, where it does on all; one family's.
	nodes []netip.Addr
	// slots are the backends, each as often as its weight says.
	slots []ipvs.Backend
}

// mostSlots bounds a service's map.
const mostSlots = 1024

// rulesOf gives a rule for each service that has somebody to lead to. Where nobody serves there is
// none: the node answers for itself, with a refusal.
func rulesOf(s ipvs.State) []rule {
	var out []rule
	for _, svc := range s.Services {
		if svc.VIP.IsValid() && svc.VIP.IsLoopback() {
			continue // see doc.go
		}
		r := rule{service: svc, slots: slots(svc)}
		if svc.Everywhere() && svc.Published() {
			for _, a := range s.NodeAddrs {
				if a.Is6() == (svc.VIP == netip.IPv6Unspecified()) {
					r.nodes = append(r.nodes, a)
				}
			}
		} else {
			r.nodes = []netip.Addr{svc.VIP}
		}
		if len(r.slots) > 0 && len(r.nodes) > 0 {
			out = append(out, r)
		}
	}
	return out
}

// slots are those who get new connections.
func slots(s ipvs.Service) []ipvs.Backend {
	serving := s.Choosable()
	total := 0
	for _, b := range serving {
		total += int(b.Weight)
	}
	var out []ipvs.Backend
	for _, b := range serving {
		n := int(b.Weight)
		if total > mostSlots {
			n = max(1, n*mostSlots/total)
		}
		for range n {
			out = append(out, b)
		}
	}
	return out
}

// Registers of 4 bytes: the address, of up to 16, and the port behind it.
const (
	address = unix.NFT_REG32_00
	port4   = address + 1
	port6   = address + 4
)

// seed makes a client's choice the same after each change of the rules.
const seed = 0x6d657368

// add puts the rule into a chain. Each service has its own map, which goes with the rule.
func (r rule) add(c *nftables.Conn, chain *nftables.Chain, comment []byte) error {
	v6 := r.slots[0].Addr.Is6()
	where, err := r.where(c, v6)
	if err != nil {
		return err
	}
	choice, err := r.backends(c, v6)
	if err != nil {
		return err
	}
	nat := &expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: address}
	port := uint32(port4)
	if v6 {
		nat.Family, port = unix.NFPROTO_IPV6, port6
	}
	if r.service.Port != 0 {
		nat.RegProtoMin, nat.Specified = port, true
	}
	c.AddRule(&nftables.Rule{
		Table: table(), Chain: chain, UserData: comment,
		Exprs: append(append(where, choice...), nat),
	})
	return nil
}

// where: meta nfproto, meta l4proto and th dport if there is a port, ip daddr.
func (r rule) where(c *nftables.Conn, v6 bool) ([]expr.Any, error) {
	proto, offset, size, kind := byte(unix.NFPROTO_IPV4), uint32(16), uint32(4), nftables.TypeIPAddr
	if v6 {
		proto, offset, size, kind = unix.NFPROTO_IPV6, 24, 16, nftables.TypeIP6Addr
	}
	out := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: address},
		&expr.Cmp{Op: expr.CmpOpEq, Register: address, Data: []byte{proto}},
	}
	if r.service.Protocol != ipvs.AnyProtocol {
		out = append(out,
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: address},
			&expr.Cmp{Op: expr.CmpOpEq, Register: address, Data: []byte{byte(r.service.Protocol)}})
	}
	if r.service.Port != 0 {
		out = append(out,
			&expr.Payload{DestRegister: address, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Cmp{Op: expr.CmpOpEq, Register: address, Data: binaryutil.BigEndian.PutUint16(r.service.Port)})
	}
	to := &nftables.Set{Table: table(), Anonymous: true, Constant: true, KeyType: kind}
	var elements []nftables.SetElement
	for _, a := range r.nodes {
		elements = append(elements, nftables.SetElement{Key: a.AsSlice()})
	}
	if err := c.AddSet(to, elements); err != nil {
		return nil, fmt.Errorf("addresses of %s: %w", r.service.Key, err)
	}
	return append(out,
		&expr.Payload{DestRegister: address, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Lookup{SourceRegister: address, SetName: to.Name, SetID: to.ID}), nil
}

// backends: numgen or jhash modulo the number of slots, map to address and port.
func (r rule) backends(c *nftables.Conn, v6 bool) ([]expr.Any, error) {
	value := nftables.TypeIPAddr
	if v6 {
		value = nftables.TypeIP6Addr
	}
	concat := r.service.Port != 0
	if concat {
		var err error
		if value, err = nftables.ConcatSetType(value, nftables.TypeInetService); err != nil {
			return nil, err
		}
	}
	to := &nftables.Set{Table: table(), Anonymous: true, Constant: true, IsMap: true, KeyType: nftables.TypeInteger, DataType: value}
	var elements []nftables.SetElement
	for i, b := range r.slots {
		val := b.Addr.AsSlice()
		if concat {
			val = append(binary.BigEndian.AppendUint16(val, b.Port), 0, 0) // padded to registers
		}
		elements = append(elements, nftables.SetElement{Key: binaryutil.NativeEndian.PutUint32(uint32(i)), Val: val})
	}
	if err := c.AddSet(to, elements); err != nil {
		return nil, fmt.Errorf("backends of %s: %w", r.service.Key, err)
	}
	return append(r.number(v6), &expr.Lookup{SourceRegister: address, DestRegister: address, IsDestRegSet: true, SetName: to.Name, SetID: to.ID}), nil
}

// number gives the slot of a new connection.
func (r rule) number(v6 bool) []expr.Any {
	n := uint32(len(r.slots))
	if r.service.Affinity > 0 || r.service.Algorithm == ipvs.Maglev {
		offset, size := uint32(12), uint32(4)
		if v6 {
			offset, size = 8, 16
		}
		return []expr.Any{
			&expr.Payload{DestRegister: address, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
			&expr.Hash{SourceRegister: address, DestRegister: address, Length: size, Modulus: n, Seed: seed, Type: expr.HashTypeJenkins},
		}
	}
	kind := uint32(unix.NFT_NG_RANDOM)
	if r.service.Algorithm == ipvs.RoundRobin {
		kind = unix.NFT_NG_INCREMENTAL
	}
	return []expr.Any{&expr.Numgen{Register: address, Modulus: n, Type: kind}}
}

// addSelves translates the source of who was led to itself, which otherwise would take its own
// packets for forged: ip saddr . ip daddr of each local backend, masquerade. It counts its rules.
func addSelves(c *nftables.Conn, chain *nftables.Chain, rules []rule, comment []byte) (n int, err error) {
	for _, v6 := range []bool{false, true} {
		proto, kind, offset, size := byte(unix.NFPROTO_IPV4), nftables.TypeIPAddr, uint32(12), uint32(4)
		if v6 {
			proto, kind, offset, size = unix.NFPROTO_IPV6, nftables.TypeIP6Addr, 8, 16
		}
		pair, err := nftables.ConcatSetType(kind, kind)
		if err != nil {
			return 0, err
		}
		selves := &nftables.Set{Table: table(), Anonymous: true, Constant: true, Concatenation: true, KeyType: pair}
		var elements []nftables.SetElement
		for _, a := range locals(rules, v6) {
			elements = append(elements, nftables.SetElement{Key: append(a.AsSlice(), a.AsSlice()...)})
		}
		if len(elements) == 0 {
			continue
		}
		if err := c.AddSet(selves, elements); err != nil {
			return 0, fmt.Errorf("local backends: %w", err)
		}
		c.AddRule(&nftables.Rule{
			Table: table(), Chain: chain, UserData: comment,
			Exprs: []expr.Any{
				&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: address},
				&expr.Cmp{Op: expr.CmpOpEq, Register: address, Data: []byte{proto}},
				// Both addresses stand one behind the other in the packet, too.
				&expr.Payload{DestRegister: address, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 2 * size},
				&expr.Lookup{SourceRegister: address, SetName: selves.Name, SetID: selves.ID},
				&expr.Masq{},
			},
		})
		n++
	}
	return n, nil
}

func locals(rules []rule, v6 bool) []netip.Addr {
	var out []netip.Addr
	for _, r := range rules {
		for _, b := range r.slots {
			if b.Local && b.Addr.Is6() == v6 {
				out = append(out, b.Addr)
			}
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// fingerprint stands in each rule of a state's, so that they are known again.
func fingerprint(rules []rule) string {
	h := fnv.New64a()
	fmt.Fprintf(h, "%+v", rules)
	return fmt.Sprintf("%x", h.Sum64())
}
