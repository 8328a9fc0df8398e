package nft

import (
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// CanFilter makes a table, whichever namespace this is, and takes it away in the same batch.
func CanFilter() error {
	return change("trial table", func(c *nftables.Conn) error {
		c.DelTable(c.AddTable(&nftables.Table{Name: Table + "_probe", Family: nftables.TableFamilyINet}))
		return nil
	})
}

// Closed lists the chains that look at what comes in to this machine and drop what
// no rule accepts, by their policy or by a last rule, as firewalld's; "family table chain".
func Closed() ([]string, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	chains, err := c.ListChains()
	if err != nil {
		return nil, err
	}
	families := map[nftables.TableFamily]string{nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyINet: "inet"}
	var out []string
	for _, it := range chains {
		if it.Hooknum == nil || it.Type != nftables.ChainTypeFilter || *it.Hooknum != *nftables.ChainHookInput {
			continue
		}
		if it.Policy == nil || *it.Policy != nftables.ChainPolicyDrop {
			rules, err := c.GetRules(it.Table, it)
			if err != nil {
				return nil, fmt.Errorf("rules of chain %s: %w", it.Name, err)
			}
			if len(rules) == 0 || !refusesAll(rules[len(rules)-1].Exprs) {
				continue
			}
		}
		if family, ok := families[it.Table.Family]; ok {
			out = append(out, fmt.Sprintf("%s %s %s", family, it.Table.Name, it.Name))
		}
	}
	slices.Sort(out)
	return out, nil
}

// refusesAll says of a rule that no packet comes past it: it has a verdict, and no
// condition.
func refusesAll(rule []expr.Any) bool {
	refused := false
	for _, e := range rule {
		switch e := e.(type) {
		case *expr.Counter, *expr.Log:
		case *expr.Reject:
			refused = true
		case *expr.Verdict:
			refused = refused || e.Kind == expr.VerdictDrop
		default:
			return false
		}
	}
	return refused
}
