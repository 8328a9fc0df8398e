// Package nft is the overlay's door to nftables: one table of our own per family,
// named meshd, that masquerades what containers send beyond the node. In others' tables
// nothing is touched but two rules of ours in DOCKER-USER, see PutAccept.
package nft

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
)

// Table is the name of our table.
const Table = "meshd"

const chain = "postrouting"

// The first letters of our devices' names: what goes from one container's
// interface to another or to the tunnel keeps its address.
func ownDevices() []string { return []string{"mesh", "mv"} }

// Masquerade lists the subnets that our tables masquerade; none of a family
// whose table is not there or not as Put makes it.
func Masquerade() ([]netip.Prefix, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	var out []netip.Prefix
	for _, v6 := range []bool{false, true} {
		subnets, err := masqueraded(c, v6)
		if err != nil {
			return nil, err
		}
		out = append(out, subnets...)
	}
	return out, nil
}

func masqueraded(c *nftables.Conn, v6 bool) ([]netip.Prefix, error) {
	table, err := find(c, v6)
	if err != nil || table == nil {
		return nil, err
	}
	rules, err := c.GetRules(table, &nftables.Chain{Name: chain, Table: table})
	if err != nil {
		return nil, nil // the chain is missing: not as we make it
	}
	var out []netip.Prefix
	for _, r := range rules {
		comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
		p, err := netip.ParsePrefix(comment)
		if err != nil {
			return nil, nil // somebody else's rule: make the table anew
		}
		out = append(out, p)
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return out, nil
}

// Put makes our tables masquerade exactly these subnets' way out, in one
// transaction. Connections that are established keep their translation. A family
// without subnets has no table.
func Put(subnets []netip.Prefix) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	for _, v6 := range []bool{false, true} {
		table, err := remove(c, v6)
		if err != nil {
			return err
		}
		mine := slices.DeleteFunc(slices.Clone(subnets), func(p netip.Prefix) bool { return p.Addr().Is6() != v6 })
		if len(mine) == 0 {
			continue
		}
		c.AddTable(table)
		post := c.AddChain(&nftables.Chain{
			Name: chain, Table: table, Type: nftables.ChainTypeNAT,
			Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
		})
		for _, s := range mine {
			c.AddRule(masquerade(table, post, s))
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables: table %s: %w", Table, err)
	}
	return nil
}

// Delete removes our tables; none is no error.
func Delete() error { return Put(nil) }

// remove has our table deleted with the next flush, if it is there.
func remove(c *nftables.Conn, v6 bool) (*nftables.Table, error) {
	table := &nftables.Table{Name: Table, Family: family(v6)}
	have, err := find(c, v6)
	if err == nil && have != nil {
		c.DelTable(table)
	}
	return table, err
}

func find(c *nftables.Conn, v6 bool) (*nftables.Table, error) {
	tables, err := c.ListTablesOfFamily(family(v6))
	if err != nil {
		return nil, fmt.Errorf("nftables: list tables: %w", err)
	}
	for _, t := range tables {
		if t.Name == Table {
			return t, nil
		}
	}
	return nil, nil
}

// masquerade: ip saddr <subnet>, or ip6 saddr, oifname != "mesh*" oifname != "mv*" masquerade.
func masquerade(t *nftables.Table, c *nftables.Chain, subnet netip.Prefix) *nftables.Rule {
	subnet = subnet.Masked()
	sourceOffset, addrLen := uint32(12), uint32(net.IPv4len) // in the IP header
	if subnet.Addr().Is6() {
		sourceOffset, addrLen = 8, net.IPv6len
	}
	exprs := []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: sourceOffset, Len: addrLen},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: addrLen,
			Mask: net.CIDRMask(subnet.Bits(), subnet.Addr().BitLen()), Xor: make([]byte, addrLen),
		},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: subnet.Addr().AsSlice()},
	}
	for _, name := range ownDevices() {
		exprs = append(exprs,
			&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte(name)})
	}
	exprs = append(exprs, &expr.Masq{})
	return &nftables.Rule{
		Table: t, Chain: c, Exprs: exprs,
		UserData: userdata.AppendString(nil, userdata.TypeComment, subnet.String()),
	}
}

// Key is the list as one comparable value.
func Key(subnets []netip.Prefix) string {
	var names []string
	for _, s := range subnets {
		names = append(names, s.Masked().String())
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}
