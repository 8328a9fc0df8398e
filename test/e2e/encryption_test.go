package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshd/meshd/test/lab"
	"github.com/meshd/meshd/test/probe"
)

// Containers on an encrypted network call each other over both nodes, while the keys change and a daemon dies. That nothing of it is to be
// read on the wire the tests of overlay see.
func testEncryption(t *testing.T, c *cluster) {
	c.mustDocker("node1", "network", "create", "--driver", "overlay", "--opt", "encrypted", "secret")
	c.mustDocker("node1", "service", "create", "--name", "vault", "--network", "secret", "--mode", "global", "-d", image)
	c.running("node1", "vault", 2)
	for _, node := range []string{"node1", "node2"} {
		c.eventually(node+" encrypts", func() error {
			ages := c.metrics(node, "meshd_wireguard_handshake_age_seconds")
			for _, age := range ages {
				if age < 180 && c.metric(node, `meshd_peers{transport="wireguard"}`) == 1 {
					return nil
				}
			}
			return fmt.Errorf("handshakes: %v", ages)
		})
	}
	from, to := c.taskOf("vault", "node1"), c.taskOf("vault", "node2")
	trace := c.meshctl("node1", "net", "trace", from.Name+"."+from.ID, to.Name+"."+to.ID)
	if trace.code != 0 || !strings.Contains(trace.out, "encryption") {
		t.Errorf("net trace: %v", trace)
	}
	k := c.call()
	for _, addr := range []string{c.addrOn(to, "secret"), c.in(from, "sample", "lookup", "vault").out} {
		k.start(probe.Spec{Node: "node1", PID: c.pid(from), Target: "http://" + addr + ":8080/"})
	}
	k.hear(time.Second)
	began := time.Now()
	if r := c.meshctl("node1", "swarm", "rotate-keys"); r.code != 0 {
		t.Fatalf("rotate-keys: %v", r)
	}
	c.signal("node2", lab.Meshd, syscall.SIGKILL)
	c.must("meshctl", "lab", "start", "--name", c.name, "node2")
	c.eventually("the change of keys has ended, and another may begin", func() error {
		if r := c.meshctl("node1", "swarm", "rotate-keys"); r.code != 0 {
			if !strings.Contains(r.err, "the last change of the nodes' keys has not ended on") {
				t.Errorf("a second one is refused for another reason: %v", r)
			}
			return fmt.Errorf("rotate-keys: %v", r)
		}
		return nil
	})
	k.hear(2 * time.Second)
	k.none(began)
}
