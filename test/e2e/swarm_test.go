package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const image = "meshd/sample:latest"

// requireMachine fails where the tests cannot mean anything: they need root and
// the Docker Engine, which `make test` installs.
func requireMachine(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: end-to-end tests need root")
	}
	if testing.Short() {
		t.Skip("SKIPPED: end-to-end tests are not short")
	}
	for _, b := range []string{"meshd", "meshctl", "sample"} {
		if !isFile(filepath.Join(binDir(t), b)) {
			t.Fatalf("bin/%s is not built: run make build", b)
		}
	}
}

func TestCluster(t *testing.T) {
	requireMachine(t)
	c := up(t, labName, "--nodes", "4", "--managers", "3")
	c.must("meshctl", "lab", "load", "--name", labName, "../../build/sample.tar")
	for _, step := range []struct {
		name string
		run  func(*testing.T, *cluster)
	}{
		{"nodes", testNodes},
		{"bad input", testBadInput},
		{"service", testService},
		{"names", testNames},
		{"virtual IP", testVIP},
		{"routing mesh", testRoutingMesh},
		{"host port", testHostPort},
		{"isolation", testIsolation},
		{"update and rollback of scale", testUpdate},
		{"events", testEvents},
		{"killed container", testKilledContainer},
		{"daemon restart", testDaemonRestart},
		{"killed worker", testKilledWorker},
		{"killed leader", testKilledLeader},
		{"power cut of all", testPowerCut},
		{"promotion", testPromotion},
		{"autolock", testAutolock},
		{"root rotation", testRootRotation},
		{"removal", testRemoval},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.run(t, c.sub(t)) }) {
			return // later steps build on earlier ones
		}
	}
}

func testNodes(t *testing.T, c *cluster) {
	for _, n := range c.nodes() {
		if n.Address == "" || n.Socket != c.socket(n.Name) || n.State == "" {
			t.Errorf("lab ls: incomplete row %+v", n)
		}
	}
	for _, node := range []string{"node1", "node2", "node3"} {
		rows := c.mustDocker(node, "node", "ls", "--format", "{{.Hostname}} {{.Status}} {{.Availability}} {{.ManagerStatus}}")
		if n := strings.Count(rows, "Ready Active"); n != 4 {
			t.Errorf("%s lists %d ready nodes, want 4:\n%s", node, n, rows)
		}
		if strings.Count(rows, "Leader") != 1 || strings.Count(rows, "Reachable") != 2 {
			t.Errorf("%s lists other than one leader and two reachable managers:\n%s", node, rows)
		}
	}
	if r := c.meshctl("node1", "node", "inspect", "self", "--format", "{{.Spec.Role}}"); r.out != "manager" {
		t.Errorf("node inspect self: %v", r)
	}
	info := c.mustDocker("node4", "info", "--format", "{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}")
	if info != "active false" {
		t.Errorf("info on the worker = %q", info)
	}
	if r := c.docker("node1", "version", "--format", "{{.Server.APIVersion}}"); r.code != 0 || r.out == "" {
		t.Errorf("version: %v", r)
	}
	c.refused(c.docker("node4", "node", "ls"), "This node is not a swarm manager")
}

func testBadInput(t *testing.T, c *cluster) {
	c.mustDocker("node1", "network", "create", "--driver", "overlay", "--subnet", "10.77.0.0/24", "taken")
	c.mustDocker("node1", "service", "create", "-d", "--name", "dup", "--publish", "7777:8080", image)
	for _, tc := range []struct {
		name, want string
		args       []string
	}{
		{"unknown service", "no such service", []string{"service", "inspect", "nope"}},
		{"unknown service update", "not found", []string{"service", "update", "--replicas", "2", "nope"}},
		{"bad port", "invalid", []string{"service", "create", "--publish", "99999:80", image}},
		{"duplicate name", "name conflicts with an existing object", []string{"service", "create", "-d", "--no-resolve-image", "--name", "dup", image}},
		{"port in use", "already in use by service 'dup'", []string{"service", "create", "-d", "--no-resolve-image", "--publish", "7777:8080", image}},
		{"overlapping subnet", "overlaps", []string{"network", "create", "--driver", "overlay", "--subnet", "10.77.0.128/25", "other"}},
		{"duplicate network", "already exists", []string{"network", "create", "--driver", "overlay", "taken"}},
		{"unknown network", "not found", []string{"service", "create", "-d", "--network", "nope", image}},
		{"second init", "already part of a swarm", []string{"swarm", "init"}},
		{"second join", "already part of a swarm", []string{"swarm", "join", "--token", "x", c.address("node2") + ":2377"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := c.sub(t)
			s.refused(s.docker("node1", tc.args...), tc.want)
			s.refused(s.meshctl("node2", tc.args...), tc.want)
		})
	}
	if got := c.mustDocker("node1", "service", "ls", "-q"); strings.Count(got, "\n") != 0 || got == "" {
		t.Errorf("after refused requests there are services %q, want dup only", got)
	}
	c.mustDocker("node1", "service", "rm", "dup")
	c.mustDocker("node1", "network", "rm", "taken")
}

// imageMissing: a task whose image nobody has says so while its registry cannot be asked.
func (c *cluster) imageMissing() {
	c.t.Helper()
	c.mustDocker("node1", "service", "create", "-d", "--name", "ghost", "--no-resolve-image", "meshd/absent:1")
	c.eventually("the missing image is named", func() error {
		out := c.mustDocker("node1", "service", "ps", "--no-trunc", "--format", "{{.CurrentState}} {{.Error}}", "ghost")
		if !strings.Contains(out, "No such image: meshd/absent:1: ") {
			return fmt.Errorf("service ps says %q", out)
		}
		return nil
	})
	c.mustDocker("node1", "service", "rm", "ghost")
}

func testService(t *testing.T, c *cluster) {
	c.imageMissing()
	c.mustDocker("node1", "network", "create", "--driver", "overlay", "front")
	c.mustDocker("node2", "network", "create", "--driver", "overlay", "--attachable", "--subnet", "10.90.0.0/24", "back")
	c.must("meshctl", "-H", "unix://"+c.socket("node1"), "service", "create", "--name", "api", "--network", "front",
		"--network", "back", "--replicas", "2", "--env", "GREETING=hello", "--detach=false", "-q", image)
	c.mustDocker("node3", "service", "create", "--name", "web", "--network", "front", "--replicas", "4",
		"--publish", "8080:8080", "--publish", "9000:9000/udp", "--detach=false", "-q", image)
	c.running("node1", "api", 2)
	c.running("node2", "web", 4)
	spread := map[string]int{}
	for _, tk := range c.tasks("node1", "web") {
		spread[tk.Node]++
	}
	if len(spread) != 4 {
		t.Errorf("4 tasks are spread over %v, want one on each of 4 nodes", spread)
	}
	c.mustDocker("node1", "service", "create", "--name", "pinned", "--replicas", "2", "--constraint", "node.hostname==node4",
		"--mount", "type=tmpfs,target=/scratch", "--network", "back", "--detach=false", "-q", image)
	for _, tk := range c.tasks("node1", "pinned") {
		if tk.Node != "node4" {
			t.Errorf("a task constrained to node4 runs on %s", tk.Node)
		}
	}
	if out := c.mustDocker("node1", "network", "ls", "--filter", "driver=overlay", "--format", "{{.Name}} {{.Scope}}"); out == "" ||
		!strings.Contains(out, "front swarm") || strings.Count(out, "front") != 1 {
		t.Errorf("network ls: %q", out)
	}
	if out := c.mustDocker("node4", "ps", "--format", "{{.Names}}"); !strings.Contains(out, "web.") {
		t.Errorf("ps on node4 does not show its task: %q", out)
	}
}

func testUpdate(t *testing.T, c *cluster) {
	c.mustDocker("node1", "service", "scale", "-d", "web=6")
	c.running("node2", "web", 6)
	c.mustDocker("node1", "service", "update", "-d", "--replicas", "3", "web")
	c.running("node3", "web", 3)
	c.mustDocker("node1", "service", "update", "--detach=false", "-q", "--image", "meshd/sample:2", "api")
	for _, tk := range c.tasks("node1", "api") {
		out := c.mustDocker(tk.Node, "inspect", "--format", "{{.Config.Image}}", tk.Name+"."+tk.ID)
		if out != "meshd/sample:2" {
			t.Errorf("%s runs %s after the update", tk.Name, out)
		}
	}
	c.running("node1", "api", 2)
}

func testRemoval(t *testing.T, c *cluster) {
	for _, s := range []string{"web", "api", "pinned"} {
		c.mustDocker("node1", "service", "rm", s)
	}
	c.eventually("no container of a removed service is left", func() error {
		for _, n := range c.nodes() {
			if out := c.docker(n.Name, "ps", "-aq", "--filter", "label=com.docker.swarm.task.id").out; out != "" {
				return fmt.Errorf("%s still has %s", n.Name, out)
			}
		}
		return nil
	})
	c.mustDocker("node1", "network", "rm", "front")
	c.refused(c.docker("node1", "network", "inspect", "front"), "not found")
	removedByForce(t, c)
	c.mustDocker("node4", "swarm", "leave")
	c.eventually("the node that left is down", func() error {
		out := c.mustDocker("node1", "node", "ls", "--format", "{{.Hostname}} {{.Status}}")
		if !strings.Contains(out, "node4 Down") {
			return fmt.Errorf("node ls:\n%s", out)
		}
		return nil
	})
	c.mustDocker("node1", "node", "rm", "node4")
	if out := c.mustDocker("node1", "node", "ls", "--format", "{{.Hostname}}"); strings.Contains(out, "node4") {
		t.Errorf("node ls after node rm:\n%s", out)
	}
}

// testPromotion: a worker becomes a manager and a worker again, its tasks running on.
func testPromotion(t *testing.T, c *cluster) {
	for service, n := range map[string]int{"web": 6, "api": 2, "pinned": 2} {
		c.running("node1", service, n)
	}
	before := c.docker("node4", "ps", "-q").out
	c.mustDocker("node1", "node", "promote", "node4")
	c.eventually("the promoted node answers as a manager", func() error { return readyNodes(c, "node4", 4) })
	c.eventually("the promoted node is reachable", func() error {
		r := c.docker("node1", "node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}")
		if !strings.Contains(r.out, "node4 Reachable") {
			return fmt.Errorf("node ls: %v", r)
		}
		return nil
	})
	c.mustDocker("node4", "service", "update", "-d", "--label-add", "by=node4", "api")
	c.mustDocker("node1", "node", "demote", "node4")
	c.eventually("the demoted node refuses as a worker does", func() error {
		if r := c.docker("node4", "node", "ls"); !strings.Contains(r.err, "Worker nodes can't be used") {
			return fmt.Errorf("node ls: %v", r)
		}
		return nil
	})
	c.eventually("the demoted node is ready", func() error { return readyNodes(c, "node1", 4) })
	if after := c.docker("node4", "ps", "-q").out; after != before {
		t.Errorf("containers changed from %q to %q by the change of role", before, after)
	}
}

// removedByForce: a node that is removed while it runs stops its tasks, is not let
// in again, and joins anew after leaving.
func removedByForce(t *testing.T, c *cluster) {
	c.mustDocker("node1", "service", "create", "-d", "-q", "--no-resolve-image", "--name", "everywhere", "--mode", "global", image)
	c.running("node1", "everywhere", 4)
	c.refused(c.docker("node1", "node", "rm", "node4"), "is not down")
	c.mustDocker("node1", "node", "rm", "--force", "node4")
	c.running("node1", "everywhere", 3)
	c.eventually("the removed node has stopped its task and says why", func() error {
		containers := c.docker("node4", "ps", "-q", "--filter", "label=com.docker.swarm.task.id").out
		info := c.docker("node4", "info", "--format", "{{.Swarm.LocalNodeState}} {{.Swarm.Error}}").out
		if containers != "" || !strings.Contains(info, "error") || !strings.Contains(info, "removed from the swarm") {
			return fmt.Errorf("containers %q, info %q", containers, info)
		}
		return nil
	})
	c.mustDocker("node1", "service", "rm", "everywhere")
	c.mustDocker("node4", "swarm", "leave", "--force")
	token := c.mustDocker("node1", "swarm", "join-token", "-q", "worker")
	c.mustDocker("node4", "swarm", "join", "--token", token, c.address("node1")+":2377")
	c.eventually("the removed node is back", func() error { return readyNodes(c, "node1", 4) })
}
