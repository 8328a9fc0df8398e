package nft

import (
	"fmt"
	"slices"

	"github.com/google/nftables"
)

// CanFilter makes a table, whichever namespace this is, and takes it away in the same batch.
func CanFilter() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	c.DelTable(c.AddTable(&nftables.Table{Name: Table + "_probe", Family: nftables.TableFamilyINet}))
	return c.Flush()
}

// Closed lists the chains that look at what comes in to this machine and drop what
// no rule accepts, as "family table chain".
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
		if it.Hooknum == nil || it.Policy == nil || *it.Hooknum != *nftables.ChainHookInput || *it.Policy != nftables.ChainPolicyDrop {
			continue
		}
		if family, ok := families[it.Table.Family]; ok {
			out = append(out, fmt.Sprintf("%s %s %s", family, it.Table.Name, it.Name))
		}
	}
	slices.Sort(out)
	return out, nil
}
