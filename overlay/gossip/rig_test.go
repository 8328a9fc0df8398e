package gossip

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
)

// cluster is a number of nodes on addresses of the loopback device, over real
// sockets. Whether a machine lives is the rig's to say.
type cluster struct {
	t     *testing.T
	nodes []*testNode
	all   []Member
	log   *slog.Logger
	tune  func(*memberlist.Config)

	mu   sync.Mutex
	dead map[netip.AddrPort]bool
}

// slower is for clusters that one process can hardly carry on a busy machine, and
// for tests of which false alarms are not the matter.
func slower(m *memberlist.Config) { m.ProbeInterval, m.ProbeTimeout = 4*probeInterval, 4*probeTimeout }

type testNode struct {
	*Gossip
	cancel context.CancelFunc
	done   chan error
}

// key is a key that differs by its number.
func key(n byte) []byte { return bytes.Repeat([]byte{n}, KeySize) }

// testPort keeps runs side by side apart.
func testPort() uint16 { return uint16(20000 + os.Getpid()%10000) }

func newCluster(t *testing.T, n int) *cluster {
	t.Helper()
	c := &cluster{t: t, dead: map[netip.AddrPort]bool{}, log: slog.New(slog.DiscardHandler)}
	if testing.Verbose() && os.Getenv("GOSSIP_LOG") != "" {
		c.log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	for i := range n {
		addr := netip.AddrFrom4([4]byte{127, 79, byte(i / 200), byte(i%200 + 1)})
		c.all = append(c.all, Member{ID: fmt.Sprintf("n%02d", i), Addr: netip.AddrPortFrom(addr, testPort())})
	}
	c.nodes = make([]*testNode, n)
	t.Cleanup(func() {
		for i := range c.nodes {
			c.stop(i)
		}
	})
	return c
}

// start runs node i.
func (c *cluster) start(i int, keys ...[]byte) *testNode {
	c.t.Helper()
	m := c.all[i]
	c.mark(i, false)
	g := New(Config{NodeID: m.ID, Addr: m.Addr, Reach: c.reach, Logger: c.log.With("at", m.ID), tune: c.tune})
	if err := g.SetKeys(keys); err != nil {
		c.t.Fatal(err)
	}
	g.SetSeeds(c.all)
	return c.run(i, g)
}

func (c *cluster) run(i int, g *Gossip) *testNode {
	ctx, cancel := context.WithCancel(context.Background())
	n := &testNode{Gossip: g, cancel: cancel, done: make(chan error, 1)}
	go func() { n.done <- g.Run(ctx) }()
	c.nodes[i] = n
	return n
}

// startAll runs all nodes and waits until they know each other.
func (c *cluster) startAll() {
	c.t.Helper()
	for i := range c.all {
		c.start(i, key(1))
	}
	c.whole()
}

// whole waits until every running node knows all the running ones.
func (c *cluster) whole() {
	c.t.Helper()
	running := c.running()
	c.within(time.Minute, "all know each other", func() error {
		for i, n := range running {
			list := n.open()
			if list == nil {
				return fmt.Errorf("node %d does not listen", i)
			}
			if met := alive(list); len(met) != len(running) {
				return fmt.Errorf("node %d knows %v, which is not all %d", i, met, len(running))
			}
		}
		return nil
	})
}

func (c *cluster) running() map[int]*testNode {
	out := map[int]*testNode{}
	for i, n := range c.nodes {
		if n != nil {
			out[i] = n
		}
	}
	return out
}

// stop ends node i's daemon.
func (c *cluster) stop(i int) {
	n := c.nodes[i]
	if n == nil {
		return
	}
	c.nodes[i] = nil
	n.cancel()
	if err := <-n.done; err != nil {
		c.t.Errorf("Run of node %d: %v", i, err)
	}
}

// kill ends node i's machine.
func (c *cluster) kill(i int) {
	c.mark(i, true)
	c.stop(i)
}

func (c *cluster) mark(i int, dead bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead[c.all[i].Addr] = dead
}

// reach stands in for the TCP connect: a dead machine's loopback address would
// still refuse.
func (c *cluster) reach(ctx context.Context, addr netip.AddrPort) bool {
	c.mu.Lock()
	dead := c.dead[addr]
	c.mu.Unlock()
	if dead {
		<-ctx.Done()
	}
	return !dead
}

// seen waits until every running node masks exactly these nodes, and returns how
// long that took.
func (c *cluster) seen(limit time.Duration, want ...int) time.Duration {
	c.t.Helper()
	start := time.Now()
	c.within(limit, fmt.Sprintf("all mask %v", want), func() error {
		for i, n := range c.running() {
			down := n.Down()
			if len(down) != len(want) {
				return fmt.Errorf("node %d masks %v", i, down)
			}
			for _, w := range want {
				if !down[c.all[w].ID] {
					return fmt.Errorf("node %d masks %v", i, down)
				}
			}
		}
		return nil
	})
	return time.Since(start)
}

func (c *cluster) within(limit time.Duration, what string, check func() error) {
	c.t.Helper()
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s: not within %v: %v", what, limit, err)
		}
		<-tick.C
	}
}

// holds checks a condition all the time for a while.
func (c *cluster) holds(while time.Duration, what string, check func() error) {
	c.t.Helper()
	end := time.NewTimer(while)
	defer end.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := check(); err != nil {
			c.t.Fatalf("%s: %v", what, err)
		}
		select {
		case <-end.C:
			return
		case <-tick.C:
		}
	}
}

// nobodyMasked is a check that all nodes count as alive everywhere.
func (c *cluster) nobodyMasked() error {
	for i, n := range c.running() {
		if down := n.Down(); len(down) > 0 {
			return fmt.Errorf("node %d masks %v", i, down)
		}
	}
	return nil
}
