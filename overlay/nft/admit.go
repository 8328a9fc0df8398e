package nft

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
)

// The packet filter's word on published ports. The load balancer takes packets
// before the filter sees them (tc comes before netfilter). It lets the first one of a
// connection go up instead, with a mark in its priority, as if a process of the node
// were to get it: all rules for the node's own ports see it as it came. What
// gets to the end of the input hook meets a rule of ours, which sends it round by lo
// (a copy, nft's dup; the packet itself ends there), and there the balancer takes it.
//
// The mark is in the priority, since packet marks are others' to use, and rules
// that restore them from connections would take it away.

// AdmitTable holds the rule; apart from Table, which is made anew with every subnet.
const AdmitTable = "meshd_input"

const (
	admitChain = "input"
	// admitMark and admitMask are ADMIT and ADMIT_MASK of ipvs/ebpf/bpf/maps.h.
	admitMark = 0x4d000000
	admitMask = 0xff000000
	// loopback is lo's index in every network namespace.
	loopback = 1
	// last comes after every other chain of the hook.
	last = 1<<31 - 1
)

// CanAdmit tells whether this kernel has what PutAdmit needs. It leaves nothing behind.
func CanAdmit() bool {
	return change("trial of the input hook", func(c *nftables.Conn) error {
		for _, v6 := range []bool{false, true} {
			table := c.AddTable(&nftables.Table{Name: AdmitTable + "_probe", Family: family(v6)})
			addAdmit(c, table, v6)
			c.DelTable(table)
		}
		return nil
	}) == nil
}

// PutAdmit makes the table of one family, in place of one that is there.
func PutAdmit(v6 bool) error {
	return change("table "+AdmitTable, func(c *nftables.Conn) error {
		table, err := remove(c, AdmitTable, family(v6))
		if err != nil {
			return err
		}
		c.AddTable(table)
		addAdmit(c, table, v6)
		return nil
	})
}

// DeleteAdmit removes the table; none is no error.
func DeleteAdmit(v6 bool) error {
	return change("table "+AdmitTable, func(c *nftables.Conn) error {
		_, err := remove(c, AdmitTable, family(v6))
		return err
	})
}

// Admits tells whether the table is as PutAdmit makes it.
func Admits(v6 bool) (bool, error) {
	c, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("nftables: %w", err)
	}
	table, err := find(c, AdmitTable, family(v6))
	if err != nil || table == nil {
		return false, err
	}
	rules, err := c.GetRules(table, &nftables.Chain{Name: admitChain, Table: table})
	if err != nil || len(rules) != 1 {
		return false, nil // the chain is missing, or not as we make it
	}
	comment, _ := userdata.GetString(rules[0].UserData, userdata.TypeComment)
	return comment == admitComment(), nil
}

// admitComment changes with the rule, so that another version's is replaced.
func admitComment() string { return "published ports, 1" }

func addAdmit(c *nftables.Conn, table *nftables.Table, v6 bool) {
	priority := nftables.ChainPriority(last)
	chain := c.AddChain(&nftables.Chain{
		Name: admitChain, Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookInput, Priority: &priority,
	})
	c.AddRule(&nftables.Rule{
		Table: table, Chain: chain, Exprs: admitExprs(v6),
		UserData: userdata.AppendString(nil, userdata.TypeComment, admitComment()),
	})
}

// admitExprs: meta priority & 0xff000000 == 0x4d000000 iif != lo dup to 127.0.0.1 device lo drop.
func admitExprs(v6 bool) []expr.Any {
	to := []byte{127, 0, 0, 1}
	if v6 {
		to = append(make([]byte, 15), 1)
	}
	marked := append([]expr.Any{&expr.Meta{Key: expr.MetaKeyPRIORITY, Register: register}}, masked(admitMask, expr.CmpOpEq, admitMark)...)
	return append(marked,
		&expr.Meta{Key: expr.MetaKeyIIF, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(loopback)},
		&expr.Counter{},
		&expr.Immediate{Register: 1, Data: to},
		&expr.Immediate{Register: 2, Data: binaryutil.NativeEndian.PutUint32(loopback)},
		&expr.Dup{RegAddr: 1, RegDev: 2, IsRegDevSet: true},
		&expr.Verdict{Kind: expr.VerdictDrop})
}
