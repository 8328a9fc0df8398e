package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"

	"github.com/meshd/meshd/test/lab"
)

// grants gives node2, and no other node, something that tasks have to ask for.
func grants(t *testing.T) {
	t.Helper()
	wrap(t, lab.Meshd)("node2", "--allow-privileged")
	wrap(t, lab.Engine)("node2", "--node-generic-resource gpu=1 --node-generic-resource fpga=f1 --node-generic-resource fpga=f2")
}

// waits is the ID of the one task of a service, once the scheduler has said this of it.
func (c *cluster) waits(service, says string) (id string) {
	c.t.Helper()
	c.eventually("the task of "+service+" waits, and says why", func() error {
		r := c.docker("node1", "service", "ps", "--no-trunc", "--format", "{{.ID}} {{.CurrentState}} {{.Error}}", service)
		if !strings.Contains(r.out, " Pending ") || !strings.Contains(r.out, says) {
			return fmt.Errorf("want %q, got %v", says, r)
		}
		id, _, _ = strings.Cut(r.out, " ")
		return nil
	})
	return id
}

// explains checks what is said of why a node does not take a task.
func (c *cluster) explains(task, node, want string) {
	c.t.Helper()
	r := c.meshctl("node1", "task", "explain", task)
	for line := range strings.Lines(r.out) {
		if strings.HasPrefix(line, node+" ") && strings.Contains(line, want) {
			return
		}
	}
	c.t.Errorf("task explain: want %q of %s, got %v", want, node, r)
}

// one is the only task of a service, which has to run on node2.
func (c *cluster) one(service string) task {
	c.t.Helper()
	c.running("node1", service, 1)
	tk := c.tasks("node1", service)[0]
	if tk.Node != "node2" {
		c.t.Errorf("%s runs on %s, want node2", service, tk.Node)
	}
	return tk
}

// testPrivileges: tasks that ask for devices or all privileges run only where meshd allows it.
func testPrivileges(t *testing.T, c *cluster) {
	c.refused(c.docker("node1", "service", "create", "-d", "--label", "mesh.privileged=true", image), "use --container-label")
	c.refused(c.docker("node1", "service", "create", "-d", "--container-label", "mesh.privileged=perhaps", image), "neither true nor false")
	c.refused(c.docker("node1", "service", "create", "-d", "--container-label", "mesh.devices=null", image), "is not HOST-PATH")

	const privileged, device = "mesh.privileged=true", "mesh.devices=/dev/null:/dev/spare:rw"
	for _, label := range []string{privileged, device} {
		c.create("mighty", "--container-label", label, "--constraint", "node.hostname==node1", image, "sleep")
		id := c.waits("mighty", "no suitable node (scheduling constraints not satisfied on 1 node; privileges and devices not allowed on 1 node)")
		c.explains(id, "node1", "its meshd runs without --allow-privileged")
		c.mustDocker("node1", "service", "rm", "mighty")
	}

	c.create("meek", "--constraint", "node.hostname==node2", image, "sleep")
	c.create("device", "--container-label", device, image, "sleep")
	meek, withDevice := c.one("meek"), c.one("device")
	if r := c.in(withDevice, "sample", "show", "/dev/spare"); r.code != 0 || !strings.HasPrefix(r.out, "0666 0:0") {
		t.Errorf("the device: %v", r)
	}
	if r := c.in(meek, "sample", "show", "/dev/spare"); r.code == 0 {
		t.Errorf("who asks for no device has it: %v", r)
	}
	c.create("mighty", "--container-label", privileged, image, "sleep")
	testMighty(t, c, c.capabilities(meek))
	for _, service := range []string{"meek", "device", "mighty"} {
		c.mustDocker("node1", "service", "rm", service)
	}
}

// testMighty: the privileged task runs with all that its engine may do, which is more than few. An engine that may not do everything
// itself, on a machine that is a container, cannot start it, and says so.
func testMighty(t *testing.T, c *cluster, few string) {
	engine := c.on("node2", "sh", "-c", "sed -n 's/^CapBnd:\\t//p' /proc/$(cat /run/docker.pid)/status; cat /proc/sys/kernel/cap_last_cap")
	var may, last uint64
	if _, err := fmt.Sscanf(engine.out, "%x\n%d", &may, &last); err != nil {
		t.Fatalf("the engine's capabilities: %v: %v", err, engine)
	}
	if may == 1<<(last+1)-1 {
		if all := c.capabilities(c.one("mighty")); all != fmt.Sprintf("%016x", may) || all == few {
			t.Errorf("capabilities: %s, privileged %s; the engine has %x", few, all, may)
		}
		return
	}
	c.eventually("node2 tries, and cannot", func() error {
		r := c.docker("node1", "service", "ps", "--no-trunc", "--format", "{{.Name}}.{{.ID}} {{.Node}} {{.CurrentState}} {{.Error}}", "mighty")
		for line := range strings.Lines(r.out) {
			name, says, _ := strings.Cut(line, " ")
			if !strings.HasPrefix(says, "node2 Failed ") {
				continue
			}
			if r := c.docker("node2", "inspect", "--format", "{{.HostConfig.Privileged}}", name); !strings.Contains(says, "caps") || r.out != "true" {
				return fmt.Errorf("%s: %v", line, r)
			}
			return nil
		}
		return fmt.Errorf("%v", r)
	})
}

// capabilities are those of a task, in hex.
func (c *cluster) capabilities(tk task) string {
	c.t.Helper()
	r := c.in(tk, "sample", "show", "/proc/1/status")
	for line := range strings.Lines(r.out) {
		if set, ok := strings.CutPrefix(line, "CapEff:"); ok {
			return strings.TrimSpace(set)
		}
	}
	c.t.Fatalf("the capabilities of %s: %v", tk.Name, r)
	return ""
}

// testGenericResources: what a node has is given to one task at a time, which is told; others wait.
func testGenericResources(t *testing.T, c *cluster) {
	given := func(tk task) string {
		t.Helper()
		var out []string
		for _, kv := range strings.Split(c.mustDocker(tk.Node, "inspect", "--format", `{{join .Config.Env "\n"}}`, tk.Name+"."+tk.ID), "\n") {
			if strings.HasPrefix(kv, "DOCKER_RESOURCE_") {
				out = append(out, kv)
			}
		}
		return strings.Join(out, " ")
	}
	c.create("first", "--generic-resource", "gpu=1", "--generic-resource", "fpga=2", image, "sleep")
	if got := given(c.one("first")); got != "DOCKER_RESOURCE_FPGA=f1,f2 DOCKER_RESOURCE_GPU=1" {
		t.Errorf("the task is given %q", got)
	}
	c.create("second", "--generic-resource", "gpu=1", image, "sleep")
	id := c.waits("second", "no suitable node (insufficient resources on 2 nodes)")
	for _, node := range []string{"node1", "node2"} {
		c.explains(id, node, "generic resource gpu 1 is asked for, 0 left")
	}
	c.mustDocker("node1", "service", "rm", "first")
	if got := given(c.one("second")); got != "DOCKER_RESOURCE_GPU=1" {
		t.Errorf("the task is given %q", got)
	}
	c.mustDocker("node1", "service", "rm", "second")
}

// testDefaultLogDriver: new tasks of services that name no log driver have the swarm's.
func testDefaultLogDriver(t *testing.T, c *cluster) {
	g := newGopher(t, c)
	logs := func(service string) string {
		t.Helper()
		c.running("node1", service, 1)
		tk := c.tasks("node1", service)[0]
		return c.mustDocker(tk.Node, "inspect", "--format", "{{.HostConfig.LogConfig}}", tk.Name+"."+tk.ID)
	}
	change := func(d *swarm.Driver) {
		t.Helper()
		was, err := g.SwarmInspect(g.ctx, client.SwarmInspectOptions{})
		g.did(err)
		spec := was.Swarm.Spec
		spec.TaskDefaults.LogDriver = d
		_, err = g.SwarmUpdate(g.ctx, client.SwarmUpdateOptions{Version: was.Swarm.Version, Spec: spec})
		g.did(err)
		is, err := g.SwarmInspect(g.ctx, client.SwarmInspectOptions{})
		if g.did(err); (is.Swarm.Spec.TaskDefaults.LogDriver == nil) != (d == nil) {
			t.Errorf("the swarm's log driver: %+v, want %+v", is.Swarm.Spec.TaskDefaults.LogDriver, d)
		}
	}
	c.create("before", image)
	engines := logs("before")
	before := c.tasks("node1", "before")[0]
	change(&swarm.Driver{Name: "local", Options: map[string]string{"max-size": "1m"}})
	c.create("plain", image)
	c.create("own", "--log-driver", "json-file", "--log-opt", "max-file=2", image)
	for service, want := range map[string]string{"plain": "{local map[max-size:1m]}", "own": "{json-file map[max-file:2]}", "before": engines} {
		if got := logs(service); got != want || strings.HasPrefix(engines, "{local") {
			t.Errorf("%s logs to %s, want %s", service, got, want)
		}
	}
	if now := c.tasks("node1", "before"); len(now) != 1 || now[0] != before {
		t.Errorf("a change of the default replaced a task: %v, before %v", now, before)
	}
	change(nil)
	c.mustDocker("node1", "service", "update", "-q", "--force", "plain")
	if got := logs("plain"); got != engines {
		t.Errorf("without a default it logs to %s, want %s", got, engines)
	}
	for _, service := range []string{"before", "plain", "own"} {
		c.mustDocker("node1", "service", "rm", service)
	}
}
