package nft

import (
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/google/nftables/xt"
)

// Forwarding is what iptables' filter table does with forwarded packets.
type Forwarding int

// The cases.
const (
	// ForwardingOpen: nothing is dropped by default.
	ForwardingOpen Forwarding = iota
	// ForwardingDropped: everything is that no rule accepts, and there is no place
	// for ours.
	ForwardingDropped
	// ForwardingDocker: likewise, but Docker Engine's chain DOCKER-USER is there,
	// which it calls first and leaves to others' rules
	// (docs.docker.com/engine/network/firewall-iptables).
	ForwardingDocker
)

const (
	filterTable  = "filter"
	forwardChain = "FORWARD"
	userChain    = "DOCKER-USER"
	hostDevices  = "mv" // link.HostPrefix
	ownDevice    = "mesh"
)

// ForwardingOf looks at what iptables-nft keeps for one family.
func ForwardingOf(v6 bool) (Forwarding, error) {
	c, err := nftables.New()
	if err != nil {
		return 0, fmt.Errorf("nftables: %w", err)
	}
	chains, err := c.ListChainsOfTableFamily(family(v6))
	if err != nil {
		return 0, fmt.Errorf("nftables: list chains: %w", err)
	}
	var dropped, docker bool
	for _, ch := range chains {
		if ch.Table.Name != filterTable {
			continue
		}
		dropped = dropped || ch.Name == forwardChain && ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop
		docker = docker || ch.Name == userChain
	}
	switch {
	case !dropped:
		return ForwardingOpen, nil
	case docker:
		return ForwardingDocker, nil
	default:
		return ForwardingDropped, nil
	}
}

// Accepting says what DOCKER-USER holds of our rules.
type Accepting int

// The cases.
const (
	AcceptsNothing Accepting = iota
	AcceptsInPart
	// AcceptsAll: exactly the rules of PutAccept for a node whose programs forward, in
	// their order; AcceptsForwarded: for one whose kernel does.
	AcceptsAll
	AcceptsForwarded
)

// AcceptingOf reads DOCKER-USER.
func AcceptingOf(v6 bool) (Accepting, error) {
	c, err := nftables.New()
	if err != nil {
		return 0, fmt.Errorf("nftables: %w", err)
	}
	rules, err := userRules(c, v6)
	if err != nil {
		return 0, err
	}
	have := slices.DeleteFunc(rules, func(r *nftables.Rule) bool { return !isOurs(r) })
	if len(have) == 0 {
		return AcceptsNothing, nil
	}
	for _, a := range []Accepting{AcceptsAll, AcceptsForwarded} {
		if slices.EqualFunc(have, acceptRules(v6, a), func(x, y *nftables.Rule) bool { return deviceKey(x) == deviceKey(y) }) {
			return a, nil
		}
	}
	return AcceptsInPart, nil
}

// PutAccept accepts in DOCKER-USER what our containers send, and the answers to
// it; or with AcceptsForwarded whatever comes from or goes to our devices, which EdgeTable
// decides on. The rules stand at the chain's end, before a RETURN that closes it:
// what the host's own rules deny before them stays denied. They replace rules
// of ours that are there; nobody else's is touched.
//
// They are made of what iptables knows (its own conntrack match, not
// nftables'): it refuses to work on a table with anything else in it.
func PutAccept(v6 bool, a Accepting) error {
	return changeUserChain(v6, func(c *nftables.Conn, others []*nftables.Rule) {
		last := closingReturn(others)
		for _, r := range acceptRules(v6, a) {
			if last != nil {
				r.Position = last.Handle
				c.InsertRule(r)
			} else {
				c.AddRule(r)
			}
		}
	})
}

// DeleteAccept takes our rules away; none is no error.
func DeleteAccept(v6 bool) error {
	return changeUserChain(v6, func(*nftables.Conn, []*nftables.Rule) {})
}

// changeUserChain removes our rules and lets add make new ones, in one
// transaction; others are the rules that are not ours.
func changeUserChain(v6 bool, add func(c *nftables.Conn, others []*nftables.Rule)) error {
	return change("chain "+userChain, func(c *nftables.Conn) error {
		rules, err := userRules(c, v6)
		if err != nil {
			return err
		}
		var others []*nftables.Rule
		for _, r := range rules {
			if !isOurs(r) {
				others = append(others, r)
			} else if err := c.DelRule(r); err != nil {
				return fmt.Errorf("nftables: chain %s: %w", userChain, err)
			}
		}
		add(c, others)
		return nil
	})
}

// userRules lists DOCKER-USER; a chain that is not there has none.
func userRules(c *nftables.Conn, v6 bool) ([]*nftables.Rule, error) {
	chains, err := c.ListChainsOfTableFamily(family(v6))
	if err != nil {
		return nil, fmt.Errorf("nftables: list chains: %w", err)
	}
	for _, ch := range chains {
		if ch.Table.Name != filterTable || ch.Name != userChain {
			continue
		}
		rules, err := c.GetRules(ch.Table, ch)
		if err != nil {
			return nil, fmt.Errorf("nftables: rules of %s: %w", userChain, err)
		}
		return rules, nil
	}
	return nil, nil
}

// isOurs goes by the comment: iptables' match, or nftables' own, which other
// versions of iptables make of it when they save and restore rules.
func isOurs(r *nftables.Rule) bool {
	if s, _ := userdata.GetString(r.UserData, userdata.TypeComment); s == Table {
		return true
	}
	for _, e := range r.Exprs {
		if m, ok := e.(*expr.Match); ok {
			if text, ok := m.Info.(*xt.Comment); ok && string(*text) == Table {
				return true
			}
		}
	}
	return false
}

// deviceKey says which device's name a rule looks at; zero for none.
func deviceKey(r *nftables.Rule) expr.MetaKey {
	for _, e := range r.Exprs {
		if m, ok := e.(*expr.Meta); ok {
			return m.Key
		}
	}
	return 0
}

// closingReturn gives the last rule if it is a RETURN without conditions.
func closingReturn(rules []*nftables.Rule) *nftables.Rule {
	if len(rules) == 0 {
		return nil
	}
	last := rules[len(rules)-1]
	returns := false
	for _, e := range last.Exprs {
		switch e := e.(type) {
		case *expr.Counter:
		case *expr.Verdict:
			returns = e.Kind == expr.VerdictReturn
		default:
			return nil
		}
	}
	if !returns {
		return nil
	}
	return last
}

// acceptRules, as iptables says it:
//
//	-i mv+ -j ACCEPT
//	-o mv+ -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
//
// or
//
//	-i mv+ -j ACCEPT
//	-o mv+ -j ACCEPT
//	-i mesh+ -j ACCEPT
//	-o mesh+ -j ACCEPT
func acceptRules(v6 bool, a Accepting) (out []*nftables.Rule) {
	if a == AcceptsForwarded {
		for _, devices := range []string{hostDevices, ownDevice} {
			out = append(out, acceptRule(v6, expr.MetaKeyIIFNAME, devices), acceptRule(v6, expr.MetaKeyOIFNAME, devices))
		}
		return out
	}
	const established, related = 1 << 1, 1 << 2 // XT_CONNTRACK_STATE_BIT of ip_conntrack_info
	answers := &xt.ConntrackMtinfo3{ConntrackMtinfo2: xt.ConntrackMtinfo2{
		ConntrackMtinfoBase: xt.ConntrackMtinfoBase{MatchFlags: uint16(xt.ConntrackState)},
		StateMask:           established | related,
	}}
	return []*nftables.Rule{
		acceptRule(v6, expr.MetaKeyIIFNAME, hostDevices),
		acceptRule(v6, expr.MetaKeyOIFNAME, hostDevices, &expr.Match{Name: "conntrack", Rev: 3, Info: answers}),
	}
}

func acceptRule(v6 bool, device expr.MetaKey, name string, conditions ...expr.Any) *nftables.Rule {
	table := &nftables.Table{Name: filterTable, Family: family(v6)}
	comment := xt.Comment(Table)
	exprs := []expr.Any{
		&expr.Meta{Key: device, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte(name)},
	}
	exprs = append(exprs, conditions...)
	exprs = append(exprs,
		&expr.Match{Name: "comment", Info: &comment},
		&expr.Counter{},
		&expr.Verdict{Kind: expr.VerdictAccept})
	return &nftables.Rule{Table: table, Chain: &nftables.Chain{Name: userChain, Table: table}, Exprs: exprs}
}

func family(v6 bool) nftables.TableFamily {
	if v6 {
		return nftables.TableFamilyIPv6
	}
	return nftables.TableFamilyIPv4
}
