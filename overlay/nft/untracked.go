package nft

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Our chains before connection tracking, for what comes and for what the node sends.
const (
	rawIn  = "raw_in"
	rawOut = "raw_out"
)

const dnsPort = 53

// Where UDP has its ports (RFC 768).
const sourcePort, destinationPort = 0, 2

// addUntracked keeps queries of containers to the node's resolver, and its
// answers, out of connection tracking: nothing translates them. Each has a port of
// its own and would be remembered for 30 s and more, so that one container that
// asks a lot could fill the table, and the node then refuse all new connections.
func addUntracked(c *nftables.Conn, t *nftables.Table, subnets []netip.Prefix) {
	in := c.AddChain(&nftables.Chain{
		Name: rawIn, Table: t, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
	})
	out := c.AddChain(&nftables.Chain{
		Name: rawOut, Table: t, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityRaw,
	})
	for _, s := range subnets {
		c.AddRule(rule(t, in, s, untracked(expr.MetaKeyIIFNAME, destinationPort, within(s, destination4, destination6))))
		c.AddRule(rule(t, out, s, untracked(expr.MetaKeyOIFNAME, sourcePort, within(s, source4, source6))))
	}
}

// untracked: iifname "mv*" ip daddr <subnet> udp dport 53 notrack; or oifname, saddr and sport.
func untracked(device expr.MetaKey, port uint32, address []expr.Any) []expr.Any {
	exprs := []expr.Any{
		&expr.Meta{Key: device, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte(hostDevices)},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_UDP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: port, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(dnsPort)},
	}
	return append(append(exprs, address...), &expr.Notrack{})
}
