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
	w := writer{c, userdata.AppendString(nil, userdata.TypeComment, print), 0}
	if err := w.write(rules); err != nil {
		return 0, err
	}
	return w.rules, flush(c)
}

// writer writes a table into a transaction.
type writer struct {
	*nftables.Conn
	comment []byte // of each rule
	rules   int    // so many were written
}

func (w *writer) rule(chain *nftables.Chain, exprs []expr.Any) {
	w.AddRule(&nftables.Rule{Table: table(), Chain: chain, UserData: w.comment, Exprs: exprs})
	w.rules++
}

// write makes chains before the maps that lead to them, and those before the rules that look into them.
func (w *writer) write(rules []rule) error {
	w.AddTable(table())
	for i := range rules {
		w.AddChain(serviceChain(i))
	}
	chain := map[string]*nftables.Chain{}
	for _, ch := range chains() {
		chain[ch.Name] = w.AddChain(ch)
	}
	for _, v := range versions() {
		t, err := putTables(w.Conn, v, rules)
		if err != nil {
			return err
		}
		for i, r := range rules {
			if v.is(r.slots[0].Addr) {
				w.rule(serviceChain(i), t.lead(i, r))
			}
		}
		for _, exprs := range t.find() {
			w.rule(chain[chainServices], exprs)
		}
		selves, err := v.selves(w.Conn, rules)
		if err != nil {
			return err
		}
		if selves != nil {
			w.rule(chain[chainSelf], selves)
		}
	}
	for _, hook := range []string{chainIn, chainOwn} {
		w.rule(chain[hook], []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chainServices}})
	}
	return nil
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

// sound says whether the kernel has the rules of the last Set, and no others. The maps that they look into are constant. b.mu is held.
func (b *Balancer) sound() bool {
	comments, err := comments()
	return err == nil && len(comments) == b.rules && !slices.ContainsFunc(comments, func(c string) bool { return c != b.print })
}

// comments are those of the table's rules, in all chains at once: the library asks for one chain's only.
func comments() ([]string, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	ask := netlink.NewAttributeEncoder()
	ask.String(unix.NFTA_RULE_TABLE, Table)
	attributes, err := ask.Encode()
	if err != nil {
		return nil, err
	}
	const header = 4 // nfgenmsg: family, version, and two bytes that mean nothing here
	answers, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETRULE, Flags: netlink.Request | netlink.Dump},
		Data:   append([]byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}, attributes...),
	})
	if err != nil {
		return nil, err
	}
	var out []string
	for _, a := range answers {
		rule, err := netlink.NewAttributeDecoder(a.Data[min(header, len(a.Data)):])
		if err != nil {
			return nil, err
		}
		comment := ""
		for rule.Next() {
			if rule.Type() == unix.NFTA_RULE_USERDATA {
				comment, _ = userdata.GetString(rule.Bytes(), userdata.TypeComment)
			}
		}
		out = append(out, comment)
	}
	return out, nil
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
