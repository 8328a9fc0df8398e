package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// testShutDown: a machine that is shut down in order loses no call, and nobody takes it for dead.
func testShutDown(t *testing.T, c *cluster, node string) {
	others := slices.DeleteFunc([]string{"node1", "node2", "node3", "node4"}, func(n string) bool { return n == node })
	asked := others[0]
	// A node on which it did not just start needs no luck to have some.
	c.eventually("the node has a task of the service", func() error { return c.hasTask(asked, node) })
	k := c.call(others...).vip(asked)
	k.hear(time.Second)
	from := time.Now()
	c.must("meshctl", "lab", "stop", "--name", c.name, node)
	stopped := time.Since(from)
	c.eventually("its tasks run elsewhere", func() error {
		if n := len(c.tasks(asked, "web")); n != 6 {
			return fmt.Errorf("%d tasks run", n)
		}
		return readyNodes(c, asked, 3)
	})
	t.Logf("%s was shut down in %.1fs; its tasks ran elsewhere after %.1fs", node, stopped.Seconds(), time.Since(from).Seconds())
	k.hear(2 * time.Second)
	k.none(from)
	history := c.mustDocker(asked, "node", "ps", "--no-trunc", "--format", "{{.Name}} {{.CurrentState}} {{.Error}}", node)
	if !strings.Contains(history, "Shutdown") || strings.Contains(history, "Running") {
		t.Errorf("the history of %s does not say that its tasks were shut down:\n%s", node, history)
	}
	for _, n := range others {
		lines, err := c.lab().Said(n, from)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range lines {
			if strings.Contains(line, "does not answer any more") || strings.Contains(line, "may still send connections") {
				t.Errorf("%s takes an orderly shutdown for something else: %s", n, line)
			}
		}
	}
	c.must("meshctl", "lab", "start", "--name", c.name, node)
	c.eventually("all is as desired again", func() error { return c.settled(asked, "web", 6) })
	k = c.call(others...).vip(asked)
	k.hear(time.Second)
	from = time.Now()
	c.mustDocker(asked, "service", "update", "-d", "--label-add", "mesh.rebalance=auto", "web")
	c.eventually("a task moves to the empty node", func() error {
		if err := c.hasTask(asked, node); err != nil {
			return err
		}
		return c.settled(asked, "web", 6)
	})
	k.hear(2 * time.Second)
	k.none(from)
	c.mustDocker(asked, "service", "update", "-d", "--label-rm", "mesh.rebalance", "web")
}

func (c *cluster) hasTask(asked, node string) error {
	tasks := c.tasks(asked, "web")
	if !slices.ContainsFunc(tasks, func(tk task) bool { return tk.Node == node }) {
		return fmt.Errorf("%s has none of %v", node, tasks)
	}
	return nil
}
