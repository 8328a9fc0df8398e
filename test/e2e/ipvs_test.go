package e2e

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/meshd/meshd/ipvs/kernel"
	"github.com/meshd/meshd/test/lab"
)

const ipvsLab = "e2eipvs"

// TestKernelsBalancer has the kernel's IPVS lead connections to virtual addresses, on a node with eBPF and on one without. It goes through little
// and counts on no time: where there is IPVS the processor may well be emulated (make test-vm-lab).
func TestKernelsBalancer(t *testing.T) {
	requireMachine(t)
	if err := kernel.Supported(); err != nil {
		t.Skipf("SKIPPED: %v; make test-vm-lab runs it on a kernel that has it", err)
	}
	flags := wrap(t, lab.Meshd)
	flags("node1", "--balancer=ipvs")
	flags("node2", "--balancer=ipvs --datapath=bridge")
	c := up(t, ipvsLab, "--nodes", "2", "--managers", "1")
	c.must("meshctl", "lab", "load", "--name", c.name, "../../build/sample.tar")
	c.says("load balancer", map[string]string{"node1": "IPVS for virtual addresses, eBPF", "node2": "IPVS for virtual addresses, nftables"})

	c.mustDocker("node1", "network", "create", "--driver", "overlay", "net")
	c.mustDocker("node1", "service", "create", "-d", "--no-resolve-image", "--name", "web", "--replicas", "2",
		"--network", "net", "--publish", "8080:8080", image)
	c.ledByIPVS(2)
	c.mustDocker("node1", "service", "scale", "-d", "web=3")
	c.ledByIPVS(3)
	victim := c.taskOf("web", "node2")
	c.mustDocker(victim.Node, "kill", victim.Name+"."+victim.ID)
	c.eventually("the killed task is replaced", func() error {
		tasks := c.tasks("node1", "web")
		if len(tasks) != 3 || slices.Contains(tasks, victim) {
			return fmt.Errorf("tasks %v", tasks)
		}
		return nil
	})
	c.ledByIPVS(3)
}

// ledByIPVS waits until web has n tasks, a virtual address and the published port of each node lead to all of them, and the kernel's tables have
// led there.
func (c *cluster) ledByIPVS(n int) {
	c.t.Helper()
	c.running("node1", "web", n)
	for _, node := range []string{"node1", "node2"} {
		from := c.taskOf("web", node)
		var tasks []netip.Addr
		for _, addr := range c.gives(from, n, "tasks.web") {
			tasks = append(tasks, netip.MustParseAddr(addr))
		}
		c.eventually("IPVS of "+from.Name+" leads to all tasks", func() error {
			if r := c.in(from, "sample", "get", "-n", "6", "http://web:8080/"); r.code != 0 {
				return fmt.Errorf("call: %v", r)
			}
			led := c.ipvsConnections(from)
			for _, addr := range tasks {
				if led[addr] == 0 {
					return fmt.Errorf("no connection to %s: %v", addr, led)
				}
				delete(led, addr)
			}
			if len(led) != 0 {
				return fmt.Errorf("it still has %v", led)
			}
			return nil
		})
		url := "http://" + c.addressesOf(node)[0] + ":8080/"
		hosts := map[string]bool{}
		c.eventually("the port of "+node+" leads to all tasks", func() error {
			r := c.outside("sample", "get", "-n", "6", "-field", "hostname", url)
			for _, host := range strings.Fields(r.out) {
				hosts[host] = true
			}
			if r.code != 0 || len(hosts) < n {
				return fmt.Errorf("only %v: %v", hosts, r)
			}
			return nil
		})
	}
}

// ipvsConnections counts the connections that IPVS in a task's namespace has to each backend. Lines of backends are
//
//	->  address:port in hexadecimal  method  weight  active  ending
func (c *cluster) ipvsConnections(tk task) map[netip.Addr]int {
	c.t.Helper()
	pid := c.mustDocker(tk.Node, "inspect", "--format", "{{.State.Pid}}", tk.Name+"."+tk.ID)
	table := c.on(tk.Node, "cat", "/proc/"+pid+"/net/ip_vs")
	led := map[netip.Addr]int{}
	for line := range strings.Lines(table.out) {
		f := strings.Fields(line)
		if len(f) != 6 || f[0] != "->" || f[3] == "Weight" {
			continue
		}
		digits, _, _ := strings.Cut(f[1], ":")
		raw, err := hex.DecodeString(digits)
		addr, ok := netip.AddrFromSlice(raw)
		active, errActive := strconv.Atoi(f[4])
		ending, errEnding := strconv.Atoi(f[5])
		if err != nil || !ok || errActive != nil || errEnding != nil {
			c.t.Fatalf("%q in the table of IPVS: %v", line, table)
		}
		led[addr] += active + ending
	}
	return led
}
