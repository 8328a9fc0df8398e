package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/meshd/meshd/test/lab"
)

// Labs of their own: in one the nodes have both versions and know each other by
// IPv4, in the other they have IPv6 only.
const (
	dualLab = "e2edual"
	sixLab  = "e2esix"
)

func TestIPv6(t *testing.T) {
	requireMachine(t)
	for _, l := range []struct {
		name string
		args []string
	}{
		{dualLab, nil},
		{sixLab, []string{"--ipv6-underlay"}},
	} {
		t.Run(l.name, func(t *testing.T) {
			c := up(t, l.name, append([]string{"--nodes", "2", "--managers", "1"}, l.args...)...)
			c.must("meshctl", "lab", "load", "--name", l.name, "../../build/sample.tar")
			c.startBothVersions()
			for _, step := range []struct {
				name string
				run  func(*testing.T, *cluster)
			}{
				{"inspect", testInspectBothVersions},
				{"names and VIPs", testNamesOfBothVersions},
				{"published ports", testPublishedBothVersions},
				{"isolation", testIsolationByIPv6},
				{"way out", testWayOutByIPv6},
				{"addresses of nodes", testAddressesOfNodes},
				{"large transfers", testLargeTransfers},
			} {
				if !t.Run(step.name, func(t *testing.T) { step.run(t, c.sub(t)) }) {
					return
				}
			}
		})
	}
}

// startBothVersions runs api on a network of both versions, inner on one of IPv6
// only, and web on both, each on every node.
func (c *cluster) startBothVersions() {
	c.t.Helper()
	for _, machine := range []string{lab.Client, "node1", "node2"} {
		if got := c.addressesOf(machine); len(got) != map[string]int{dualLab: 2, sixLab: 1}[c.name] {
			c.t.Fatalf("%s has %v", machine, got)
		}
	}
	c.mustDocker("node1", "network", "create", "--driver", "overlay", "--ipv6", "dual")
	c.mustDocker("node1", "network", "create", "--driver", "overlay", "--ipv6", "--opt", "com.docker.network.enable_ipv4=false", "--subnet", "fd00:e2e:6::/64", "six")
	for name, args := range map[string][]string{
		"api":   {"--network", "dual"},
		"inner": {"--network", "six"},
		"web":   {"--network", "dual", "--network", "six", "--publish", "8080:8080", "--publish", "9000:9000/udp"},
	} {
		c.mustDocker("node1", append(append([]string{"service", "create", "-d", "-q", "--no-resolve-image", "--mode", "global", "--name", name}, args...), image)...)
	}
	for _, name := range []string{"api", "inner", "web"} {
		c.running("node1", name, 2)
	}
}

func testInspectBothVersions(t *testing.T, c *cluster) {
	for name, want := range map[string][]bool{"dual": {true, true}, "six": {false, true}, "ingress": {true, true}} {
		for _, node := range []string{"node1", "node2"} { // a manager and a worker
			var n []struct {
				EnableIPv4, EnableIPv6 bool
				IPAM                   struct {
					Config []struct{ Subnet netip.Prefix }
				}
				Containers map[string]struct{ IPv4Address, IPv6Address string }
			}
			if err := json.Unmarshal([]byte(c.mustDocker(node, "network", "inspect", name)), &n); err != nil || len(n) != 1 {
				t.Fatalf("network inspect %s: %v", name, err)
			}
			got := []bool{false, false}
			for _, s := range n[0].IPAM.Config {
				got[s.Subnet.Addr().BitLen()/128] = true
			}
			if !slices.Equal(got, want) || n[0].EnableIPv4 != want[0] || n[0].EnableIPv6 != want[1] || len(n[0].Containers) == 0 {
				t.Errorf("%s on %s: %+v", name, node, n[0])
			}
			for _, container := range n[0].Containers {
				if (container.IPv4Address != "") != want[0] || container.IPv6Address == "" {
					t.Errorf("a container on %s of %s: %+v", name, node, container)
				}
			}
		}
	}
	var vips []struct{ Addr netip.Prefix }
	if err := json.Unmarshal([]byte(c.mustDocker("node1", "service", "inspect", "--format", "{{json .Endpoint.VirtualIPs}}", "web")), &vips); err != nil {
		t.Fatal(err)
	}
	count := [2]int{}
	for _, v := range vips {
		count[v.Addr.Addr().BitLen()/128]++
	}
	if count != [2]int{2, 3} { // of the mesh network and of dual; of six, too
		t.Errorf("VIPs of web: %v", vips)
	}
}

func testNamesOfBothVersions(t *testing.T, c *cluster) {
	web, api := c.tasks("node1", "web")[0], c.tasks("node1", "api")[0]
	for _, name := range []string{"web", "api"} {
		for kind, v6 := range map[string]bool{"A": false, "AAAA": true} {
			vip := c.gives(api, 1, "-type", kind, name)[0]
			tasks := c.gives(api, 2, "-type", kind, "tasks."+name)
			for _, a := range append(tasks, vip) {
				if netip.MustParseAddr(a).Is6() != v6 {
					t.Errorf("%s of %s: %v and %v", kind, name, vip, tasks)
				}
			}
			if got := c.gives(api, 1, "-reverse", vip); got[0] != name+".dual." {
				t.Errorf("%s is called %v", vip, got)
			}
			c.reachesAll(api, "http://"+net.JoinHostPort(vip, "8080")+"/", 2)
		}
	}
	if got := c.gives(web, 1, "-type", "A", "inner"); got[0] != "NOERROR" {
		t.Errorf("inner, without IPv4, has %v", got)
	}
	for _, tk := range c.tasks("node1", "web") {
		c.reachesAll(tk, "http://inner:8080/", 2)
	}
	for _, from := range c.tasks("node1", "inner") {
		c.reachesAll(from, "http://web:8080/", 2)
		for _, addr := range c.gives(from, 2, "tasks.web") {
			c.eventually("UDP to "+addr, func() error {
				if r := c.in(from, "sample", "udp", net.JoinHostPort(addr, "9000")); r.code != 0 {
					return fmt.Errorf("from %s: %v", from.Name, r)
				}
				return nil
			})
		}
	}
}

// reachesAll calls a URL from a task until n different tasks have answered.
func (c *cluster) reachesAll(from task, url string, n int) {
	c.t.Helper()
	hosts := map[string]bool{}
	c.eventually(fmt.Sprintf("%s of %s reaches %d behind %s", from.Name, from.Node, n, url), func() error {
		r := c.in(from, "sample", "get", "-n", "4", "-field", "hostname", url)
		if r.code != 0 {
			return fmt.Errorf("call: %v", r)
		}
		for _, host := range strings.Fields(r.out) {
			hosts[host] = true
		}
		if len(hosts) < n {
			return fmt.Errorf("only %v", hosts)
		}
		return nil
	})
}

// addressesOf are a machine's addresses to the world, IPv6 last.
func (c *cluster) addressesOf(machine string) []string {
	c.t.Helper()
	var links []struct {
		Addrs []struct {
			Local netip.Addr `json:"local"`
			Scope string     `json:"scope"`
		} `json:"addr_info"`
	}
	out := c.must("ip", "-n", c.name+"-"+machine, "-j", "addr", "show", "dev", "eth0")
	if err := json.Unmarshal([]byte(out), &links); err != nil {
		c.t.Fatalf("%v in %s", err, out)
	}
	var addrs []string
	for _, l := range links {
		for _, a := range l.Addrs {
			if a.Scope == "global" {
				addrs = append(addrs, a.Local.String())
			}
		}
	}
	if len(addrs) == 0 {
		c.t.Fatalf("%s has none: %s", machine, out)
	}
	return addrs
}

func testPublishedBothVersions(_ *testing.T, c *cluster) {
	client := c.addressesOf(lab.Client)
	for _, node := range []string{"node1", "node2"} {
		for i, addr := range c.addressesOf(node) {
			c.eventually("ports of web at "+addr, func() error { return c.publishedAt(node, addr, client[i]) })
		}
	}
}

// publishedAt says what is wrong with web's ports at an address of a node, for a
// client outside, for the node itself and for a container of another service.
func (c *cluster) publishedAt(node, addr, client string) error {
	url, udp := "http://"+net.JoinHostPort(addr, "8080")+"/", net.JoinHostPort(addr, "9000")
	r := c.outside("sample", "get", "-n", "6", "-field", "client", url)
	if r.code != 0 || !slices.Equal(strings.Fields(r.out), slices.Repeat([]string{client}, 6)) {
		return fmt.Errorf("tasks see the client as %v, want %s", r, client)
	}
	from := " " + net.JoinHostPort(client, "") // and a port
	if r := c.outside("sample", "udp", udp); r.code != 0 || !strings.Contains(r.out, from) {
		return fmt.Errorf("a task sees the UDP client as %v, want %s", r, from)
	}
	// Longer than what the tunnel takes: the first may be lost for learning that.
	if long := strings.Repeat("x", 4000); node == "node1" {
		if r := c.outside("sample", "udp", udp, long); r.code != 0 || !strings.Contains(r.out, long) {
			return fmt.Errorf("a long datagram: exit %d, %d bytes, %s", r.code, len(r.out), r.err)
		}
	}
	inner := c.tasks("node1", "inner")[0]
	for _, own := range []string{addr, "127.0.0.1", "::1"} {
		for _, r := range []result{
			c.on(node, "sample", "get", "-n", "4", "http://"+net.JoinHostPort(own, "8080")+"/"),
			c.on(node, "sample", "udp", net.JoinHostPort(own, "9000")),
		} {
			if r.code != 0 {
				return fmt.Errorf("called by the node itself at %s: %v", own, r)
			}
		}
	}
	for _, r := range []result{c.in(inner, "sample", "get", "-n", "4", url), c.in(inner, "sample", "udp", udp)} {
		if r.code != 0 {
			return fmt.Errorf("called by a container: %v", r)
		}
	}
	return nil
}

// testIsolationByIPv6: api is on dual only, inner on six only, and all are on the
// mesh network.
func testIsolationByIPv6(t *testing.T, c *cluster) {
	web, api := c.tasks("node1", "web")[0], c.tasks("node1", "api")[0]
	forbidden := c.gives(web, 2, "-type", "AAAA", "tasks.inner")
	for _, tk := range c.tasks("node1", "inner") {
		mesh := c.mustDocker(tk.Node, "inspect", "--format", "{{.NetworkSettings.Networks.ingress.GlobalIPv6Address}}", tk.Name+"."+tk.ID)
		if !netip.MustParseAddr(mesh).Is6() {
			t.Fatalf("%s has no IPv6 address on the mesh network", tk.Name)
		}
		forbidden = append(forbidden, mesh)
	}
	own := c.addressesOf("node1")
	for _, addr := range forbidden {
		url := "http://" + net.JoinHostPort(addr, "8080") + "/"
		if r := c.in(api, "sample", "get", "-timeout", "500ms", url); r.code == 0 {
			t.Errorf("api reaches %s on a network that it is not on: %v", addr, r)
		}
		// Nor does who is on the nodes' link, and sends it to a node.
		if r := c.outside("ip", "-6", "route", "replace", addr, "via", own[len(own)-1]); r.code != 0 {
			t.Fatalf("route: %v", r)
		}
		if r := c.outside("sample", "get", "-timeout", "500ms", url); r.code == 0 {
			t.Errorf("a machine outside reaches %s: %v", addr, r)
		}
	}
}

// testWayOutByIPv6: the hub has no server, and refuses; that it does comes back
// only to an address that it knows.
func testWayOutByIPv6(_ *testing.T, c *cluster) {
	far := c.must("ip", "-n", c.name+"-hub", "-6", "-br", "addr", "show", "dev", "br0", "scope", "global")
	hub := strings.Split(strings.Fields(far)[2], "/")[0]
	for _, tk := range c.tasks("node1", "inner") {
		c.eventually(hub+" refuses "+tk.Name, func() error {
			if r := c.in(tk, "sample", "get", "http://"+net.JoinHostPort(hub, "9")+"/"); !strings.Contains(r.err, "refused") {
				return fmt.Errorf("call: %v", r)
			}
			return nil
		})
	}
}

func testAddressesOfNodes(t *testing.T, c *cluster) {
	self := c.addressesOf("node1")[0]
	control := net.JoinHostPort(self, "2377")
	if got := c.mustDocker("node1", "node", "inspect", "self", "--format", "{{.Status.Addr}} {{.ManagerStatus.Addr}}"); got != self+" "+control {
		t.Errorf("node1 says that it is at %s, want %s", got, self)
	}
	if got := c.mustDocker("node1", "swarm", "join-token", "worker"); !strings.HasSuffix(got, " "+control) {
		t.Errorf("join-token names another address than %s: %s", control, got)
	}
	for _, node := range []string{"node1", "node2"} {
		c.eventually("nothing differs on "+node, func() error {
			if r := c.meshctl(node, "net", "check"); r.code != 0 {
				return fmt.Errorf("net check: %v", r)
			}
			return nil
		})
	}
}
