package nat

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/ipvs"
)

// Balancer is an ipvs.Balancer of the network namespace that calls it.
type Balancer struct {
	mu sync.Mutex
	// state is what the last Set put; nil: nothing yet.
	state *ipvs.State
	// rules counts the rules that it made, print is in the comments of all.
	rules int
	print string
}

// New makes a balancer; what an earlier process put works on until the first Set replaces it.
func New() *Balancer { return &Balancer{} }

// Close implements ipvs.Balancer.
func (b *Balancer) Close() error { return nil }

// Set implements ipvs.Balancer: all rules at once. Connections keep their translation.
func (b *Balancer) Set(s ipvs.State) error {
	s, err := ipvs.Normalize(s)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	rules := rulesOf(s)
	print := fingerprint(rules)
	if b.state == nil || print != b.print || !b.sound() {
		if b.rules, err = put(rules, print); err != nil {
			return err
		}
		b.print = print
	}
	var before ipvs.State
	if b.state != nil {
		before = *b.state
	}
	b.state = &s
	return forget(before, s)
}

// put replaces the table in one transaction, and counts its rules.
func put(rules []rule, print string) (int, error) {
	c, err := nftables.New()
	if err != nil {
		return 0, fmt.Errorf("nftables: %w", err)
	}
	there, err := exists(c)
	if err != nil {
		return 0, err
	}
	if there {
		c.DelTable(table())
	}
	if len(rules) == 0 {
		return 0, flush(c)
	}
	c.AddTable(table())
	n := 0
	comment := userdata.AppendString(nil, userdata.TypeComment, print)
	for _, chain := range chains() {
		c.AddChain(chain)
		if chain.Name == chainSelf {
			if err := addSelves(c, chain, rules, comment); err != nil {
				return 0, err
			}
			continue
		}
		for _, r := range rules {
			if err := r.add(c, chain, comment); err != nil {
				return 0, err
			}
			n++
		}
	}
	return n, flush(c)
}

func flush(c *nftables.Conn) error {
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables: table %s: %w", Table, err)
	}
	return nil
}

func exists(c *nftables.Conn) (bool, error) {
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, fmt.Errorf("nftables: list tables: %w", err)
	}
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == Table }), nil
}

// sound says whether the kernel has the rules of the last Set. b.mu is held.
func (b *Balancer) sound() bool {
	c, err := nftables.New()
	if err != nil {
		return false
	}
	n := 0
	for _, chain := range chains() {
		rules, _ := c.GetRules(table(), chain) // none of a chain that is missing
		for _, r := range rules {
			comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
			if comment != b.print {
				return false
			}
			if chain.Name != chainSelf {
				n++
			}
		}
	}
	return n == b.rules
}

// Held implements ipvs.Holder: nothing, if the kernel's rules are not those of the last Set.
func (b *Balancer) Held() (ipvs.State, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == nil || !b.sound() {
		return ipvs.State{}, nil
	}
	return *b.state, nil
}

// forget ends the tracking of UDP flows to backends that are gone: their next packets choose anew.
// TCP connections end by themselves.
func forget(before, now ipvs.State) error {
	gone := backends(before)
	for a := range backends(now) {
		delete(gone, a)
	}
	for _, a := range slices.SortedFunc(maps.Keys(gone), netip.Addr.Compare) {
		var f netlink.ConntrackFilter
		family := netlink.InetFamily(unix.AF_INET)
		if a.Is6() {
			family = unix.AF_INET6
		}
		if err := f.AddIP(netlink.ConntrackReplySrcIP, a.AsSlice()); err != nil {
			return err
		}
		if err := f.AddProtocol(uint8(ipvs.UDP)); err != nil {
			return err
		}
		if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, &f); err != nil {
			return fmt.Errorf("forget flows to %s: %w", a, err)
		}
	}
	return nil
}

// backends are those whose UDP flows may go on.
func backends(s ipvs.State) map[netip.Addr]bool {
	out := map[netip.Addr]bool{}
	for _, svc := range s.Services {
		for _, b := range svc.Backends {
			if !b.Away {
				out[b.Addr] = true
			}
		}
	}
	return out
}
