package e2e

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/meshd/meshd/test/lab"
)

func testNames(t *testing.T, c *cluster) {
	from := c.tasks("node1", "web")[0]
	vip := ""
	c.eventually("the service's name gives one address", func() error {
		r := c.in(from, "sample", "lookup", "api")
		if r.code != 0 || len(strings.Fields(r.out)) != 1 {
			return fmt.Errorf("lookup api: %v", r)
		}
		vip = r.out
		return nil
	})
	r := c.in(from, "sample", "lookup", "tasks.api")
	if addrs := strings.Fields(r.out); len(addrs) != 2 || strings.Contains(r.out, vip) {
		t.Errorf("tasks.api = %v, want two addresses other than the VIP %s", r, vip)
	}
	if r := c.in(from, "sample", "lookup", from.Name+"."+from.ID); r.code != 0 || r.out == "" {
		t.Errorf("the container's own name: %v", r)
	}
	if r := c.in(from, "sample", "lookup", "-reverse", vip); !strings.HasPrefix(r.out, "api.") {
		t.Errorf("reverse of the VIP: %v", r)
	}
	if r := c.in(from, "sample", "lookup", "-type", "AAAA", "api"); !strings.Contains(r.out, "NOERROR") || strings.Contains(r.out, "NXDOMAIN") {
		t.Errorf("AAAA of a name with an IPv4 address only: %v, want NOERROR without data", r)
	}
	if r := c.in(from, "sample", "lookup", "-tcp", "api"); r.out != vip {
		t.Errorf("lookup over TCP: %v, want %s", r, vip)
	}
	if r := c.in(from, "sample", "lookup", "pinned"); r.code == 0 {
		t.Errorf("a name of a network that the container is not on is answered: %v", r)
	}
}

func testVIP(t *testing.T, c *cluster) {
	want := len(c.tasks("node1", "api"))
	for _, from := range c.tasks("node1", "web") {
		hosts := map[string]int{}
		for range 20 {
			r := c.in(from, "sample", "get", "-field", "hostname", "http://api:8080/")
			if r.code != 0 {
				t.Fatalf("%s calls api: %v", from.Name, r)
			}
			hosts[r.out]++
		}
		if len(hosts) != want {
			t.Errorf("20 calls from %s reached %v, want %d tasks", from.Node, hosts, want)
		}
	}
}

func testRoutingMesh(t *testing.T, c *cluster) {
	self := c.addressesOf(lab.Client)[0]
	for _, n := range c.nodes() {
		url := "http://" + n.Address + ":8080/"
		r := c.outside("sample", "get", "-field", "client", url)
		if r.code != 0 || r.out != self {
			t.Errorf("a task behind %s sees the client as %v, want %s", n.Name, r, self)
		}
		if r := c.outside("sample", "udp", n.Address+":9000"); r.code != 0 || !strings.Contains(r.out, self) {
			t.Errorf("a task behind %s sees the UDP client as %v, want %s", n.Name, r, self)
		}
		for _, own := range []string{n.Address, "127.0.0.1"} {
			if r := c.on(n.Name, "sample", "get", "-field", "hostname", "http://"+own+":8080/"); r.code != 0 {
				t.Errorf("%s itself calls %s:8080: %v", n.Name, own, r)
			}
		}
	}
	hosts := map[string]bool{}
	for range 40 {
		hosts[c.outside("sample", "get", "-field", "hostname", "http://"+c.address("node1")+":8080/").out] = true
	}
	if want := len(c.tasks("node1", "web")); len(hosts) != want {
		t.Errorf("40 calls through node1 reached %d tasks, want %d", len(hosts), want)
	}
}

// testHostPort: a port in mode host answers on the nodes that have a task only.
func testHostPort(t *testing.T, c *cluster) {
	c.mustDocker("node1", "service", "create", "-d", "-q", "--no-resolve-image", "--name", "local", "--constraint", "node.hostname==node4",
		"--publish", "mode=host,published=8181,target=8080", image)
	c.running("node1", "local", 1)
	c.eventually("the task's node answers", func() error {
		if r := c.outside("sample", "get", "-timeout", "1s", "http://"+c.address("node4")+":8181/"); r.code != 0 {
			return fmt.Errorf("call: %v", r)
		}
		return nil
	})
	if r := c.outside("sample", "get", "-timeout", "1s", "http://"+c.address("node1")+":8181/"); r.code == 0 {
		t.Errorf("a node without the task answers: %v", r)
	}
	if ps := c.mustDocker("node1", "service", "ps", "--format", "{{.Ports}}", "local"); !strings.Contains(ps, "8181->8080") {
		t.Errorf("service ps shows ports %q", ps)
	}
	c.mustDocker("node1", "service", "rm", "local")
}

// testIsolation: pinned is on back only, web on front only, api on both.
func testIsolation(t *testing.T, c *cluster) {
	pinned, api, web := c.tasks("node1", "pinned")[0], c.tasks("node1", "api")[0], c.tasks("node1", "web")[0]
	if r := c.in(api, "sample", "get", "-field", "hostname", "http://pinned:8080/"); r.code != 0 {
		t.Errorf("api, on both networks, cannot call pinned: %v", r)
	}
	if r := c.in(pinned, "sample", "get", "-field", "hostname", "http://api:8080/"); r.code != 0 {
		t.Errorf("pinned cannot call api on their common network: %v", r)
	}
	// Neither by virtual IP nor by task's address, nor by the addresses of the mesh network, which
	// all are on, whether or not the task publishes a port there.
	foreign := append(c.gives(api, 1, "pinned"), c.gives(api, len(c.tasks("node1", "pinned")), "tasks.pinned")...)
	c.reachesNone(web, append(foreign, c.meshAddrs(pinned)...))
	c.reachesNone(pinned, append(c.gives(web, 1, "web"), c.meshAddrs(web)...))
}

// reachesNone tries TCP and UDP to the sample's ports at each address.
func (c *cluster) reachesNone(from task, addrs []string) {
	c.t.Helper()
	for _, addr := range addrs {
		if r := c.in(from, "sample", "get", "-timeout", "1s", "http://"+net.JoinHostPort(addr, "8080")+"/"); r.code == 0 {
			c.t.Errorf("%s reaches %s on a network that it is not on: %v", from.Name, addr, r)
		}
		if r := c.in(from, "sample", "udp", "-timeout", "1s", net.JoinHostPort(addr, "9000")); r.code == 0 {
			c.t.Errorf("%s reaches %s by UDP on a network that it is not on: %v", from.Name, addr, r)
		}
	}
}

// meshAddrs are a task's addresses on the mesh network.
func (c *cluster) meshAddrs(tk task) []string {
	c.t.Helper()
	out := c.mustDocker(tk.Node, "inspect", "--format",
		`{{range $name, $n := .NetworkSettings.Networks}}{{if eq $name "ingress"}}{{$n.IPAddress}}{{end}}{{end}}`, tk.Name+"."+tk.ID)
	if out == "" {
		c.t.Errorf("%s has no address on the mesh network", tk.Name)
	}
	return strings.Fields(out)
}
