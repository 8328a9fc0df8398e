package gossip

import (
	"context"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
)

// TestMeasure says how long a death takes to be seen and how many false alarms
// there are, on a machine whose cores are all busy. It asserts nothing: run it with
// GOSSIP_MEASURE=<seconds> to choose timers; BUSY=0 leaves the cores alone.
func TestMeasure(t *testing.T) {
	seconds, err := strconv.Atoi(os.Getenv("GOSSIP_MEASURE"))
	if err != nil {
		t.Skip("SKIPPED: a measurement, run with GOSSIP_MEASURE=<seconds>")
	}
	for _, mult := range []int{2, 3, 4} {
		for _, probe := range []time.Duration{200, 300} {
			measure(t, mult, probe*time.Millisecond, time.Duration(seconds)*time.Second)
		}
	}
}

func measure(t *testing.T, mult int, probe, while time.Duration) {
	var suspected, silent atomic.Int64
	c := newCluster(t, 10)
	defer func() {
		for i := range c.nodes {
			c.stop(i)
		}
	}()
	c.tune = func(m *memberlist.Config) {
		m.SuspicionMult, m.ProbeInterval, m.ProbeTimeout = mult, probe, probe/2
		m.SuspicionMaxTimeoutMult = 2
	}
	for i := range c.all {
		c.start(i, key(1))
	}
	c.whole()
	for _, n := range c.nodes {
		n.answersTo(&suspected, &silent)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if os.Getenv("BUSY") != "0" {
		for range 2 * runtime.NumCPU() {
			go func() {
				for ctx.Err() == nil { //nolint:revive // it is to be busy
				}
			}()
		}
	}
	select {
	case <-time.After(while):
	case <-t.Context().Done():
	}
	false1, false2 := suspected.Load(), silent.Load()
	var took []time.Duration
	for range 3 {
		c.kill(1)
		took = append(took, c.seen(time.Minute, 1).Round(10*time.Millisecond))
		c.start(1, key(1))
		c.seen(time.Minute)
		c.whole()
	}
	t.Logf("suspicion %d, probes every %v: %d checks, %d of them false alarms in %v x 90 pairs; a death takes %v", mult, probe, false1, false2, while, took)
}

// answersTo counts the checks that a node makes, with the real sign of life.
func (n *testNode) answersTo(asked, silent *atomic.Int64) {
	was := n.cfg.Reach
	n.cfg.Reach = func(ctx context.Context, addr netip.AddrPort) bool {
		if !was(ctx, addr) {
			return false
		}
		asked.Add(1)
		ok := reach(ctx, addr)
		if !ok {
			silent.Add(1)
		}
		return ok
	}
}
