package nat

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"

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

// Set implements ipvs.Balancer: all rules at once. Connections keep their translation while their backend is there.
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
	if err := forget(before, s); err != nil {
		return err // the next Set tries again
	}
	b.state = &s
	return nil
}

// room bounds what a transaction and the kernel's answers to it may take, in bytes: a thousand services take a few MB,
// much more than sockets have by themselves.
const room = 64 << 20

func withRoom(c *netlink.Conn) error {
	return errors.Join(c.SetWriteBuffer(room), c.SetReadBuffer(room))
}

// put replaces the table in one transaction, and counts its rules.
func put(rules []rule, print string) (int, error) {
	c, err := nftables.New(nftables.WithSockOptions(withRoom))
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
		added, err := addRules(c, chain, rules, comment)
		if err != nil {
			return 0, err
		}
		n += added
	}
	return n, flush(c)
}

// addRules fills a chain, and counts its rules.
func addRules(c *nftables.Conn, chain *nftables.Chain, rules []rule, comment []byte) (int, error) {
	switch chain.Name {
	case chainSelf:
		return addSelves(c, chain, rules, comment)
	case chainServices:
		for _, r := range rules {
			if err := r.add(c, chain, comment); err != nil {
				return 0, err
			}
		}
		return len(rules), nil
	}
	c.AddRule(&nftables.Rule{
		Table: table(), Chain: chain, UserData: comment,
		Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chainServices}},
	})
	return 1, nil
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
		}
		n += len(rules)
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
