package e2e

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
)

// underlay is what packets between the nodes meet.
type underlay struct {
	// mtu of node1's link, in bytes, and of node2's.
	mtu [2]int
	// routed: the hub routes between the nodes, rather than being one link with them.
	routed bool
}

// testLargeTransfers changes the underlay below running tasks: 10 MB pass both ways on
// each, and nothing is set for that.
func testLargeTransfers(t *testing.T, c *cluster) {
	for _, u := range []underlay{
		{mtu: [2]int{9000, 9000}},
		{mtu: [2]int{1420, 1420}},
		{mtu: [2]int{1500, 1280}, routed: true},
		{mtu: [2]int{1280, 1280}},
		{mtu: [2]int{1500, 1500}},
	} {
		t.Run(fmt.Sprint(u), func(t *testing.T) { c.sub(t).carries(u) })
	}
}

// carries makes the underlay so and waits until transfers pass.
func (c *cluster) carries(u underlay) {
	c.t.Helper()
	c.makeUnderlay(u)
	for i, node := range []string{"node1", "node2"} {
		if u.mtu[i] == min(u.mtu[0], u.mtu[1]) { // the other one knows when a packet was too long
			c.hasMTU(c.taskOf("web", node), max(u.mtu[i]-map[string]int{dualLab: 50, sixLab: 70}[c.name], 1280))
		}
	}
	if r := c.meshctl("node2", "net", "check"); strings.Contains(r.out, "tunnel over IPv6") != (c.name == sixLab && u.mtu[1] < 1350) {
		c.t.Errorf("net check: %v", r)
	}
	var published []string
	for _, node := range []string{"node1", "node2"} {
		for _, addr := range c.addressesOf(node) {
			published = append(published, addr, addr) // a task here, a task there
		}
	}
	c.transfers("from outside", published, c.outside)
	for _, from := range c.tasks("node1", "api") {
		var to []string
		for _, kind := range []string{"A", "AAAA"} {
			to = append(to, c.gives(from, 1, "-type", kind, "web")...)
			to = append(to, c.gives(from, 2, "-type", kind, "tasks.web")...)
		}
		c.transfers("from "+from.Node, to, func(args ...string) result { return c.in(from, args...) })
	}
}

// hasMTU waits until a task's interface on the mesh network follows.
func (c *cluster) hasMTU(tk task, want int) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("%s on %s has an MTU of %d", tk.Name, tk.Node, want), func() error {
		r := c.in(tk, "sample", "show", "/sys/class/net/eth0/mtu")
		if !strings.HasSuffix(r.out, " "+strconv.Itoa(want)) {
			return fmt.Errorf("show: %v", r)
		}
		return nil
	})
}

// transfers waits until web takes and gives 10 MB at each address, for who runs commands so.
func (c *cluster) transfers(who string, to []string, run func(args ...string) result) {
	c.t.Helper()
	args := []string{"sample", "transfer", "-timeout", "5s"}
	for _, addr := range to {
		args = append(args, "http://"+net.JoinHostPort(addr, "8080"))
	}
	c.eventually("large transfers "+who, func() error {
		if r := run(args...); r.code != 0 {
			return fmt.Errorf("transfer: %v", r)
		}
		return nil
	})
}

// makeUnderlay sets the links, at both ends, and the routes between the nodes.
func (c *cluster) makeUnderlay(u underlay) {
	c.t.Helper()
	for i, node := range []string{"node1", "node2"} {
		mtu := strconv.Itoa(u.mtu[i])
		c.must("ip", "-n", c.name+"-hub", "link", "set", node, "mtu", mtu)
		c.must("ip", "-n", c.name+"-"+node, "link", "set", "eth0", "mtu", mtu)
	}
	c.must("ip", "-n", c.name+"-hub", "link", "set", "br0", "mtu", strconv.Itoa(min(u.mtu[0], u.mtu[1])))
	for from, to := range map[string]string{"node1": "node2", "node2": "node1"} {
		for _, addr := range c.addressesOf(to) {
			version := map[bool]string{true: "-6", false: "-4"}[strings.Contains(addr, ":")]
			ns := c.name + "-" + from
			if !u.routed {
				c.run(c.t, "no route", "ip", "-n", ns, version, "route", "del", addr, "dev", "eth0")
				continue
			}
			hub := strings.Fields(c.must("ip", "-n", ns, version, "route", "show", "default"))[2]
			c.must("ip", "-n", ns, version, "route", "replace", addr, "via", hub, "dev", "eth0")
		}
	}
}
