package e2e

import (
	"strings"
	"testing"
)

// Commands run in tasks of the manager's own node and of others, with their
// output and exit status; nothing but commands in tasks can be had that way.
func testServiceExec(t *testing.T, c *cluster) {
	for _, tk := range c.tasks("node1", "web") {
		r := c.meshctl("node1", "service", "exec", tk.ID, "sample", "get", "http://127.0.0.1:8080/?text")
		host := c.mustDocker(tk.Node, "inspect", "--format", "{{.Config.Hostname}}", tk.Name+"."+tk.ID)
		if r.code != 0 || !strings.HasPrefix(r.out, "hostname "+host+"\n") {
			t.Errorf("exec on %s: %v; want hostname %s", tk.Node, r, host)
		}
		if r := c.meshctl("node1", "service", "exec", tk.ID, "sample", "get", "http://127.0.0.1:1/"); r.code != 1 || r.err == "" {
			t.Errorf("a command that fails on %s: %v", tk.Node, r)
		}
	}
	if r := c.meshctl("node1", "service", "exec", "db.1", "sample", "lookup", "tasks.db"); r.code != 0 || r.out == "" {
		t.Errorf("exec by slot: %v", r)
	}
	c.refused(c.meshctl("node1", "service", "exec", "db.7", "true"), "no task db.7 runs")
	c.refused(c.meshctl("node2", "service", "exec", "db", "true"), "not a swarm manager")

	before := c.tasks("node1", "db")
	r := c.meshctl("node1", "service", "restart", "--quiet", "db")
	if after := c.tasks("node1", "db"); r.code != 0 || len(after) != 1 || after[0].ID == before[0].ID {
		t.Errorf("restart: %v; tasks %v, then %v", r, before, after)
	}

	node2 := c.mustDocker("node1", "node", "inspect", "--format", "{{.ID}}", "node2")
	for path, want := range map[string]string{
		"/v1.41/containers/json":   "page not found",
		"/v1.41/containers/x/json": "No such container",
		"/v1.41/images/x/json":     "managers may only run commands in tasks",
		"/v1.41/exec/x/json":       "No such exec instance",
	} {
		r := c.run(t, "a manager's way to node2", "curl", "-s", "--unix-socket", c.socket("node1"), "http://meshd/mesh/nodes/"+node2+path)
		if !strings.Contains(r.out, want) {
			t.Errorf("%s: %v, want %q", path, r, want)
		}
	}
}
