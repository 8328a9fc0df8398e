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
		"--ip-range", "10.82.0.64/28", "--gateway", "10.82.0.65", "--aux-address", "printer=10.82.0.66", "--aux-address", "router=10.81.0.2", "given")
	got := c.mustDocker("node1", "network", "inspect", "--format", "{{json .IPAM.Config}}", "given")
	for _, want := range []string{
		`"Gateway":"10.82.0.65"`, `"IPRange":"10.82.0.64/28"`, `"AuxiliaryAddresses":{"printer":"10.82.0.66"}`,
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
