package kernel

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The names in a container's namespace: table inet meshd-vips.
const (
	tableName = "meshd-vips"
	markChain = "mark"
	selfChain = "self"
)

// afterIPVS is behind IPVS' place in the output hook, NF_IP_PRI_NAT_DST+2.
const afterIPVS = nftables.ChainPriority(-90)

// half is the part of the table for one IP version.
type half struct {
	set      string
	kind     nftables.SetDatatype
	protocol byte   // NFPROTO
	offset   uint32 // of the destination in the IP header
	size     uint32
}

func halves() []half {
	return []half{
		{"vips4", nftables.TypeIPAddr, unix.NFPROTO_IPV4, 16, 4},
		{"vips6", nftables.TypeIP6Addr, unix.NFPROTO_IPV6, 24, 16},
	}
}

// transports gives each protocol the bit of its marks.
func transports() map[byte]byte {
	return map[byte]byte{unix.IPPROTO_TCP: 0, unix.IPPROTO_UDP: markUDP}
}

// readTable reads the VIPs' marks; whole: the table has all of putTable's rules.
func readTable() (marks map[netip.Addr]uint32, whole bool, err error) {
	c, err := nftables.New()
	if err != nil {
		return nil, false, fmt.Errorf("nftables: %w", err)
	}
	t, err := findTable(c)
	if err != nil || t == nil {
		return nil, false, err
	}
	marks = map[netip.Addr]uint32{}
	for _, h := range halves() {
		set, err := c.GetSetByName(t, h.set)
		if err != nil {
			return nil, false, nil // not as we make it
		}
		elements, err := c.GetSetElements(set)
		if err != nil {
			return nil, false, fmt.Errorf("nftables: VIPs' marks: %w", err)
		}
		for _, e := range elements {
			if a, ok := netip.AddrFromSlice(e.Key); ok && len(e.Val) == 4 {
				marks[a] = binaryutil.NativeEndian.Uint32(e.Val)
			}
		}
	}
	whole, err = isWhole(c, t)
	return marks, whole, err
}

// isWhole says whether the table has as many rules as putTable makes in each of its chains, and no other chain.
func isWhole(c *nftables.Conn, t *nftables.Table) (bool, error) {
	want := map[string]int{markChain: len(transports()) * len(halves()), selfChain: 1}
	chains, err := c.ListChainsOfTableFamily(t.Family)
	if err != nil {
		return false, fmt.Errorf("nftables: list chains: %w", err)
	}
	for _, chain := range chains {
		if chain.Table.Name != t.Name {
			continue
		}
		rules, err := c.GetRules(t, chain)
		if err != nil || len(rules) != want[chain.Name] {
			return false, nil
		}
		delete(want, chain.Name)
	}
	return len(want) == 0, nil
}

func findTable(c *nftables.Conn) (*nftables.Table, error) {
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("nftables: list tables: %w", err)
	}
	for _, t := range tables {
		if t.Name == tableName {
			return t, nil
		}
	}
	return nil, nil
}

// putTable makes the table anew with these marks, in one transaction; without any there is none.
func putTable(marks map[netip.Addr]uint32) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	old, err := findTable(c)
	if err != nil {
		return err
	}
	if old != nil {
		c.DelTable(old)
	}
	if len(marks) > 0 {
		if err := addTable(c, marks); err != nil {
			return err
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables: table %s: %w", tableName, err)
	}
	return nil
}

func addTable(c *nftables.Conn, marks map[netip.Addr]uint32) error {
	t := c.AddTable(&nftables.Table{Name: tableName, Family: nftables.TableFamilyINet})
	chain := func(name string, kind nftables.ChainType, priority *nftables.ChainPriority) *nftables.Chain {
		return c.AddChain(&nftables.Chain{Name: name, Table: t, Type: kind, Hooknum: nftables.ChainHookOutput, Priority: priority})
	}
	mark := chain(markChain, nftables.ChainTypeFilter, nftables.ChainPriorityMangle)
	c.AddRule(&nftables.Rule{Table: t, Chain: chain(selfChain, nftables.ChainTypeRoute, nftables.ChainPriorityRef(afterIPVS)), Exprs: toSelf()})
	for _, h := range halves() {
		set := &nftables.Set{Table: t, Name: h.set, KeyType: h.kind, IsMap: true, DataType: nftables.TypeMark}
		var elements []nftables.SetElement
		for a, m := range marks {
			if uint32(len(a.AsSlice())) == h.size {
				elements = append(elements, nftables.SetElement{Key: a.AsSlice(), Val: binaryutil.NativeEndian.PutUint32(m)})
			}
		}
		if err := c.AddSet(set, elements); err != nil {
			return fmt.Errorf("nftables: VIPs' marks: %w", err)
		}
		for protocol, bit := range transports() {
			c.AddRule(&nftables.Rule{Table: t, Chain: mark, Exprs: append(h.transport(protocol), h.mark(set, bit)...)})
		}
	}
	return nil
}

// toSelf: meta mark & 0xff000000 == 0x6d000000 fib daddr type local meta mark set 0. IPVS keeps the route that the packet had, to the VIP's link,
// where it chooses this container itself; a chain of type route asks for another one when a rule of it changes the mark.
func toSelf() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(0xff000000), Xor: binaryutil.NativeEndian.PutUint32(0)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(markBase)},
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
		&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint32(0)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
	}
}

// transport: meta nfproto, meta l4proto.
func (h half) transport(protocol byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{h.protocol}},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocol}},
	}
}

// mark: meta mark set daddr map @vips | bit; another destination passes the rule over.
func (h half) mark(set *nftables.Set, bit byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: h.offset, Len: h.size},
		&expr.Lookup{SourceRegister: 1, DestRegister: 1, IsDestRegSet: true, SetName: set.Name, SetID: set.ID},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(^uint32(bit)), Xor: binaryutil.NativeEndian.PutUint32(uint32(bit))},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
	}
}
