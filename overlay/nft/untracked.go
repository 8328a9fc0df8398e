package nft

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
)

// Our chains before connection tracking, for what comes and for what the node sends.
const (
	rawIn  = "raw_in"
	rawOut = "raw_out"
)

const dnsPort = 53

// Where UDP has its ports (RFC 768).
const sourcePort, destinationPort = 0, 2

// TunnelTable holds the rules of PutTunnel; apart from Table, which is made anew with
// every subnet, and there only for the families that containers have.
const TunnelTable = "meshd_tunnel"

// addUntracked keeps queries of containers to the node's resolver, and its
// answers, out of connection tracking: nothing translates them. Each has a port of
// its own and would be remembered for 30 s and more, so that one container that
// asks a lot could fill the table, and the node then refuse all new connections.
func addUntracked(c *nftables.Conn, t *nftables.Table, subnets []netip.Prefix) {
	in, out := addRaw(c, t)
	for _, s := range subnets {
		c.AddRule(rule(t, in, s, untracked(destinationPort, dnsPort, from(hostDevices), within(s, destination4, destination6))))
		c.AddRule(rule(t, out, s, untracked(sourcePort, dnsPort, to(hostDevices), within(s, source4, source6))))
	}
}

// PutTunnel keeps the tunnel's packets from and to this node's address out of
// connection tracking, in place of what an earlier call did. Their UDP source port
// tells connections inside apart (RFC 7348), so that each of those would take two rows
// of the table; their destination port is the tunnel's in both directions. What the
// node forwards for others is left alone.
func PutTunnel(local netip.AddrPort) error {
	return changeTunnel(func(c *nftables.Conn) {
		t := c.AddTable(&nftables.Table{Name: TunnelTable, Family: family(local.Addr().Is6())})
		in, out := addRaw(c, t)
		own := netip.PrefixFrom(local.Addr(), local.Addr().BitLen())
		comment := userdata.AppendString(nil, userdata.TypeComment, local.String())
		c.AddRule(&nftables.Rule{
			Table: t, Chain: in, UserData: comment,
			Exprs: untracked(destinationPort, local.Port(), within(own, destination4, destination6)),
		})
		c.AddRule(&nftables.Rule{
			Table: t, Chain: out, UserData: comment,
			Exprs: untracked(destinationPort, local.Port(), within(own, source4, source6)),
		})
	})
}

// DeleteTunnel removes what PutTunnel made; nothing there is no error.
func DeleteTunnel() error { return changeTunnel(func(*nftables.Conn) {}) }

// changeTunnel removes our tables and lets add make a new one, in one transaction.
func changeTunnel(add func(*nftables.Conn)) error {
	return change("table "+TunnelTable, func(c *nftables.Conn) error {
		for _, v6 := range []bool{false, true} {
			if _, err := remove(c, TunnelTable, family(v6)); err != nil {
				return err
			}
		}
		add(c)
		return nil
	})
}

// Tunnel gives what PutTunnel was called with last; the zero value where its rules are
// not there or not as it makes them.
func Tunnel() (netip.AddrPort, error) {
	c, err := nftables.New()
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("nftables: %w", err)
	}
	var found []string
	for _, v6 := range []bool{false, true} {
		table, err := find(c, TunnelTable, family(v6))
		if err != nil {
			return netip.AddrPort{}, err
		}
		for _, chain := range []string{rawIn, rawOut} {
			if table == nil {
				continue
			}
			rules, _ := c.GetRules(table, &nftables.Chain{Name: chain, Table: table}) // none of a chain that is missing
			for _, r := range rules {
				comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
				found = append(found, comment)
			}
		}
	}
	if len(found) != 2 || found[0] != found[1] {
		return netip.AddrPort{}, nil
	}
	local, _ := netip.ParseAddrPort(found[0]) // of somebody else's rule: zero
	return local, nil
}

// addRaw makes the two chains before connection tracking.
func addRaw(c *nftables.Conn, t *nftables.Table) (in, out *nftables.Chain) {
	chain := func(name string, hook *nftables.ChainHook) *nftables.Chain {
		return c.AddChain(&nftables.Chain{
			Name: name, Table: t, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityRaw,
		})
	}
	return chain(rawIn, nftables.ChainHookPrerouting), chain(rawOut, nftables.ChainHookOutput)
}

// untracked: udp dport <port> <conditions> notrack; or sport.
func untracked(offset uint32, port uint16, conditions ...[]expr.Any) []expr.Any {
	exprs := udpPort(offset, port)
	for _, c := range conditions {
		exprs = append(exprs, c...)
	}
	return append(exprs, &expr.Notrack{})
}
