package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/swarm"
)

// TestPorts is about who may reach what on which address of a node: published
// ports in all their forms, and services on the engine's own networks.
func TestPorts(t *testing.T) {
	requireMachine(t)
	c := up(t, "ports", "--nodes", "2", "--managers", "1", "--engine-bridge")
	c.must("meshctl", "lab", "load", "--name", "ports", "../../build/sample.tar")
	for _, step := range []struct {
		name string
		run  func(*testing.T, *cluster)
	}{
		{"chosen ports", testChosenPorts},
		{"port of a process", testPortOfAProcess},
		{"engine networks", testEngineNetworks},
		{"chosen addresses", testChosenAddresses},
		{"local tasks only", testLocalTasksOnly},
		{"plain containers", testPlainContainers},
		{"firewall", testFirewall},
	} {
		t.Run(step.name, func(t *testing.T) { step.run(t, c.sub(t)) })
	}
}

// service creates one and waits until its tasks run.
func (c *cluster) service(name string, replicas int, args ...string) {
	c.t.Helper()
	args = append([]string{"service", "create", "-d", "-q", "--no-resolve-image", "--restart-delay", "1s",
		"--replicas", fmt.Sprint(replicas), "--name", name}, args...)
	c.mustDocker("node1", append(args, image)...)
	c.running("node1", name, replicas)
	c.t.Cleanup(func() { c.docker("node1", "service", "rm", name) })
}

// answers waits until the client outside gets an answer from an address.
func (c *cluster) answers(addr string) {
	c.t.Helper()
	c.eventually(addr+" answers", func() error {
		if r := c.outside("sample", "get", "-timeout", "2s", "http://"+addr+"/"); r.code != 0 {
			return fmt.Errorf("call: %v", r)
		}
		return nil
	})
}

// refuses waits until the client outside is refused at an address.
func (c *cluster) refuses(addr string) {
	c.t.Helper()
	c.eventually(addr+" refuses", func() error {
		if r := c.outside("sample", "get", "-timeout", "2s", "http://"+addr+"/"); r.code == 0 || !strings.Contains(r.err, "refused") {
			return fmt.Errorf("call: %v", r)
		}
		return nil
	})
}

// ports are those of a task, as task inspection shows them.
func (c *cluster) ports(id string) []swarm.PortConfig {
	c.t.Helper()
	var tasks []swarm.Task
	if err := json.Unmarshal([]byte(c.mustDocker("node1", "inspect", "--type", "task", id)), &tasks); err != nil || len(tasks) != 1 {
		c.t.Fatalf("task %s: %v", id, err)
	}
	return tasks[0].Status.PortStatus.Ports
}

// Two tasks on one node leave the number of a port to us, one more port is the routing mesh's.
func testChosenPorts(t *testing.T, c *cluster) {
	c.service("open", 2, "--constraint", "node.hostname==node2", "--endpoint-mode", "dnsrr", "--publish", "mode=host,target=8080")
	c.service("mesh", 1, "--publish", "8080")
	seen := map[uint32]bool{}
	for _, tk := range c.tasks("node1", "open") {
		ports := c.ports(tk.ID)
		if len(ports) != 1 || ports[0].PublishedPort < 30000 || ports[0].PublishedPort > 32767 || seen[ports[0].PublishedPort] {
			t.Fatalf("%s has ports %+v, want one of 30000-32767 of its own", tk.Name, ports)
		}
		seen[ports[0].PublishedPort] = true
		c.answers(fmt.Sprintf("%s:%d", c.address("node2"), ports[0].PublishedPort))
		c.refuses(fmt.Sprintf("%s:%d", c.address("node1"), ports[0].PublishedPort))
		c.refused(c.docker("node1", "service", "create", "-d", "--no-resolve-image", "--publish", fmt.Sprintf("%d:80", ports[0].PublishedPort), image),
			"is already in use by task '"+tk.Name+"."+tk.ID+"' on its node")
		if ps := c.mustDocker("node1", "service", "ps", "--format", "{{.Ports}}", "open"); !strings.Contains(ps, fmt.Sprintf("%d->8080", ports[0].PublishedPort)) {
			t.Errorf("service ps shows ports %q", ps)
		}
	}
	port := c.mustDocker("node1", "service", "inspect", "--format", "{{(index .Endpoint.Ports 0).PublishedPort}}", "mesh")
	c.answers(c.address("node1") + ":" + port)
	c.answers(c.address("node2") + ":" + port)
	c.refused(c.docker("node1", "service", "create", "-d", "--no-resolve-image", "--publish", port+":80", image), "is already in use by service 'mesh'")
	c.refused(c.docker("node1", "service", "create", "-d", "--no-resolve-image", "--publish", "2377:80", image), "by the swarm itself")
	c.refused(c.docker("node1", "service", "create", "-d", "--no-resolve-image", "--publish", "9999:80/sctp", image), "SCTP cannot be published")
}

// A process of node2 has port 8300: a task in mode host does not take it, and the
// routing mesh's taking it is told.
func testPortOfAProcess(t *testing.T, c *cluster) {
	c.mustDocker("node2", "run", "-d", "--name", "process", "--network", "host", "-e", "PORT=8300", "-e", "UDP_PORT=8301", image)
	t.Cleanup(func() { c.docker("node2", "rm", "-f", "process") })
	c.answers(c.address("node2") + ":8300")
	c.mustDocker("node1", "service", "create", "-d", "-q", "--no-resolve-image", "--name", "second", "--constraint", "node.hostname==node2",
		"--publish", "mode=host,published=8300,target=8080", image)
	t.Cleanup(func() { c.docker("node1", "service", "rm", "second") })
	c.eventually("the task says who has its port", func() error {
		out := c.mustDocker("node1", "service", "ps", "--no-trunc", "--format", "{{.CurrentState}} {{.Error}}", "second")
		if !strings.Contains(out, "Rejected") || !strings.Contains(out, "port 8300/tcp is in use on this node by sample (process") {
			return fmt.Errorf("service ps says %q", out)
		}
		return nil
	})
	c.mustDocker("node1", "service", "rm", "second")
	c.service("third", 1, "--constraint", "node.hostname==node1", "--publish", "8300:8080")
	c.eventually("the check names the process", func() error {
		r := c.meshctl("node2", "net", "check")
		if r.code != 1 || !strings.Contains(r.out, "port 8300/tcp") || !strings.Contains(r.out, "sample (process") {
			return fmt.Errorf("net check: %v", r)
		}
		return nil
	})
}

// Services on host, bridge and none, with ports in mode host where there can be any.
func testEngineNetworks(t *testing.T, c *cluster) {
	on2 := []string{"--constraint", "node.hostname==node2"}
	c.service("onhost", 1, append(on2, "--network", "host", "--env", "PORT=8400", "--env", "UDP_PORT=8401", "--publish", "mode=host,target=8400")...)
	c.service("onbridge", 1, append(on2, "--network", "bridge", "--publish", "mode=host,published=8402,target=8080", "--publish", "mode=host,target=8080")...)
	c.service("onnone", 1, append(on2, "--network", "none")...)
	c.answers(c.address("node2") + ":8400")
	c.answers(c.address("node2") + ":8402")
	ports := c.ports(c.tasks("node1", "onbridge")[0].ID)
	if len(ports) != 2 || ports[1].PublishedPort < 30000 {
		t.Fatalf("ports of the task on bridge: %+v", ports)
	}
	c.answers(fmt.Sprintf("%s:%d", c.address("node2"), ports[1].PublishedPort))
	for _, network := range []string{"host", "bridge", "none"} {
		tk := c.tasks("node1", "on"+network)[0]
		if mode := c.mustDocker("node2", "inspect", "--format", "{{.HostConfig.NetworkMode}}", tk.Name+"."+tk.ID); mode != network {
			t.Errorf("on%s is on network %s", network, mode)
		}
	}
	c.mustDocker("node1", "service", "create", "-d", "-q", "--no-resolve-image", "--name", "onhost2", "--constraint", "node.hostname==node2",
		"--network", "host", "--publish", "mode=host,target=8400", image)
	t.Cleanup(func() { c.docker("node1", "service", "rm", "onhost2") })
	c.eventually("the second on the host's port waits, and says for whom", func() error {
		out := c.mustDocker("node1", "service", "ps", "--no-trunc", "--format", "{{.CurrentState}} {{.Error}}", "onhost2")
		if !strings.Contains(out, "Pending") || !strings.Contains(out, "8400/tcp by service onhost") {
			return fmt.Errorf("service ps says %q", out)
		}
		return nil
	})
	c.refused(c.docker("node1", "service", "create", "-d", "--no-resolve-image", "--network", "host", "--publish", "80:80", image), "use mode host")
}

// A port on loopback alone answers the node's own processes, one on the machine's
// device also others.
func testChosenAddresses(t *testing.T, c *cluster) {
	c.service("bound", 1, "--publish", "8500:8080", "--publish", "8501:8080", "--label", "mesh.publish.8500=127.0.0.1", "--label", "mesh.publish.8501=eth0")
	for _, n := range c.nodes() {
		c.answers(n.Address + ":8501")
		c.refuses(n.Address + ":8500")
		for _, own := range []string{"127.0.0.1", "[::1]"} {
			if r := c.on(n.Name, "sample", "get", "-timeout", "5s", "http://"+own+":8500/"); r.code != 0 {
				t.Errorf("%s itself calls %s:8500: %v", n.Name, own, r)
			}
			if r := c.on(n.Name, "sample", "get", "-timeout", "5s", "http://"+own+":8501/"); r.code == 0 {
				t.Errorf("%s itself reaches %s:8501, which is on eth0 alone", n.Name, own)
			}
		}
	}
	c.refused(c.docker("node1", "service", "update", "-d", "--label-add", "mesh.publish.8502=lo", "bound"), "does not publish port 8502")
	c.mustDocker("node1", "service", "update", "-d", "-q", "--label-add", "mesh.publish.8500=198.18.0.0/15", "bound")
	c.answers(c.address("node1") + ":8500")
}

func testLocalTasksOnly(t *testing.T, c *cluster) {
	c.service("near", 1, "--constraint", "node.hostname==node2", "--publish", "8600:8080", "--label", "mesh.ingress=local")
	c.answers(c.address("node2") + ":8600")
	c.refuses(c.address("node1") + ":8600")
	c.mustDocker("node1", "service", "update", "-d", "-q", "--label-add", "mesh.ingress=prefer", "near")
	c.answers(c.address("node1") + ":8600")
}

// A container run by hand, on docker0 or on a network of the engine's, reaches
// published ports by its own node's addresses, with its own, and by other nodes'.
func testPlainContainers(t *testing.T, c *cluster) {
	c.service("far", 1, "--constraint", "node.hostname==node1", "--publish", "8700:8080")
	c.mustDocker("node2", "network", "create", "-d", "bridge", "--subnet", "172.30.0.0/24", "mine")
	t.Cleanup(func() { c.docker("node2", "network", "rm", "mine") })
	for network, prefix := range map[string]string{"bridge": "172.17.0.", "mine": "172.30.0."} {
		name := "plain-" + network
		c.mustDocker("node2", "run", "-d", "--name", name, "--network", network, image, "sleep")
		t.Cleanup(func() { c.docker("node2", "rm", "-f", name) })
		for to, seen := range map[string]string{c.address("node2"): prefix, prefix + "1": prefix, c.address("node1"): c.address("node2")} {
			c.eventually(fmt.Sprintf("a container on %s reaches %s", network, to), func() error {
				r := c.docker("node2", "exec", name, "sample", "get", "-timeout", "2s", "-field", "client", "http://"+to+":8700/")
				if r.code != 0 || !strings.HasPrefix(r.out, seen) {
					return fmt.Errorf("%v, want %s seen", r, seen)
				}
				return nil
			})
		}
	}
}

// What iptables' INPUT denies stays denied, also by its policy, and with our rules gone for a moment.
func testFirewall(t *testing.T, c *cluster) {
	c.service("walled", 2, "--publish", "8800:8080", "--publish", "9800:9000/udp")
	one, two := c.address("node1"), c.address("node2")
	rule := func(args ...string) {
		t.Helper()
		if r := c.on("node1", append([]string{"iptables"}, args...)...); r.code != 0 {
			t.Fatalf("iptables %v: %v", args, r)
		}
	}
	c.answers(one + ":8800")
	rule("-I", "INPUT", "-p", "tcp", "--dport", "8800", "-j", "REJECT", "--reject-with", "tcp-reset")
	c.refuses(one + ":8800")
	c.answers(two + ":8800")
	if r := c.outside("sample", "udp", one+":9800"); r.code != 0 {
		t.Errorf("UDP, which no rule denies: %v", r)
	}
	if r := c.on("node1", "sample", "get", "-timeout", "5s", "http://127.0.0.1:8800/"); r.code != 0 {
		t.Errorf("the node itself: %v", r)
	}
	rule("-D", "INPUT", "1")
	c.answers(one + ":8800")
	c.on("node1", "nft", "delete", "table", "ip", "meshd_input")
	c.answers(one + ":8800")
}
