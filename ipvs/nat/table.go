package nat

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"

	"github.com/google/nftables"

	"github.com/meshd/meshd/ipvs"
)

// Table is the name of our table.
const Table = "meshd_balance"

// The chains beside one for each service: where a connection's service is found, for who comes from
// outside or from a container and for who is a process of the node; and who was led to itself.
const (
	chainServices = "services"
	chainIn       = "prerouting"
	chainOwn      = "output"
	chainSelf     = "postrouting"
)

func table() *nftables.Table {
	return &nftables.Table{Name: Table, Family: nftables.TableFamilyINet}
}

// chains are those beside the services'.
func chains() []*nftables.Chain {
	chain := func(name string, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
		return &nftables.Chain{Name: name, Table: table(), Type: nftables.ChainTypeNAT, Hooknum: hook, Priority: priority}
	}
	return []*nftables.Chain{
		{Name: chainServices, Table: table()},
		chain(chainIn, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest),
		chain(chainOwn, nftables.ChainHookOutput, nftables.ChainPriorityNATDest),
		chain(chainSelf, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource),
	}
}

// serviceChain is the chain of the rule with that index.
func serviceChain(i int) *nftables.Chain {
	return &nftables.Chain{Name: fmt.Sprintf("service-%d", i), Table: table()}
}

// rule leads the connections to one service.
type rule struct {
	service ipvs.Service
	// nodes are the addresses that it answers on, where it does on all; one family's.
	nodes []netip.Addr
	// slots are the backends, each as often as its weight says.
	slots []ipvs.Backend
}

// mostSlots bounds a service's part of the map of backends.
const mostSlots = 1024

// rulesOf gives a rule for each service that has somebody to lead to. Where nobody serves there is
// none: the node answers for itself, with a refusal.
func rulesOf(s ipvs.State) []rule {
	var out []rule
	for _, svc := range s.Services {
		if svc.VIP.IsValid() && svc.VIP.IsLoopback() {
			continue // see doc.go
		}
		r := rule{service: svc, slots: slots(svc)}
		if svc.Everywhere() && svc.Published() {
			for _, a := range s.NodeAddrs {
				if a.Is6() == (svc.VIP == netip.IPv6Unspecified()) {
					r.nodes = append(r.nodes, a)
				}
			}
		} else {
			r.nodes = []netip.Addr{svc.VIP}
		}
		if len(r.slots) > 0 && len(r.nodes) > 0 {
			out = append(out, r)
		}
	}
	return out
}

// slots are those who get new connections.
func slots(s ipvs.Service) []ipvs.Backend {
	serving := s.Choosable()
	total := 0
	for _, b := range serving {
		total += int(b.Weight)
	}
	var out []ipvs.Backend
	for _, b := range serving {
		n := int(b.Weight)
		if total > mostSlots {
			n = max(1, n*mostSlots/total)
		}
		for range n {
			out = append(out, b)
		}
	}
	return out
}

func locals(rules []rule, v version) []netip.Addr {
	var out []netip.Addr
	for _, r := range rules {
		for _, b := range r.slots {
			if b.Local && v.is(b.Addr) {
				out = append(out, b.Addr)
			}
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// fingerprint stands in each rule of a state's, so that they are known again.
func fingerprint(rules []rule) string {
	h := fnv.New64a()
	fmt.Fprintf(h, "%+v", rules)
	return fmt.Sprintf("%x", h.Sum64())
}
