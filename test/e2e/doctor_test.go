package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/meshd/meshd/meshd/doctor"
)

// problems runs the doctor and gives each problem as "of whom: check: what it says".
func (c *cluster) problems() string {
	c.t.Helper()
	r := c.meshctl("node1", "doctor", "--format", "json")
	var found doctor.Reports
	if err := json.Unmarshal([]byte(r.out), &found); err != nil {
		c.t.Fatalf("doctor: %v: %v", err, r)
	}
	var all []string
	note := func(of string, findings []doctor.Finding) {
		for _, f := range findings {
			if f.Level == doctor.Problem {
				all = append(all, fmt.Sprintf("%s: %s: %s", of, f.Check, f.Says))
			}
		}
	}
	for _, report := range found.Reports {
		note(report.Name(), report.Findings)
		if report.Error != "" {
			all = append(all, report.Name()+": "+report.Error)
		}
	}
	note("cluster", found.Cluster)
	if (r.code == 0) != (len(all) == 0) {
		c.t.Errorf("doctor: exit status %d with the problems %q", r.code, all)
	}
	return strings.Join(all, "\n")
}

// testDoctor injects faults, which are named with the nodes that they are between.
func testDoctor(t *testing.T, c *cluster) {
	c.eventually("all is well", func() error {
		if found := c.problems(); found != "" {
			return fmt.Errorf("found %s", found)
		}
		return nil
	})
	for _, fault := range []struct {
		port       string // of UDP, that is shut
		harm, mend string // beside it
		want       []string
	}{
		{"4789", "kill -STOP $(cat /run/docker.pid)", "kill -CONT $(cat /run/docker.pid)",
			[]string{"cluster: overlay: node1 -> node2: no tunnel packet arrives", "node2: engine: the Docker Engine at "}},
		{"7946", "ip link set eth0 mtu 1400", "ip link set eth0 mtu 1500",
			[]string{"cluster: gossip: node1 -> node2: UDP: ", "cluster: MTU: node1 -> node2: small packets arrive, those of 1500 bytes do not"}},
	} {
		c.shut("node2", "udp", fault.port)
		c.script("node2", fault.harm)
		found := c.problems()
		c.reopen("node2")
		c.script("node2", fault.mend)
		for _, want := range fault.want {
			if !strings.Contains(found, want) {
				t.Errorf("%s: found\n%s\nwant %s", fault.harm, found, want)
			}
		}
	}
	// Without a daemon the machine is examined all the same.
	c.refused(c.runEnv("doctor", []string{"DOCKER_HOST=unix:///nonexistent.sock"}, "meshctl", "doctor", "-a"), "kernel")
}

// shut has a node take no packets to a port, or to a range of them.
func (c *cluster) shut(node, protocol, port string) {
	c.t.Helper()
	c.script(node, fmt.Sprintf("nft 'add table inet shut; add chain inet shut in { type filter hook input priority -400; }; add rule inet shut in %s dport %s drop'", protocol, port))
}

// reopen ends that.
func (c *cluster) reopen(node string) {
	c.t.Helper()
	c.script(node, "nft delete table inet shut")
}

// script runs a shell script in a node's namespaces, which has to succeed.
func (c *cluster) script(node, script string) {
	c.t.Helper()
	if r := c.on(node, "sh", "-ec", script); r.code != 0 {
		c.t.Fatalf("%s: %s: %v", node, script, r)
	}
}
