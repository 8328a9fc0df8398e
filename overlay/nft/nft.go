// Package nft is the overlay's door to nftables: one table of our own, named
// meshd, that masquerades what containers send beyond the node. In others' tables
// nothing is touched but two rules of ours in DOCKER-USER, see PutAccept.
package nft

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
)

// Table is the name of our table.
const Table = "meshd"

const chain = "postrouting"

// The first letters of our devices' names: what goes from one container's
// interface to another or to the tunnel keeps its address.
func ownDevices() []string { return []string{"mesh", "mv"} }

// Masquerade lists the subnets that our table masquerades; none if it is not
// there or not as Put makes it.
func Masquerade() ([]netip.Prefix, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	table, err := find(c)
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

// Put makes our table masquerade exactly these subnets' way out, in one
// transaction. Connections that are established keep their translation.
func Put(subnets []netip.Prefix) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	table := &nftables.Table{Name: Table, Family: nftables.TableFamilyIPv4}
	// Adding first makes the deletion possible whether it was there or not.
	c.AddTable(table)
	c.DelTable(table)
	c.AddTable(table)
	post := c.AddChain(&nftables.Chain{
		Name: chain, Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	for _, s := range subnets {
		if s.Addr().Is4() {
			c.AddRule(masquerade(table, post, s))
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables: table %s: %w", Table, err)
	}
	return nil
}

// Delete removes our table; none is no error.
func Delete() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	table := &nftables.Table{Name: Table, Family: nftables.TableFamilyIPv4}
	c.AddTable(table)
	c.DelTable(table)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables: delete table %s: %w", Table, err)
	}
	return nil
}

func find(c *nftables.Conn) (*nftables.Table, error) {
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyIPv4)
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

// masquerade: ip saddr <subnet> oifname != "mesh*" oifname != "mv*" masquerade.
func masquerade(t *nftables.Table, c *nftables.Chain, subnet netip.Prefix) *nftables.Rule {
	const sourceOffset, addrLen = 12, 4 // in the IPv4 header
	subnet = subnet.Masked()
	exprs := []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: sourceOffset, Len: addrLen},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: addrLen,
			Mask: binaryutil.BigEndian.PutUint32(^uint32(0) << (32 - subnet.Bits())), Xor: make([]byte, addrLen),
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
		if s.Addr().Is4() {
			names = append(names, s.Masked().String())
		}
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}
