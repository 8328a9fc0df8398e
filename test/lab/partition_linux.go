package lab

import (
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// cut is one direction between two ports of the hub's bridge.
type cut struct{ from, to string }

// cuts lists what separates the groups. Nodes that no group names make one more group; the client machine stays with everybody unless
// it is named.
func cuts(nodes []string, groups [][]string) ([]cut, error) {
	side := map[string]int{}
	for i, group := range groups {
		for _, name := range group {
			if !slices.Contains(nodes, name) && name != Client {
				return nil, fmt.Errorf("no node %q in this lab", name)
			}
			if _, twice := side[name]; twice {
				return nil, fmt.Errorf("%s is in two groups", name)
			}
			side[name] = i
		}
	}
	machines := slices.Clone(nodes)
	if _, named := side[Client]; named {
		machines = append(machines, Client)
	}
	for _, name := range nodes {
		if _, named := side[name]; !named {
			side[name] = len(groups)
		}
	}
	var list []cut
	for _, a := range machines {
		for _, b := range machines {
			if side[a] != side[b] {
				list = append(list, cut{a, b})
			}
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("that is one group: name the nodes to cut off")
	}
	return list, nil
}

// applyCuts makes the hub drop exactly what is listed, both what is new and what is on its way: the rules keep no state.
func applyCuts(lab string, list []cut) error {
	ns, err := netns.GetFromPath(netnsPath(lab, hub))
	if err != nil {
		return err
	}
	defer ns.Close()
	conn, err := nftables.New(nftables.WithNetNSFd(int(ns)))
	if err != nil {
		return err
	}
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyBridge, Name: "partition"})
	conn.FlushTable(table)
	policy := nftables.ChainPolicyAccept
	chain := conn.AddChain(&nftables.Chain{
		Name: "forward", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &policy,
	})
	for _, c := range list {
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: portName(c.from)},
			&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: portName(c.to)},
			&expr.Verdict{Kind: expr.VerdictDrop},
		}})
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("program the hub (is nftables' bridge family in this kernel?): %w", err)
	}
	return nil
}

func portName(name string) []byte {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return padded
}
