package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// swarmEvents are those of the swarm that a manager has kept.
func (c *cluster) swarmEvents(node string, filters ...string) string {
	c.t.Helper()
	args := []string{"events", "--since", "1h", "--until", "0s", "--filter", "scope=swarm", "--format", "{{json .}}"}
	for _, f := range filters {
		args = append(args, "--filter", f)
	}
	return c.mustDocker(node, args...)
}

// testEvents: each manager tells the same of what has happened.
func testEvents(t *testing.T, c *cluster) {
	c.mustDocker("node3", "config", "create", "told", temporary(t, "x"))
	c.mustDocker("node2", "config", "rm", "told")
	filters := []string{"type=service", "type=network", "type=config"}
	c.eventually("all managers tell the same", func() error {
		first := c.swarmEvents("node1", filters...)
		if !strings.Contains(first, `"remove"`) || strings.Count(first, "told") < 2 {
			return fmt.Errorf("node1 does not tell of the config: %s", first)
		}
		for _, node := range []string{"node2", "node3"} {
			if other := c.swarmEvents(node, filters...); other != first {
				return fmt.Errorf("%s tells\n%s\nnode1\n%s", node, other, first)
			}
		}
		return nil
	})
	if got := c.swarmEvents("node2", "type=service", "service=web", "event=update"); !strings.Contains(got, `"replicas.new"`) || strings.Contains(got, `"create"`) {
		t.Errorf("updates of web: %s", got)
	}
}
