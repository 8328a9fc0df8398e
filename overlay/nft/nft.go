// Package nft is the overlay's door to nftables: one table of our own per family,
// named meshd, that masquerades what containers send beyond the node, lets nobody
// beyond it open a connection to their addresses, and keeps their DNS queries to
// the node out of connection tracking. Two more, for one thing each: see PutAdmit and
// PutTunnel. In others' tables
// nothing is touched but rules of ours in DOCKER-USER, see PutAccept. Where there is no
// eBPF, EdgeTable does what the programs do elsewhere, see edge.go.
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

// Our chains: the first translates, the second filters. Two more: see addUntracked.
const (
	chain   = "postrouting"
	forward = "forward"
)

// The first letters of our devices' names: what goes from one container's
// interface to another or to the tunnel keeps its address.
func ownDevices() []string { return []string{ownDevice, hostDevices} }

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
	table, err := find(c, Table, family(v6))
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
	for _, other := range []string{forward, rawIn, rawOut} {
		rules, err := c.GetRules(table, &nftables.Chain{Name: other, Table: table})
		if err != nil || len(rules) != len(out) {
			return nil, nil
		}
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return out, nil
}

// Put makes our tables masquerade exactly these subnets' way out, in one
// transaction. Connections that are established keep their translation. A family
// without subnets has no table.
func Put(subnets []netip.Prefix) error {
	return change("table "+Table, func(c *nftables.Conn) error {
		for _, v6 := range []bool{false, true} {
			table, err := remove(c, Table, family(v6))
			if err != nil {
				return err
			}
			mine := slices.DeleteFunc(slices.Clone(subnets), func(p netip.Prefix) bool { return p.Addr().Is6() != v6 })
			if len(mine) > 0 {
				addTable(c, table, mine)
			}
		}
		return nil
	})
}

// addTable makes a family's table for subnets of that family.
func addTable(c *nftables.Conn, table *nftables.Table, subnets []netip.Prefix) {
	c.AddTable(table)
	post := c.AddChain(&nftables.Chain{
		Name: chain, Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	filter := c.AddChain(&nftables.Chain{
		Name: forward, Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
	})
	for _, s := range subnets {
		c.AddRule(masquerade(table, post, s))
		c.AddRule(closed(table, filter, s))
	}
	addUntracked(c, table, subnets)
}

// Delete removes our tables; none is no error.
func Delete() error { return Put(nil) }

// change does all that do asks for in one transaction; what names it in errors.
func change(what string, do func(*nftables.Conn) error) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	if err := do(c); err != nil {
		return err
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables: %s: %w", what, err)
	}
	return nil
}

// remove has a table deleted with the transaction, if it is there, and names it.
func remove(c *nftables.Conn, name string, family nftables.TableFamily) (*nftables.Table, error) {
	table := &nftables.Table{Name: name, Family: family}
	have, err := find(c, name, family)
	if err == nil && have != nil {
		c.DelTable(table)
	}
	return table, err
}

// find gives a table; nil: it is not there.
func find(c *nftables.Conn, name string, family nftables.TableFamily) (*nftables.Table, error) {
	tables, err := c.ListTablesOfFamily(family)
	if err != nil {
		return nil, fmt.Errorf("nftables: list tables: %w", err)
	}
	for _, t := range tables {
		if t.Name == name {
			return t, nil
		}
	}
	return nil, nil
}

// Offsets of the addresses in the IP headers.
const (
	source4, destination4 = 12, 16
	source6, destination6 = 8, 24
)

// masquerade: ip saddr <subnet>, or ip6 saddr, oifname != "mesh*" oifname != "mv*" masquerade.
func masquerade(t *nftables.Table, c *nftables.Chain, subnet netip.Prefix) *nftables.Rule {
	exprs := within(subnet, source4, source6)
	exprs = append(exprs, notOurs(expr.MetaKeyOIFNAME)...)
	return rule(t, c, subnet, append(exprs, &expr.Masq{}))
}

// closed: ip daddr <subnet>, or ip6 daddr, iifname != "mesh*" iifname != "mv*" ct state != { established, related } ct status != dnat drop.
// Who is on the node's link could otherwise route to a container's address past
// the routing mesh. Answers to what containers asked for pass.
func closed(t *nftables.Table, c *nftables.Chain, subnet netip.Prefix) *nftables.Rule {
	exprs := within(subnet, destination4, destination6)
	exprs = append(exprs, notOurs(expr.MetaKeyIIFNAME)...)
	exprs = append(exprs, &expr.Ct{Key: expr.CtKeySTATE, Register: register})
	exprs = append(exprs, anyOf(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED, expr.CmpOpEq)...)
	exprs = append(exprs, &expr.Ct{Key: expr.CtKeySTATUS, Register: register})
	exprs = append(exprs, anyOf(statusDNAT, expr.CmpOpEq)...)
	return rule(t, c, subnet, append(exprs, &expr.Verdict{Kind: expr.VerdictDrop}))
}

// within compares an address of the packet with a subnet.
func within(subnet netip.Prefix, offset4, offset6 uint32) []expr.Any {
	subnet = subnet.Masked()
	offset, size := offset4, uint32(net.IPv4len)
	if subnet.Addr().Is6() {
		offset, size = offset6, net.IPv6len
	}
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: size,
			Mask: net.CIDRMask(subnet.Bits(), subnet.Addr().BitLen()), Xor: make([]byte, size),
		},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: subnet.Addr().AsSlice()},
	}
}

// notOurs passes devices over that are the overlay's own.
func notOurs(key expr.MetaKey) []expr.Any {
	var out []expr.Any
	for _, name := range ownDevices() {
		out = append(out,
			&expr.Meta{Key: key, Register: 1},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte(name)})
	}
	return out
}

// rule carries its subnet as a comment, so that it is known again.
func rule(t *nftables.Table, c *nftables.Chain, subnet netip.Prefix, exprs []expr.Any) *nftables.Rule {
	return &nftables.Rule{
		Table: t, Chain: c, Exprs: exprs,
		UserData: userdata.AppendString(nil, userdata.TypeComment, subnet.Masked().String()),
	}
}

// Key is the list as one comparable value; Prefixes reads it.
func Key(subnets []netip.Prefix) string {
	var names []string
	for _, s := range subnets {
		names = append(names, s.Masked().String())
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// Prefixes is the list of a Key, without what is no subnet.
func Prefixes(key string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range strings.Fields(key) {
		if p, err := netip.ParsePrefix(s); err == nil {
			out = append(out, p)
		}
	}
	return out
}
