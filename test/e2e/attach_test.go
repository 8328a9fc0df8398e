package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/meshd/meshd/test/lab"
)

// hostname asks a server from a container; "" if it does not answer.
func (c *cluster) hostname(node, container, url string) (string, error) {
	c.t.Helper()
	r := c.docker(node, "exec", container, "sample", "get", "-timeout", "2s", "-field", "hostname", url)
	if r.code != 0 {
		return "", fmt.Errorf("%s from %s: %v", url, container, r)
	}
	return r.out, nil
}

// finds waits until a container reaches another one, by any of its names.
func (c *cluster) finds(node, container, id string, names ...string) {
	c.t.Helper()
	for _, name := range names {
		c.eventually(container+" finds "+name, func() error {
			got, err := c.hostname(node, container, "http://"+name+":8080/")
			if err == nil && !strings.HasPrefix(id, got) {
				err = fmt.Errorf("%s is %s, want %.12s", name, got, id)
			}
			return err
		})
	}
}

// reaches waits until a container has an answer under a service's name.
func (c *cluster) reaches(node, container, name string) {
	c.t.Helper()
	c.eventually(container+" reaches "+name, func() error {
		_, err := c.hostname(node, container, "http://"+name+":8080/")
		return err
	})
}

// lost waits until a container does not find a name any more.
func (c *cluster) lost(node, container, name string) {
	c.t.Helper()
	c.eventually(container+" does not find "+name, func() error {
		if got, err := c.hostname(node, container, "http://"+name+":8080/"); err == nil {
			return fmt.Errorf("%s is %s", name, got)
		}
		return nil
	})
}

const attachment = `{{(index .NetworkSettings.Networks "open").IPAddress}}`

// attachedByIPv6: a network without IPv4 takes containers, too.
func (c *cluster) attachedByIPv6() {
	c.t.Helper()
	c.mustDocker("node1", "network", "create", "--driver", "overlay", "--attachable", "--ipv6", "--opt", "com.docker.network.enable_ipv4=false", "--subnet", "fd00:e2e:77::/64", "open6")
	near := c.mustDocker("node1", "run", "-d", "--name", "near", "--network", "open6", image)
	far := c.mustDocker("node2", "run", "-d", "--name", "far", "--network", "open6", "--ip6", "fd00:e2e:77::50", image)
	c.finds("node1", "near", far, "far", "[fd00:e2e:77::50]")
	c.finds("node2", "far", near, "near")
	if got := c.mustDocker("node2", "inspect", "-f", `{{with index .NetworkSettings.Networks "open6"}}{{.IPAddress}} {{.GlobalIPv6Address}}{{end}}`, "far"); strings.TrimSpace(got) != "fd00:e2e:77::50" {
		c.t.Errorf("far has the addresses %q", got)
	}
	c.mustDocker("node1", "rm", "-f", "near")
	c.mustDocker("node2", "rm", "-f", "far")
	c.eventually("the network of IPv6 is free", func() error {
		if r := c.docker("node1", "network", "rm", "open6"); r.code != 0 {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
}

// testAttached: containers that are no tasks, on a manager and on a worker.
func testAttached(t *testing.T, c *cluster) {
	c.mustDocker("node1", "network", "create", "--driver", "overlay", "--attachable", "--subnet", "10.77.0.0/24", "open")
	c.refused(c.docker("node2", "run", "-d", "--network", "front", image), "network front not manually attachable")
	c.refused(c.docker("node2", "run", "-d", "--network", "nowhere", image), "network nowhere not found")
	c.refused(c.docker("node2", "run", "-d", "--network", "open", "--ip", "10.1.2.3", image), "does not belong to any of this network's subnets")
	c.mustDocker("node1", "service", "create", "--name", "inner", "--network", "open", "--detach=false", "-q", image)
	one := c.mustDocker("node1", "run", "-d", "--name", "one", "--network", "open", "--network-alias", "uno", "--restart", "always", image)
	two := c.mustDocker("node2", "run", "-d", "--name", "two", "--network", "open", "--ip", "10.77.0.50", "-p", "8099:8080", image)
	c.refused(c.docker("node1", "run", "-d", "--network", "open", "--ip", "10.77.0.50", image), "10.77.0.50 of network open is in use by")
	c.finds("node2", "two", one, "one", "uno", one[:12])
	c.finds("node1", "one", two, "two", "10.77.0.50")
	for node, container := range map[string]string{"node1": "one", "node2": "two"} {
		c.reaches(node, container, "inner")
	}
	c.eventually("a published port answers", func() error {
		if r := c.outside("sample", "get", "-timeout", "2s", "-field", "hostname", "http://"+c.address("node2")+":8099/"); !strings.HasPrefix(two, r.out) || r.code != 0 {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
	c.refused(c.docker("node1", "network", "rm", "open"), "is in use by")
	if got := c.mustDocker("node1", "network", "inspect", "--verbose", "open"); !strings.Contains(got, `"Name": "two"`) || !strings.Contains(got, `"inner": {`) {
		t.Errorf("network inspect --verbose shows not all: %s", got)
	}
	if got := c.mustDocker("node1", "node", "ps", "node1", "node2", "--format", "{{.Name}}"); strings.Contains(got, "one") {
		t.Errorf("containers count as tasks: %s", got)
	}

	address := c.mustDocker("node1", "inspect", "-f", attachment, "one")
	c.mustDocker("node1", "stop", "-t", "1", "one")
	c.lost("node2", "two", "uno")
	c.mustDocker("node1", "start", "one")
	c.mustDocker("node1", "rename", "one", "first")
	c.finds("node2", "two", one, "first", "uno")
	if got := c.mustDocker("node1", "inspect", "-f", attachment, "first"); got != address {
		t.Errorf("started again it has %s, not %s", got, address)
	}

	// One that was made elsewhere is connected, and taken off again.
	third := c.mustDocker("node2", "run", "-d", "--name", "third", "--network", "none", image)
	c.refused(c.docker("node2", "network", "connect", "open", "third"), "private (none) mode")
	c.mustDocker("node2", "rm", "-f", "third")
	third = c.mustDocker("node2", "run", "-d", "--name", "third", "--network", "open", image)
	c.mustDocker("node2", "network", "disconnect", "open", "third")
	c.lost("node1", "first", "third")
	if got := c.mustDocker("node2", "inspect", "-f", "{{len .NetworkSettings.Networks}}", "third"); got != "0" {
		t.Errorf("taken off, it is on %s networks", got)
	}
	c.mustDocker("node2", "network", "connect", "--alias", "tre", "--ip", "10.77.0.60", "open", "third")
	c.finds("node1", "first", third, "third", "tre", "10.77.0.60")
	c.finds("node2", "third", one, "uno")

	// Beside a network of the engine's own, as compose makes one: names of both.
	c.mustDocker("node2", "network", "create", "own")
	neighbour := c.mustDocker("node2", "run", "-d", "--name", "neighbour", "--network", "own", image)
	both := c.mustDocker("node2", "create", "--name", "both", "--network", "own", image)
	c.mustDocker("node2", "network", "connect", "open", "both")
	c.mustDocker("node2", "start", "both")
	c.finds("node2", "both", one, "first", "uno")
	c.finds("node2", "both", third, "third")
	c.finds("node2", "both", neighbour, "neighbour")
	c.finds("node1", "first", both, "both")
	c.reaches("node2", "both", "inner")
	c.mustDocker("node2", "rm", "-f", "both", "neighbour")
	c.mustDocker("node2", "network", "rm", "own")

	// Neither daemon's end is the container's; a power cut is, but not its address'.
	c.signal("node2", lab.Meshd, syscall.SIGKILL)
	c.finds("node1", "first", two, "10.77.0.50")
	c.must("meshctl", "lab", "start", "--name", c.name, "node2")
	c.finds("node1", "first", two, "two")
	c.signal("node2", lab.Engine, syscall.SIGKILL)
	c.must("meshctl", "lab", "start", "--name", c.name, "node2")
	c.finds("node1", "first", two, "two")
	c.finds("node2", "two", one, "first")
	c.must("meshctl", "lab", "kill", "--name", c.name, "node2")
	c.lost("node1", "first", "two")
	c.must("meshctl", "lab", "start", "--name", c.name, "node2")
	c.eventually("the container starts again", func() error {
		if r := c.docker("node2", "start", "two"); r.code != 0 {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
	c.finds("node1", "first", two, "two", "10.77.0.50")

	c.attachedByIPv6()
	// A node that leaves takes its containers off the swarm's networks; they run on.
	c.mustDocker("node2", "start", "third")
	c.finds("node1", "first", third, "third")
	c.mustDocker("node2", "swarm", "leave")
	if got := c.mustDocker("node2", "inspect", "-f", "{{.State.Running}} {{len .NetworkSettings.Networks}}", "two", "third"); got != "true 0\ntrue 0" {
		t.Errorf("after their node has left they run and are on networks: %s", got)
	}
	c.lost("node1", "first", "third")
	c.refused(c.docker("node2", "network", "connect", "open", "third"), "network open not found")
	c.mustDocker("node2", "rm", "-f", "two", "third")
	c.mustDocker("node1", "rm", "-f", "first")
	c.mustDocker("node1", "service", "rm", "inner")
	c.eventually("the network is free", func() error {
		if r := c.docker("node1", "network", "rm", "open"); r.code != 0 {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
}
