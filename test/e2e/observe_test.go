package e2e

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// A lab of its own: what is damaged here shows in no other test.
const observeLab = "e2eobserve"

func TestNetworkCanBeSeen(t *testing.T) {
	requireMachine(t)
	c := up(t, observeLab, "--nodes", "2", "--managers", "1")
	c.must("meshctl", "lab", "load", "--name", observeLab, "../../build/sample.tar")
	for _, network := range []string{"front", "back"} {
		c.mustDocker("node1", "network", "create", "--driver", "overlay", network)
	}
	c.mustDocker("node1", "service", "create", "--name", "web", "--network", "front", "--mode", "global", "--publish", "8080:8080", "-d", image)
	c.mustDocker("node1", "service", "create", "--name", "client", "--network", "front", "--mode", "global", "-d", image)
	c.mustDocker("node1", "service", "create", "--name", "worn", "--network", "front", "--replicas", "3", "--publish", "8090:8080",
		"--label", "mesh.lb.eject.for=1m/5m", "-d", image)
	c.mustDocker("node1", "service", "create", "--name", "db", "--network", "back", "-d", image)
	c.running("node1", "web", 2)
	c.running("node1", "client", 2)
	c.running("node1", "db", 1)
	c.running("node1", "worn", 3)
	for _, step := range []struct {
		name string
		run  func(*testing.T, *cluster)
	}{
		{"check", testNetCheck},
		{"trace", testNetTrace},
		{"encryption", testEncryption},
		{"flows", testNetFlows},
		{"logs", testLogs},
		{"exec", testServiceExec},
		{"repairs", testRepairsAreSeen},
		{"ejection", testEjection},
		{"doctor", testDoctor},
		{"removed node", testRemovedNode},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.run(t, c.sub(t)) }) {
			return
		}
	}
}

// Nothing differs on either node, manager or worker.
func testNetCheck(_ *testing.T, c *cluster) {
	for _, node := range []string{"node1", "node2"} {
		c.eventually(node+" is as it should be", func() error {
			if r := c.meshctl(node, "net", "check"); r.code != 0 || !strings.Contains(r.err, node+": ") {
				return fmt.Errorf("net check: %v", r)
			}
			return nil
		})
	}
	r := c.meshctl("node1", "net", "check", "unix://"+c.socket("node1"), "unix://"+c.socket("node2"))
	if r.code != 0 || !strings.Contains(r.err, "node1: ") || !strings.Contains(r.err, "node2: ") {
		c.t.Errorf("both nodes: %v", r)
	}
	if r := c.meshctl("node1", "net", "check"); r.code != 0 || !strings.Contains(r.err, "node1: ") || !strings.Contains(r.err, "node2: ") {
		c.t.Errorf("all nodes, asked by a manager: %v", r)
	}
	if r := c.meshctl("node2", "net", "check"); r.code != 0 || strings.Contains(r.err, "node1: ") || !strings.Contains(r.err, "itself only") {
		c.t.Errorf("a worker, asked for all: %v", r)
	}
	far := c.taskOf("client", "node2")
	if r := c.meshctl("node1", "net", "trace", far.ID, "web:8080"); r.code != 0 || !strings.Contains(r.out, "web") {
		c.t.Errorf("a trace from another node: %v", r)
	}
}

// A worker traces its own containers; the end of each way is the right one.
func testNetTrace(t *testing.T, c *cluster) {
	client := c.taskOf("client", "node2")
	from := client.Name + "." + client.ID
	for to, want := range map[string]string{
		"web:8080":       "is on node node1 at " + c.address("node1"),
		"tasks.web":      "is on this node, interface mv",
		"node1:8080":     "port 8080/tcp of node node1 of service web",
		"198.51.100.1:1": "this node's own routing",
	} {
		if r := c.meshctl("node2", "net", "trace", from, to); r.code != 0 || !strings.Contains(r.out, want) {
			t.Errorf("trace to %s does not say %q: %v", to, want, r)
		}
	}
	r := c.meshctl("node2", "net", "trace", from, "db")
	if r.code != 1 || !strings.Contains(r.out, "BROKEN") {
		t.Errorf("trace to another network: %v", r)
	}
	c.refused(c.meshctl("node1", "net", "trace", from, "web"), "is on node node2")
	// A node's label reaches the kernels of all.
	c.mustDocker("node1", "node", "update", "--label-add", "mesh.weight=9", "node1")
	c.eventually("tasks of node1 weigh more", func() error {
		if r := c.meshctl("node2", "net", "trace", from, "web"); r.code != 0 || strings.Count(r.out, "(weighs 9)") != 1 {
			return fmt.Errorf("trace: %v", r)
		}
		return nil
	})
}

// One of three tasks refuses connections while it runs: it gets no more of them, neither
// from containers nor from outside, and that is told.
func testEjection(t *testing.T, c *cluster) {
	victim := c.tasks("node1", "worn")[0]
	c.mustDocker(victim.Node, "kill", "--signal", "USR1", victim.Name+"."+victim.ID)
	from := c.taskOf("client", "node2")
	ejected := 0
	for what, get := range map[string]func() result{
		"a container": func() result { return c.in(from, "sample", "get", "-n", "40", "http://worn:8080/") },
		"outside": func() result {
			return c.outside("sample", "get", "-n", "40", "http://"+c.address("node2")+":8090/")
		},
	} {
		ejected++
		c.eventually("nothing from "+what+" goes to a task that refuses", func() error {
			if r := get(); r.code != 0 {
				return errors.New(r.err)
			}
			// Others may have got all forty by chance, or before that task had closed its port.
			if n := c.metrics("node2", "meshd_service_ejections_total{"); len(n) < ejected {
				return fmt.Errorf("it is not ejected: %v", n)
			}
			return nil
		})
	}
	r := c.meshctl("node2", "net", "check")
	if r.code != 0 || !strings.Contains(r.err, victim.Name+"."+victim.ID) || !strings.Contains(r.err, "gets no new connections for ") {
		t.Errorf("net check: %v", r)
	}
	if r := c.meshctl("node2", "net", "trace", from.Name+"."+from.ID, "worn"); r.code != 0 || !strings.Contains(r.out, "(ejected: ") {
		t.Errorf("net trace: %v", r)
	}
	if n := c.metrics("node2", "meshd_service_ejections_total{"); len(n) != 2 {
		t.Errorf("ejections counted: %v", n)
	}
	if r := c.run(t, "logs", "meshctl", "lab", "logs", "--name", observeLab, "node2"); !strings.Contains(r.out, "backend ejected") {
		t.Error("the log does not say who was ejected")
	}
}

// taskOf gives a service's task on a node.
func (c *cluster) taskOf(service, node string) task {
	c.t.Helper()
	for _, tk := range c.tasks("node1", service) {
		if tk.Node == node {
			return tk
		}
	}
	c.t.Fatalf("no task of %s on %s", service, node)
	return task{}
}

// A connection from outside is listed where it entered, with its real client.
func testNetFlows(t *testing.T, c *cluster) {
	if r := c.outside("curl", "-sf", "-m", "5", "http://"+c.address("node2")+":8080/"); r.code != 0 {
		t.Fatalf("curl: %v", r)
	}
	r := c.meshctl("node2", "net", "flows", "--all", "--service", "web", "--format", "{{.Service}} {{.To}} {{.Origin}} {{.Task}}")
	if r.code != 0 || !strings.Contains(r.out, "web "+c.address("node2")+":8080 outside web.") {
		t.Errorf("flows: %v", r)
	}
	if n := c.metric("node2", `meshd_service_connections_total{network="ingress",port="8080",protocol="tcp",service="web",vip=""}`); n < 1 {
		t.Errorf("%v connections counted", n)
	}
	testLedFlows(t, c)
}

// What a container's sockets were led to is listed and counted, too: a query for the
// name comes before the connection, so that it is led.
func testLedFlows(t *testing.T, c *cluster) {
	from := c.taskOf("client", "node2")
	c.eventually("connections to a virtual IP are seen", func() error {
		for _, args := range [][]string{{"get", "http://web:8080/"}, {"udp", "web:9000"}} {
			if r := c.in(from, append([]string{"sample"}, args...)...); r.code != 0 {
				return fmt.Errorf("%v: %v", args, r)
			}
		}
		r := c.meshctl("node2", "net", "flows", "--all", "--service", "web", "--format", "{{.Network}} {{.Protocol}} {{.Origin}} {{.To}}")
		for _, want := range []string{"front tcp container", "front udp container"} {
			if !strings.Contains(r.out, want) {
				return fmt.Errorf("no %s in %v", want, r)
			}
		}
		return nil
	})
	bytes := 0.0
	for name, n := range c.metrics("node2", `meshd_backend_bytes_total{`) {
		if strings.Contains(name, `network="front"`) && strings.Contains(name, `service="web"`) {
			bytes += n
		}
	}
	if bytes < 200 {
		t.Errorf("%v bytes counted", bytes)
	}
}

// What somebody deletes comes back, and shows as a repair.
func testRepairsAreSeen(t *testing.T, c *cluster) {
	const repairs = `meshd_repairs_total{kind="route",part="overlay"}`
	before := c.metric("node2", repairs)
	routes := c.on("node2", "ip", "route", "show", "proto", "109") // our routes' protocol, see overlay/link
	victim, _, _ := strings.Cut(routes.out, " ")
	if r := c.on("node2", "ip", "route", "del", victim); r.code != 0 {
		t.Fatalf("delete the route to %q: %v", victim, r)
	}
	c.eventually("the route is back and counted", func() error {
		if n := c.metric("node2", repairs); n != before+1 {
			return fmt.Errorf("%v repairs, %v before", n, before)
		}
		if r := c.on("node2", "ip", "route", "show", "proto", "109"); !strings.Contains(r.out, victim+" ") {
			return fmt.Errorf("no route to %s: %v", victim, r)
		}
		return nil
	})
	if r := c.run(t, "logs", "meshctl", "lab", "logs", "--name", observeLab, "node2"); !strings.Contains(r.out, "put back route to "+victim) {
		t.Error("the log does not say what was repaired")
	}
	testBalancerIsRepaired(t, c)
	c.eventually("nothing differs after the repairs", func() error {
		if r := c.meshctl("node2", "net", "check"); r.code != 0 {
			return fmt.Errorf("net check: %v", r)
		}
		return nil
	})
}

// A program that somebody took off comes back, too. Its pin is what holds it there.
func testBalancerIsRepaired(t *testing.T, c *cluster) {
	const repairs = `meshd_repairs_total{kind="program",part="balancer"}`
	pin := c.on("node2", "sh", "-c", "find /run -path '*/ipvs/v*/links/connect4' | head -1")
	if r := c.on("node2", "rm", strings.TrimSpace(pin.out)); r.code != 0 {
		t.Fatalf("take the program off: %v (%v)", r, pin)
	}
	c.eventually("the program is back and counted", func() error {
		if n := c.metric("node2", repairs); n < 1 {
			return fmt.Errorf("%v repairs", n)
		}
		if r := c.on("node2", "ls", strings.TrimSpace(pin.out)); r.code != 0 {
			return fmt.Errorf("no pin: %v", r)
		}
		return nil
	})
}

// metric reads a metric of a node; one that is not there is 0.
func (c *cluster) metric(node, name string) float64 { return c.metrics(node, name+" ")[name] }

// metrics reads a node's metrics that begin with prefix.
func (c *cluster) metrics(node, prefix string) map[string]float64 {
	c.t.Helper()
	r := c.run(c.t, "metrics", "curl", "-sf", "--unix-socket", c.socket(node), "http://meshd/metrics")
	if r.code != 0 {
		c.t.Fatalf("metrics of %s: %v", node, r)
	}
	out := map[string]float64{}
	for _, line := range strings.Split(r.out, "\n") {
		if !strings.HasPrefix(line, prefix) {
			continue
		}
		at := strings.LastIndexByte(line, ' ')
		n, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			c.t.Fatal(err)
		}
		out[line[:at]] = n
	}
	return out
}
