package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestAddresses: what users say of addresses holds, and what cannot be had says so.
func TestAddresses(t *testing.T) {
	requireMachine(t)
	c := up(t, "e2e-addr", "--nodes", "2", "--managers", "1")
	c.must("meshctl", "lab", "load", "--name", "e2e-addr", "../../build/sample.tar")
	for _, step := range []struct {
		name string
		run  func(*testing.T, *cluster)
	}{
		{"subnets, ranges and reserved addresses", testGivenSubnets},
		{"full network", testFullNetwork},
		{"chosen virtual IP", testFixedVIP},
		{"stable addresses", testStableAddresses},
		{"routes of nodes", testHostRoutes},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.run(t, c.sub(t)) }) {
			return
		}
	}
}

// serve makes a service of the sample that is up at once.
func (c *cluster) serve(args ...string) {
	c.t.Helper()
	c.mustDocker("node1", append(append([]string{"service", "create", "-d", "-q", "--no-resolve-image", "--stop-grace-period", "1s"}, args...), image)...)
}

// addrOn is a task's address on a network, as the node's engine has it.
func (c *cluster) addrOn(tk task, network string) string {
	c.t.Helper()
	return c.mustDocker(tk.Node, "inspect", "--format",
		fmt.Sprintf(`{{(index .NetworkSettings.Networks %q).IPAddress}}`, network), tk.Name+"."+tk.ID)
}

func testGivenSubnets(t *testing.T, c *cluster) {
	c.mustDocker("node1", "network", "create", "-d", "overlay", "--subnet", "10.81.0.0/29", "--subnet", "10.82.0.0/24",
		"--ip-range", "10.82.0.64/29", "--gateway", "10.82.0.65", "--aux-address", "printer=10.82.0.66", "--aux-address", "router=10.81.0.2", "given")
	got := c.mustDocker("node1", "network", "inspect", "--format", "{{json .IPAM.Config}}", "given")
	for _, want := range []string{
		`"Gateway":"10.82.0.65"`, `"IPRange":"10.82.0.64/29"`, `"AuxiliaryAddresses":{"printer":"10.82.0.66"}`,
		`"Gateway":"10.81.0.1"`, `"AuxiliaryAddresses":{"router":"10.81.0.2"}`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("network inspect shows %s, want %s in it", got, want)
		}
	}
	// .3 to .6 of the one subnet and six of the other's range are free; one is the VIP.
	// docker sends the subnets in any order.
	c.serve("--name", "given", "--network", "given", "--replicas", "9")
	c.running("node1", "given", 9)
	free := strings.Fields("10.81.0.3 10.81.0.4 10.81.0.5 10.81.0.6 10.82.0.64 10.82.0.67 10.82.0.68 10.82.0.69 10.82.0.70 10.82.0.71")
	tasks := c.tasks("node1", "given")
	bySubnet := map[string]task{}
	var addrs []string
	for _, tk := range tasks {
		addr := c.addrOn(tk, "given")
		if !slices.Contains(free, addr) || slices.Contains(addrs, addr) {
			t.Errorf("%s has %s, want one of %v that no other has", tk.Name, addr, free)
		}
		addrs = append(addrs, addr)
		bySubnet[addr[:5]] = tk
	}
	for _, from := range bySubnet {
		for _, to := range append(addrs, "given") {
			c.eventually(fmt.Sprintf("%s reaches %s, of whichever subnet", from.Name, to), func() error {
				if r := c.in(from, "sample", "get", "-timeout", "2s", "http://"+to+":8080/"); r.code != 0 {
					return fmt.Errorf("call: %v", r)
				}
				return nil
			})
		}
	}
	c.mustDocker("node1", "service", "rm", "given")
}

// testFullNetwork: tasks beyond what a network holds wait, say why, and start
// when addresses come free.
func testFullNetwork(t *testing.T, c *cluster) {
	c.mustDocker("node1", "network", "create", "-d", "overlay", "--subnet", "10.83.0.0/29", "small")
	c.serve("--name", "first", "--network", "small", "--replicas", "2")
	c.serve("--name", "second", "--network", "small", "--replicas", "2")
	const text = "network small (10.83.0.0/29) has no free address: 6 of 6 in use"
	c.eventually("the task that is left out says why", func() error {
		ps := c.mustDocker("node1", "service", "ps", "--no-trunc", "--format", "{{.CurrentState}} {{.Error}}", "first", "second")
		if strings.Count(ps, text) != 1 {
			return fmt.Errorf("service ps:\n%s", ps)
		}
		return nil
	})
	c.mustDocker("node1", "service", "scale", "-d", "first=1", "second=1")
	c.running("node1", "first", 1)
	c.running("node1", "second", 1)
	c.mustDocker("node1", "service", "scale", "-d", "second=2")
	c.running("node1", "second", 2)
	c.mustDocker("node1", "service", "rm", "first", "second")
}

func testFixedVIP(t *testing.T, c *cluster) {
	c.mustDocker("node1", "network", "create", "-d", "overlay", "--subnet", "10.84.0.0/24", "--ip-range", "10.84.0.128/25", "fixed")
	c.serve("--name", "fixed", "--network", "fixed", "--label", "mesh.vip=10.84.0.50")
	c.running("node1", "fixed", 1)
	from := c.tasks("node1", "fixed")[0]
	c.eventually("the name gives the address that was asked for", func() error {
		if r := c.in(from, "sample", "lookup", "fixed"); r.out != "10.84.0.50" {
			return fmt.Errorf("lookup: %v", r)
		}
		return nil
	})
	c.refused(c.docker("node1", "service", "create", "-d", "--no-resolve-image", "--network", "fixed", "--label", "mesh.vip=fixed=10.84.0.50", image),
		"10.84.0.50 of network fixed is in use by service fixed")
	c.mustDocker("node1", "service", "update", "-d", "-q", "--label-add", "mesh.vip=10.84.0.51", "fixed")
	c.eventually("the name gives the new address, and it answers", func() error {
		if r := c.in(from, "sample", "lookup", "fixed"); r.out != "10.84.0.51" {
			return fmt.Errorf("lookup: %v", r)
		}
		if r := c.in(from, "sample", "get", "-timeout", "2s", "http://10.84.0.51:8080/"); r.code != 0 {
			return fmt.Errorf("call: %v", r)
		}
		return nil
	})
	c.mustDocker("node1", "service", "rm", "fixed")
}

// testStableAddresses: an update, a crash and a drain replace tasks; addresses stay.
func testStableAddresses(t *testing.T, c *cluster) {
	c.serve("--name", "stable", "--network", "fixed", "--label", "mesh.stable-ip=true", "--replicas", "2", "--restart-delay", "10ms")
	c.running("node1", "stable", 2)
	had := map[string]string{}
	for _, tk := range c.tasks("node1", "stable") {
		had[tk.Name] = c.addrOn(tk, "fixed")
	}
	replaced := func(how string, former []task, at int) {
		t.Helper()
		c.eventually("tasks have their slots' addresses after "+how, func() error {
			now := c.tasks("node1", "stable")
			if len(now) != len(had) {
				return fmt.Errorf("%d tasks run", len(now))
			}
			fresh := 0
			for _, tk := range now {
				if !slices.Contains(ids(former), tk.ID) {
					fresh++
				}
				r := c.docker(tk.Node, "inspect", "--format", `{{(index .NetworkSettings.Networks "fixed").IPAddress}}`, tk.Name+"."+tk.ID)
				if r.out != had[tk.Name] {
					return fmt.Errorf("%s has %v, had %s", tk.Name, r, had[tk.Name])
				}
				if r := c.in(tk, "sample", "get", "-timeout", "2s", "http://stable:8080/"); r.code != 0 {
					return fmt.Errorf("%s calls the service: %v", tk.Name, r)
				}
			}
			if fresh < at {
				return fmt.Errorf("%d tasks are new, want %d", fresh, at)
			}
			return nil
		})
	}
	tasks := c.tasks("node1", "stable")
	c.mustDocker("node1", "service", "update", "-d", "-q", "--force", "--update-parallelism", "2", "--update-monitor", "1ms", "stable")
	replaced("an update", tasks, 2)
	tasks = c.tasks("node1", "stable")
	c.mustDocker(tasks[0].Node, "kill", tasks[0].Name+"."+tasks[0].ID)
	replaced("a crash", tasks, 1)
	tasks = c.tasks("node1", "stable")
	c.mustDocker("node1", "node", "update", "--availability", "drain", "node2")
	replaced("a drain", tasks, len(slices.DeleteFunc(slices.Clone(tasks), func(tk task) bool { return tk.Node == "node1" })))
	c.mustDocker("node1", "node", "update", "--availability", "active", "node2")
	c.refused(c.docker("node1", "service", "update", "-d", "--update-order", "start-first", "stable"), "use stop-first")
	c.mustDocker("node1", "service", "rm", "stable")
}

// testHostRoutes: a network on a range that a node reaches otherwise is refused,
// by the manager for itself, by a worker for its tasks.
func testHostRoutes(t *testing.T, c *cluster) {
	for node, route := range map[string]string{"node1": "10.86.0.0/16", "node2": "10.85.0.0/16"} {
		if r := c.on(node, "ip", "route", "add", route, "dev", "eth0"); r.code != 0 {
			t.Fatalf("add a route: %v", r)
		}
	}
	c.refused(c.docker("node1", "network", "create", "-d", "overlay", "--subnet", "10.86.7.0/24", "refused"),
		"10.86.7.0/24 overlaps a route of this host: 10.86.0.0/16 dev eth0")
	c.mustDocker("node1", "network", "create", "-d", "overlay", "--subnet", "10.85.7.0/24", "routed")
	c.serve("--name", "routed", "--network", "routed", "--constraint", "node.hostname==node2", "--restart-delay", "300ms")
	c.eventually("the task is rejected and names the route", func() error {
		ps := c.mustDocker("node1", "service", "ps", "--no-trunc", "--format", "{{.CurrentState}} {{.Error}}", "routed")
		if !strings.Contains(ps, "network routed (10.85.7.0/24) overlaps a route of this node: 10.85.0.0/16 dev eth0") {
			return fmt.Errorf("service ps:\n%s", ps)
		}
		return nil
	})
	if r := c.on("node2", "ip", "route", "del", "10.85.0.0/16"); r.code != 0 {
		t.Fatalf("delete the route: %v", r)
	}
	c.running("node1", "routed", 1)
	c.mustDocker("node1", "service", "rm", "routed")
}
