package gossip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"
)

// limit bounds every wait; machines that run tests are slow and shared.
const limit = 20 * time.Second

func TestDeathAndReturn(t *testing.T) {
	for _, n := range []int{3, 10, 50} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			c := newCluster(t, n)
			if n > 10 {
				c.tune = slower
			}
			c.startAll()
			c.kill(1)
			t.Logf("%d nodes: masked on all after %v", n, c.seen(limit, 1).Round(time.Millisecond))
			c.start(1, key(1))
			t.Logf("%d nodes: unmasked on all after %v", n, c.seen(limit).Round(time.Millisecond))
		})
	}
}

// A daemon that is away is no reason to mask its node: the kernel serves on.
func TestDaemonRestartIsNoDeath(t *testing.T) {
	c := newCluster(t, 4)
	c.startAll()
	c.stop(2)
	c.within(limit, "the others have lost it", func() error {
		for i, n := range c.running() {
			if alive(n.open())[c.all[2].ID] {
				return fmt.Errorf("node %d still has it", i)
			}
		}
		return nil
	})
	c.holds(2*recheckLiving, "a machine that refuses is alive", c.nobodyMasked)
	c.mark(2, true) // now the machine dies, too
	c.seen(limit, 2)
}

// One that says that it leaves is masked at once, though its machine answers, also
// after it is gone, and until it is back.
func TestLeaving(t *testing.T) {
	c := newCluster(t, 4)
	c.startAll()
	if err := c.nodes[2].Leave(); err != nil {
		t.Fatal(err)
	}
	n := c.nodes[2]
	c.nodes[2] = nil
	c.seen(limit, 2)
	if down := n.Down(); len(down) > 0 {
		t.Errorf("the one that leaves masks %v", down)
	}
	c.nodes[2] = n
	c.kill(2)
	c.within(limit, "the others have lost it", func() error {
		for i, n := range c.running() {
			if alive(n.open())[c.all[2].ID] {
				return fmt.Errorf("node %d still has it", i)
			}
		}
		return nil
	})
	c.seen(limit, 2)
	c.start(2, key(1))
	c.seen(limit)
}

// The default sign of life is what a kernel does without any daemon.
func TestReach(t *testing.T) {
	l, err := net.Listen("tcp", "127.79.255.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().(*net.TCPAddr).AddrPort()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if !reach(ctx, addr) {
		t.Error("one that accepts counts as silent")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if !reach(ctx, addr) {
		t.Error("one that refuses counts as silent")
	}
	cancel()
	if reach(ctx, addr) {
		t.Error("one that does not answer in time counts as alive")
	}
}

// Whoever loses most of the others at once doubts itself.
func TestManyAtOnceAreNotMasked(t *testing.T) {
	c := newCluster(t, 5)
	c.startAll()
	for _, i := range []int{1, 2, 3} {
		c.mark(i, true) // as if this node's cable were pulled: all fall silent together
	}
	for _, i := range []int{1, 2, 3} {
		c.stop(i)
	}
	c.within(limit, "the three are lost", func() error {
		for _, n := range c.running() {
			if len(alive(n.open())) != 2 {
				return errors.New("not yet")
			}
		}
		return nil
	})
	c.holds(time.Second, "at most half of the others are masked", func() error {
		for i, n := range c.running() {
			if down := n.Down(); len(down) > 2 {
				return fmt.Errorf("node %d masks %v", i, down)
			}
		}
		return nil
	})
	c.start(1, key(1))
	c.within(limit, "with one back, the two that are left are masked", func() error {
		for _, i := range []int{0, 4} { // node 1 never met them
			if down := c.nodes[i].Down(); len(down) != 2 || down[c.all[1].ID] {
				return fmt.Errorf("node %d masks %v", i, down)
			}
		}
		return nil
	})
}

func TestWrongKeyStaysOut(t *testing.T) {
	c := newCluster(t, 4)
	for i := range 3 {
		c.start(i, key(1))
	}
	c.whole()
	stranger := c.start(3, key(9))
	c.holds(2*time.Second, "a stranger neither sees nor is seen", func() error {
		for i, n := range c.running() {
			list := n.open()
			if i != 3 && alive(list)[c.all[3].ID] {
				return fmt.Errorf("node %d lets it in", i)
			}
			if i == 3 && list != nil && len(alive(list)) > 1 {
				return fmt.Errorf("it sees %v", alive(list))
			}
		}
		return c.nobodyMasked() // never met, so alive
	})
	if err := stranger.SetKeys([][]byte{key(1)}); err != nil {
		t.Fatal(err)
	}
	c.whole() // with the right key it is one of them, without a restart
}

func TestNothingListensBeforeTheFirstKey(t *testing.T) {
	c := newCluster(t, 2)
	n := c.start(0)
	c.holds(200*time.Millisecond, "no port without a key", func() error {
		if conn, err := net.Dial("tcp", c.all[0].Addr.String()); err == nil {
			conn.Close()
			return errors.New("it listens")
		}
		return nil
	})
	if err := n.SetKeys([][]byte{key(1)}); err != nil {
		t.Fatal(err)
	}
	c.within(limit, "it listens", func() error {
		conn, err := net.Dial("tcp", c.all[0].Addr.String())
		if err == nil {
			conn.Close()
		}
		return err
	})
	if err := n.SetKeys([][]byte{[]byte("short")}); !errors.Is(err, ErrKey) {
		t.Errorf("a short key: %v", err)
	}
}

// Keys change on one node after the other, each step everywhere before the next,
// as managers do it: new one known, new one used, old one gone.
func TestKeyRotationLosesNobody(t *testing.T) {
	c := newCluster(t, 10)
	c.tune = slower
	c.startAll()
	for gen := byte(1); gen <= 3; gen++ {
		old, next := key(gen), key(gen+1)
		for _, step := range [][][]byte{{old, next}, {next, old}, {next}} {
			for _, n := range c.nodes {
				if err := n.SetKeys(step); err != nil {
					t.Fatal(err)
				}
				c.holds(40*time.Millisecond, "nobody is lost", func() error { return c.complete(len(c.nodes)) })
			}
		}
	}
	c.kill(3)
	c.seen(limit, 3)
	c.start(3, key(1))
	c.holds(time.Second, "an old key opens nothing", func() error {
		if c.nodes[0].Down()[c.all[3].ID] {
			return nil
		}
		return errors.New("the node with the old key is back")
	})
	if err := c.nodes[3].SetKeys([][]byte{key(4)}); err != nil {
		t.Fatal(err)
	}
	c.seen(limit)
}

// complete checks that all nodes see n.
func (c *cluster) complete(n int) error {
	for i, node := range c.running() {
		if got := len(alive(node.open())); got != n {
			return fmt.Errorf("node %d sees %d of %d", i, got, n)
		}
	}
	return c.nobodyMasked()
}

func TestPortInUseIsRetried(t *testing.T) {
	c := newCluster(t, 2)
	l, err := net.Listen("tcp", c.all[0].Addr.String())
	if err != nil {
		t.Fatal(err)
	}
	n := c.start(0, key(1))
	c.holds(100*time.Millisecond, "Run goes on", func() error {
		if n.open() != nil {
			return errors.New("two have the port")
		}
		return nil
	})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	c.within(limit, "the port is taken when it is free", func() error {
		if n.open() == nil {
			return errors.New("not yet")
		}
		return nil
	})
}
