package e2e

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshd/meshd/test/lab"
)

func testKilledContainer(t *testing.T, c *cluster) {
	victim := c.tasks("node1", "web")[0]
	c.mustDocker(victim.Node, "kill", victim.Name+"."+victim.ID)
	c.eventually("a killed container is replaced", func() error {
		tasks := c.tasks("node1", "web")
		for _, tk := range tasks {
			if tk.ID == victim.ID {
				return errors.New("the dead task still counts as running")
			}
		}
		if len(tasks) != 3 {
			return fmt.Errorf("%d tasks run", len(tasks))
		}
		return nil
	})
	history := c.mustDocker("node1", "service", "ps", "--no-trunc", "--format", "{{.ID}} {{.CurrentState}} {{.Error}}", "web")
	if !strings.Contains(history, victim.ID+" Failed") || !strings.Contains(history, "non-zero exit (137)") {
		t.Errorf("the history does not say what happened to %s:\n%s", victim.ID, history)
	}
}

// testDaemonRestart: neither containers nor connections mind a kill -9 of meshd.
func testDaemonRestart(t *testing.T, c *cluster) {
	before := c.tasks("node1", "web")
	node := before[0].Node
	pid := c.on(node, "sh", "-c", "cat /proc/[0-9]*/comm | grep -c '^meshd$'")
	if pid.out != "1" {
		t.Fatalf("%s runs %s daemons", node, pid.out)
	}
	c.signal(node, lab.Meshd, syscall.SIGKILL)
	if r := c.outside("sample", "get", "-field", "hostname", "http://"+c.address(node)+":8080/"); r.code != 0 {
		t.Errorf("with meshd dead on %s its published port does not answer: %v", node, r)
	}
	c.must("meshctl", "lab", "start", "--name", c.name, node)
	c.eventually("the node is ready again", func() error {
		out := c.docker("node1", "node", "ls", "--format", "{{.Hostname}} {{.Status}}")
		if !strings.Contains(out.out, node+" Ready") {
			return fmt.Errorf("node ls: %v", out)
		}
		return nil
	})
	c.running("node1", "web", 3)
	after := map[string]bool{}
	for _, tk := range c.tasks("node1", "web") {
		after[tk.ID] = true
	}
	for _, tk := range before {
		if tk.Node == node && !after[tk.ID] {
			t.Errorf("task %s did not survive the restart of meshd", tk.Name)
		}
	}
}

func testKilledWorker(t *testing.T, c *cluster) {
	c.mustDocker("node1", "service", "scale", "-d", "web=6")
	c.running("node1", "web", 6)
	c.must("meshctl", "lab", "kill", "--name", c.name, "node4")
	c.within(30*time.Second, "a dead worker's tasks are replaced elsewhere", func() error {
		tasks := c.tasks("node1", "web")
		for _, tk := range tasks {
			if tk.Node == "node4" {
				return errors.New("a task on the dead node counts as running")
			}
		}
		if len(tasks) != 6 {
			return fmt.Errorf("%d tasks run", len(tasks))
		}
		return nil
	})
	for range 30 {
		if r := c.outside("sample", "get", "-timeout", "3s", "http://"+c.address("node1")+":8080/"); r.code != 0 {
			t.Fatalf("after the replacement a call fails: %v", r)
		}
	}
	c.must("meshctl", "lab", "start", "--name", c.name, "node4")
	c.eventually("the worker is back", func() error {
		if out := c.docker("node1", "node", "ls", "--format", "{{.Hostname}} {{.Status}}"); !strings.Contains(out.out, "node4 Ready") {
			return fmt.Errorf("node ls: %v", out)
		}
		return nil
	})
	c.running("node1", "pinned", 2)
	c.eventually("superseded tasks on the returned node are gone", func() error {
		running := map[string]bool{}
		for _, tk := range c.tasks("node1", "web") {
			running[tk.Name+"."+tk.ID] = true
		}
		for _, name := range strings.Fields(c.docker("node4", "ps", "--format", "{{.Names}}", "--filter", "name=web").out) {
			if !running[name] {
				return fmt.Errorf("%s still runs", name)
			}
		}
		return nil
	})
}

// leader is the node that leads, as another node sees it.
func (c *cluster) leader(asked string) string {
	c.t.Helper()
	r := c.docker(asked, "node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}")
	for _, line := range strings.Split(r.out, "\n") {
		if name, ok := strings.CutSuffix(line, " Leader"); ok {
			return name
		}
	}
	return ""
}

func testKilledLeader(t *testing.T, c *cluster) {
	old := c.leader("node1")
	var others []string
	for _, n := range []string{"node1", "node2", "node3"} {
		if n != old {
			others = append(others, n)
		}
	}
	c.mustDocker(old, "service", "create", "-d", "--name", "witness", "--replicas", "0", image)
	c.must("meshctl", "lab", "kill", "--name", c.name, old)
	for _, n := range others {
		c.within(30*time.Second, n+" answers under another leader", func() error {
			if r := c.docker(n, "service", "inspect", "--format", "{{.Spec.Name}}", "witness"); r.out != "witness" {
				return fmt.Errorf("an acknowledged write is not there: %v", r)
			}
			if l := c.leader(n); l == "" || l == old {
				return fmt.Errorf("leader is %q", l)
			}
			return nil
		})
	}
	c.mustDocker(others[0], "service", "update", "-d", "--label-add", "after=1", "witness")
	c.eventually("events tell of the new leader", func() error {
		if got := c.swarmEvents(others[1], "type=node", "event=update"); !strings.Contains(got, `"leader.new":"true"`) {
			return fmt.Errorf("got %s", got)
		}
		return nil
	})
	c.running(others[1], "web", 6)
	c.refused(c.docker(others[0], "swarm", "leave"), "Without a Raft quorum")
	c.must("meshctl", "lab", "start", "--name", c.name, old)
	c.eventually("the old leader follows", func() error {
		r := c.docker(old, "service", "inspect", "--format", "{{index .Spec.Labels \"after\"}}", "witness")
		if r.out != "1" {
			return fmt.Errorf("service inspect: %v", r)
		}
		want, got := c.swarmEvents(others[0], "service=witness"), c.swarmEvents(old, "service=witness")
		if got != want || strings.Count(got, "\n") < 1 {
			return fmt.Errorf("it tells %s of what has happened, others %s", got, want)
		}
		return nil
	})
	c.mustDocker(others[0], "service", "rm", "witness")
}

func testPowerCut(t *testing.T, c *cluster) {
	before := c.mustDocker("node1", "service", "ls", "--format", "{{.Name}} {{.Mode}} {{.Image}}")
	for _, n := range c.nodes() {
		c.must("meshctl", "lab", "kill", "--name", c.name, n.Name)
	}
	for _, n := range c.nodes() {
		c.must("meshctl", "lab", "start", "--name", c.name, n.Name)
	}
	for _, n := range []string{"node1", "node2", "node3"} {
		c.eventually(n+" has the cluster as it was", func() error {
			if r := c.docker(n, "service", "ls", "--format", "{{.Name}} {{.Mode}} {{.Image}}"); r.out != before {
				return fmt.Errorf("services: %v, want %q", r, before)
			}
			return nil
		})
	}
	c.running("node2", "web", 6)
	c.running("node2", "api", 2)
	c.eventually("the published port answers again on every node", func() error {
		for _, n := range c.nodes() {
			if r := c.outside("sample", "get", "-timeout", "2s", "http://"+n.Address+":8080/"); r.code != 0 {
				return fmt.Errorf("%s: %v", n.Name, r)
			}
		}
		return nil
	})
}
