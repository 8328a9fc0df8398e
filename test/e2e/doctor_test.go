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
	drop := func(proto, port string) string {
		return fmt.Sprintf("nft 'add table inet shut; add chain inet shut in { type filter hook input priority -400; }; add rule inet shut in %s dport %s drop'", proto, port)
	}
	const mend = "nft delete table inet shut"
	do := func(script string) {
		if r := c.on("node2", "sh", "-ec", script); r.code != 0 {
			t.Fatalf("%s: %v", script, r)
		}
	}
	for _, fault := range []struct {
		harm, mend string
		want       []string
	}{
		{drop("udp", "4789") + "; kill -STOP $(cat /run/docker.pid)", mend + "; kill -CONT $(cat /run/docker.pid)",
			[]string{"cluster: overlay: node1 -> node2: no tunnel packet arrives", "node2: engine: the Docker Engine at "}},
		{drop("udp", "7946") + "; ip link set eth0 mtu 1400", mend + "; ip link set eth0 mtu 1500",
			[]string{"cluster: gossip: node1 -> node2: UDP: ", "cluster: MTU: node1 -> node2: small packets arrive, those of 1500 bytes do not"}},
	} {
		do(fault.harm)
		found := c.problems()
		do(fault.mend)
		for _, want := range fault.want {
			if !strings.Contains(found, want) {
				t.Errorf("%s: found\n%s\nwant %s", fault.harm, found, want)
			}
		}
	}
	// Without a daemon the machine is examined all the same.
	c.refused(c.runEnv("doctor", []string{"DOCKER_HOST=unix:///nonexistent.sock"}, "meshctl", "doctor", "-a"), "kernel")
}
