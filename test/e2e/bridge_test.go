package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshd/meshd/ipvs/nat"
	"github.com/meshd/meshd/meshd/doctor"
	"github.com/meshd/meshd/test/lab"
)

const bridgeLab = "e2ebridge"

// TestNodesWithoutEBPF has one node with eBPF, and two without: names, the ways between all tasks, virtual addresses, and ports that are
// published on every node and show the client's own address. meshd dies and comes back under calls that do not notice.
func TestNodesWithoutEBPF(t *testing.T) {
	requireMachine(t)
	flags := wrap(t, lab.Meshd)
	flags("node2", "--datapath=bridge")
	flags("node3", "--datapath=bridge")
	c := up(t, bridgeLab, "--nodes", "3", "--managers", "1")
	c.must("meshctl", "lab", "load", "--name", c.name, "../../build/sample.tar")
	c.mustDocker("node1", "network", "create", "--driver", "overlay", "net")
	c.mustDocker("node1", "service", "create", "-d", "--no-resolve-image", "--name", "web", "--mode", "global", "--network", "net", "--hostname", "{{.Node.Hostname}}",
		"--publish", "8080:8080", "--publish", "9000:9000/udp", image)
	c.mustDocker("node1", "service", "create", "-d", "--no-resolve-image", "--name", "caller", "--mode", "global", "--network", "net", image, "sleep")
	c.running("node1", "web", 3)
	c.running("node1", "caller", 3)
	nodes := []string{"node1", "node2", "node3"}

	client := c.addressesOf(lab.Client)[0]
	for _, node := range nodes {
		c.travels(node, 0, 2)
		from := c.taskOf("caller", node)
		c.gives(from, 3, "tasks.web")
		c.reachesAll(from, "http://web:8080/", 3)
		c.reachesAll(from, "http://tasks.web:8080/", 3)
		c.answering(node, nodes...)
		c.eventually("ports of "+node+" show the client's address", func() error {
			r := c.outside("sample", "get", "-n", "12", "-field", "client", "http://"+c.address(node)+":8080/")
			if r.code != 0 || !slices.Equal(strings.Fields(r.out), slices.Repeat([]string{client}, 12)) {
				return fmt.Errorf("tasks see %v, want %s", r, client)
			}
			if r := c.outside("sample", "udp", c.address(node)+":9000"); r.code != 0 || !strings.Contains(r.out, " "+client+":") {
				return fmt.Errorf("a task sees the UDP client as %v, want %s", r, client)
			}
			return nil
		})
		// From the node itself, and from a container, also where the answer comes from the caller's own node.
		for _, r := range []result{
			c.on(node, "sample", "get", "-n", "6", "http://"+c.address(node)+":8080/"), c.in(from, "sample", "get", "-n", "6", "http://"+c.address(node)+":8080/"),
		} {
			if r.code != 0 {
				t.Errorf("called on %s by the node itself, or by a container: %v", node, r)
			}
		}
	}
	if found := c.meshctl("node1", "net", "check"); found.code != 0 || strings.Count(found.err, "data path bridge: as told by --datapath") != 2 || strings.Count(found.err, "data path ebpf") != 1 {
		t.Errorf("net check: %v", found)
	}
	c.says("data path", map[string]string{"node1": "ebpf", "node2": "bridge", "node3": "bridge"})

	k := c.call(nodes...).vip("node1").vip("node2")
	for from, to := range map[string]string{"node1": "node2", "node2": "node3", "node3": "node1"} {
		k.task(from, to)
	}
	k.hear(time.Second)
	began := time.Now()
	c.signal("node2", lab.Meshd, syscall.SIGKILL)
	k.hear(time.Second)
	c.must("meshctl", "lab", "start", "--name", c.name, "node2")
	k.hear(2 * time.Second)
	k.none(began)
	flags("node3", "--datapath=ebpf")
	c.turnsToEBPF("node3")
}

// turnsToEBPF starts a node's daemon anew, and looks that nothing of the former is left to mislead packets.
func (c *cluster) turnsToEBPF(node string) {
	c.t.Helper()
	c.signal(node, lab.Meshd, syscall.SIGKILL)
	c.must("meshctl", "lab", "start", "--name", c.name, node)
	c.eventually("the former balancer's rules are gone from "+node, func() error {
		if r := c.on(node, "nft", "list", "tables"); r.code != 0 || strings.Contains(r.out, nat.Table) {
			return fmt.Errorf("tables: %v", r)
		}
		return nil
	})
	c.eventually(node+" leads to all tasks", func() error {
		if r := c.outside("sample", "get", "-n", "12", "http://"+c.address(node)+":8080/"); r.code != 0 {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
	c.reachesAll(c.taskOf("caller", node), "http://web:8080/", 3)
}

// says waits until the doctor's check begins with these words on each node.
func (c *cluster) says(check string, want map[string]string) {
	c.t.Helper()
	c.eventually("the doctor tells the "+check, func() error {
		r := c.meshctl("node1", "doctor", "--format", "json")
		var found doctor.Reports
		if err := json.Unmarshal([]byte(r.out), &found); err != nil {
			return fmt.Errorf("doctor: %w: %v", err, r)
		}
		for _, report := range found.Reports {
			i := slices.IndexFunc(report.Findings, func(f doctor.Finding) bool { return f.Check == check })
			if i < 0 || !strings.HasPrefix(report.Findings[i].Says, want[report.Name()]) {
				return fmt.Errorf("%s: not %s: %+v %s", report.Name(), want[report.Name()], report.Findings, report.Error)
			}
		}
		return nil
	})
}
