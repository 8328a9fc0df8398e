package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/meshd/meshd/test/lab"
	"github.com/meshd/meshd/test/probe"
)

// isHidden keeps a node's gossip from the others, but nothing else: a false alarm. New connections go elsewhere, and
// those that there are go on.
func (c *cluster) isHidden(node, through string) {
	c.t.Helper()
	from := c.taskOn(through)
	kept := map[string]*probe.Probe{
		"VIP":            c.keptTo(node, probe.Spec{Node: through, PID: c.pid(from), Target: "http://web:8080/"}),
		"published port": c.keptTo(node, probe.Spec{Node: lab.Client, Sample: filepath.Join(c.bin, "sample"), Target: "http://" + c.address(through) + ":8080/"}),
	}
	hide := "add table inet hide; add chain inet hide in { type filter hook input priority -10; }; " +
		"add rule inet hide in udp dport 7946 drop; add rule inet hide in tcp dport 7946 drop"
	if r := c.on(node, "nft", hide); r.code != 0 {
		c.t.Fatalf("hide %s: %v", node, r)
	}
	c.eventually("new connections go elsewhere", func() error {
		r := c.in(from, "sample", "get", "-n", "40", "-timeout", "2s", "-field", "hostname", "http://web:8080/")
		if r.code != 0 || strings.Contains(r.out, node) {
			return fmt.Errorf("get: %v", r)
		}
		return nil
	})
	masked := time.Now()
	enough := func(p *probe.Probe, from time.Time) func() error {
		return func() error {
			if n := len(p.Between(from, time.Now())); n < 20 {
				return fmt.Errorf("%d calls", n)
			}
			return nil
		}
	}
	for way, p := range kept {
		c.eventually("calls over the old connection through the "+way, enough(p, masked))
	}
	if r := c.on(node, "nft", "delete table inet hide"); r.code != 0 {
		c.t.Fatalf("show %s again: %v", node, r)
	}
	c.answering(through, "node1", "node2", "node3", "node4")
	for way, p := range kept {
		c.eventually("calls over the old connection through the "+way, enough(p, time.Now()))
		if err := p.Stop(); err != nil {
			c.t.Error(err)
		}
		for _, s := range p.Between(time.Time{}, time.Now()) {
			if !s.OK || s.What != node {
				c.t.Errorf("a connection through the %s did not outlive a false alarm: %v", way, s)
				break
			}
		}
	}
}

// keptTo starts clients until one has a connection to a node's task.
func (c *cluster) keptTo(node string, s probe.Spec) *probe.Probe {
	c.t.Helper()
	s.Hold, s.Every, s.Timeout = 1, 50*time.Millisecond, patience
	var found *probe.Probe
	c.eventually("a client has a connection to "+node, func() error {
		p, err := probe.Start(c.lab(), s)
		if err != nil {
			c.t.Fatal(err)
		}
		first := ""
		c.eventually("it has an answer", func() error {
			all := p.Between(time.Time{}, time.Now())
			if len(all) == 0 {
				return fmt.Errorf("%v has none", p)
			}
			first = all[0].What
			return nil
		})
		if first == node {
			found = p
			return nil
		}
		if err := p.Stop(); err != nil {
			c.t.Fatal(err)
		}
		return fmt.Errorf("it is connected to %q", first)
	})
	c.t.Cleanup(func() { _ = found.Stop() })
	return found
}
