package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// TestLostQuorum: two of three managers are lost for good. What runs goes on,
// writes are refused with one clear error, and --force-new-cluster brings the
// swarm back with all its state.
func TestLostQuorum(t *testing.T) {
	requireMachine(t)
	c := up(t, "e2equorum", "--nodes", "4", "--managers", "3")
	c.must("meshctl", "lab", "load", "--name", c.name, "../../build/sample.tar")
	c.mustDocker("node1", "service", "create", "-d", "-q", "--no-resolve-image", "--name", "web", "--replicas", "2",
		"--constraint", "node.hostname==node4", "--publish", "8080:8080", image)
	c.running("node1", "web", 2)
	c.must("meshctl", "lab", "kill", "--name", c.name, "node2")
	c.must("meshctl", "lab", "kill", "--name", c.name, "node3")

	c.refused(c.docker("node1", "service", "update", "-d", "--replicas", "3", "web"), "does not have a leader")
	for _, n := range []string{"node1", "node4"} {
		if r := c.outside("sample", "get", "-field", "hostname", "http://"+c.address(n)+":8080/"); r.code != 0 {
			t.Errorf("without a quorum the published port of %s does not answer: %v", n, r)
		}
	}

	c.mustDocker("node1", "swarm", "init", "--force-new-cluster", "--advertise-addr", c.address("node1"))
	c.mustDocker("node1", "service", "update", "-d", "--replicas", "3", "web")
	c.running("node1", "web", 3)
	c.eventually("the lost managers are managers no more", func() error {
		out := c.mustDocker("node1", "node", "ls", "--format", "{{.Hostname}} {{.Status}} {{.ManagerStatus}}")
		if !strings.Contains(out, "node1 Ready Leader") || strings.Contains(out, "Reachable") || !strings.Contains(out, "node4 Ready") {
			return fmt.Errorf("node ls:\n%s", out)
		}
		return nil
	})
	// One that comes back has no say, and joins anew after leaving.
	c.must("meshctl", "lab", "start", "--name", c.name, "node2")
	c.mustDocker("node2", "swarm", "leave", "--force")
	token := c.mustDocker("node1", "swarm", "join-token", "-q", "manager")
	c.mustDocker("node2", "swarm", "join", "--token", token, c.address("node1")+":2377")
	c.eventually("the returned node is a manager again", func() error {
		r := c.docker("node2", "service", "ls", "--format", "{{.Name}} {{.Replicas}}")
		if r.out != "web 3/3" {
			return fmt.Errorf("service ls: %v", r)
		}
		return nil
	})
}
