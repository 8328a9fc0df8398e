// Package e2e drives a real cluster as a user does: through the built binaries
// and the official docker client, over a lab of complete nodes. The sub-tests
// of TestCluster share one lab and run in order, faults last.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshd/meshd/test/lab"
	"github.com/meshd/meshd/test/slowness"
)

// A lab of its own name, so that it can run beside a user's.
const labName = "e2e"

// patience bounds every wait; machines that run tests are slow and shared.
var patience = slowness.Stretch(90 * time.Second)

// binDir is where make build puts the binaries.
func binDir(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// result is how a command ended.
type result struct {
	out, err string
	code     int
}

func (r result) String() string {
	return fmt.Sprintf("exit %d\nstdout: %s\nstderr: %s", r.code, r.out, r.err)
}

// cluster is a running lab.
type cluster struct {
	t    *testing.T
	name string
	bin  string
}

// up starts a lab and takes it down at the end of the test.
func up(t *testing.T, name string, args ...string) *cluster {
	t.Helper()
	c := &cluster{t: t, name: name, bin: binDir(t)}
	c.run(t, "down", "meshctl", "lab", "down", "--name", name)
	t.Cleanup(func() {
		if t.Failed() {
			c.dumpLogs()
		}
		c.run(t, "down", "meshctl", "lab", "down", "--name", name)
	})
	c.must(append([]string{"meshctl", "lab", "up", "--name", name}, args...)...)
	return c
}

// wrap has labs run a daemon with flags of each node's own; what it returns sets them for the node's next start.
func wrap(t *testing.T, daemon string) (set func(node, flags string)) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, daemon)
	own := filepath.Join(binDir(t), daemon)
	if daemon == lab.Meshd {
		t.Setenv("MESHD", path)
	} else {
		var err error
		if own, err = exec.LookPath(daemon); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	}
	script := fmt.Sprintf("#!/bin/sh\nfor n in %s/*.flags; do\n\tname=$(basename $n .flags)\n\tcase \"$*\" in */$name/*) exec %s \"$@\" $(cat $n);; esac\ndone\nexec %[2]s \"$@\"\n", dir, own)
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return func(node, flags string) {
		if err := os.WriteFile(filepath.Join(dir, node+".flags"), []byte(flags), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// dumpLogs shows the end of each daemon's log, since CI keeps nothing else.
func (c *cluster) dumpLogs() {
	logs, _ := filepath.Glob(filepath.Join("/run/meshd", c.name, "*", "meshd.log"))
	for _, l := range logs {
		out, _ := exec.Command("tail", "-n", "60", l).CombinedOutput()
		c.t.Logf("%s:\n%s", l, out)
	}
}

// sub returns the cluster for a sub-test.
func (c *cluster) sub(t *testing.T) *cluster { return &cluster{t: t, name: c.name, bin: c.bin} }

func (c *cluster) socket(node string) string {
	return filepath.Join("/run/meshd", c.name, node, "meshd.sock")
}

// run executes a command; our own binaries are found in bin.
func (c *cluster) run(t *testing.T, what string, args ...string) result {
	t.Helper()
	return c.runEnv(what, nil, args...)
}

func (c *cluster) runEnv(what string, env []string, args ...string) result {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	path := args[0]
	if p := filepath.Join(c.bin, path); isFile(p) {
		path = p
	}
	cmd := exec.CommandContext(ctx, path, args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	r := result{out: strings.TrimSpace(out.String()), err: strings.TrimSpace(errs.String())}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		r.code = exit.ExitCode()
	case err != nil:
		c.t.Fatalf("%s: %v: %v", what, args, err)
	}
	return r
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// must runs a command that has to succeed, and returns what it printed.
func (c *cluster) must(args ...string) string {
	c.t.Helper()
	r := c.run(c.t, "must", args...)
	if r.code != 0 {
		c.t.Fatalf("%s: %v", strings.Join(args, " "), r)
	}
	return r.out
}

// docker runs the official client against a node.
func (c *cluster) docker(node string, args ...string) result {
	c.t.Helper()
	return c.runEnv("docker", []string{"DOCKER_HOST=unix://" + c.socket(node)}, append([]string{"docker"}, args...)...)
}

// mustDocker is docker for commands that have to succeed.
func (c *cluster) mustDocker(node string, args ...string) string {
	c.t.Helper()
	r := c.docker(node, args...)
	if r.code != 0 {
		c.t.Fatalf("docker (%s) %s: %v", node, strings.Join(args, " "), r)
	}
	return r.out
}

// meshctl runs our own client against a node.
func (c *cluster) meshctl(node string, args ...string) result {
	c.t.Helper()
	return c.runEnv("meshctl", []string{"DOCKER_HOST=unix://" + c.socket(node)}, append([]string{"meshctl"}, args...)...)
}

// refused checks that a command fails with a clear text.
func (c *cluster) refused(r result, want string) {
	c.t.Helper()
	if r.code == 0 || !strings.Contains(r.err+r.out, want) {
		c.t.Errorf("want a refusal saying %q, got %v", want, r)
	}
}

// outside runs a command on the machine outside the cluster.
func (c *cluster) outside(args ...string) result {
	c.t.Helper()
	return c.run(c.t, "outside", append([]string{"ip", "netns", "exec", c.name + "-client"}, c.resolve(args)...)...)
}

// on runs a command in a node's namespaces.
func (c *cluster) on(node string, args ...string) result {
	c.t.Helper()
	return c.run(c.t, "on", append([]string{"meshctl", "lab", "exec", "--name", c.name, node, "--"}, c.resolve(args)...)...)
}

func (c *cluster) resolve(args []string) []string {
	if p := filepath.Join(c.bin, args[0]); isFile(p) {
		return append([]string{p}, args[1:]...)
	}
	return args
}

// labNode is a row of `lab ls --format json`.
type labNode struct{ Name, Address, Role, State, Socket, Engine string }

func (c *cluster) nodes() []labNode {
	c.t.Helper()
	var nodes []labNode
	out := c.must("meshctl", "lab", "ls", "--name", c.name, "--format", "json")
	if err := json.Unmarshal([]byte(out), &nodes); err != nil {
		c.t.Fatalf("lab ls --format json: %v in %s", err, out)
	}
	return nodes
}

func (c *cluster) address(node string) string {
	c.t.Helper()
	for _, n := range c.nodes() {
		if n.Name == node {
			return n.Address
		}
	}
	c.t.Fatalf("lab %s has no node %s", c.name, node)
	return ""
}

// eventually waits until check returns nil.
func (c *cluster) eventually(what string, check func() error) {
	c.t.Helper()
	c.within(patience, what, check)
}

func (c *cluster) within(limit time.Duration, what string, check func() error) {
	c.t.Helper()
	start := time.Now()
	tick := time.NewTicker(slowness.Stretch(200 * time.Millisecond))
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			c.t.Logf("%s after %.1fs", what, time.Since(start).Seconds())
			return
		}
		if time.Since(start) > limit {
			c.t.Fatalf("%s: not within %v: %v", what, limit, err)
		}
		<-tick.C
	}
}

// running waits until a service has n running tasks, seen from a node.
func (c *cluster) running(node, service string, n int) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("%s has %d running tasks", service, n), func() error {
		got := len(c.tasks(node, service))
		if got != n {
			return fmt.Errorf("%d tasks of %s run\n%s", got, service, c.docker(node, "service", "ps", "--no-trunc", service))
		}
		return nil
	})
}

// task is a running task.
type task struct{ ID, Name, Node string }

// tasks lists the tasks of a service that run now.
func (c *cluster) tasks(node, service string) []task {
	c.t.Helper()
	r := c.docker(node, "service", "ps", "--no-trunc", "--filter", "desired-state=running",
		"--format", "{{.ID}}\t{{.Name}}\t{{.Node}}\t{{.CurrentState}}", service)
	var out []task
	for _, line := range strings.Split(r.out, "\n") {
		f := strings.Split(line, "\t")
		if len(f) == 4 && strings.HasPrefix(f[3], "Running") {
			out = append(out, task{f[0], f[1], f[2]})
		}
	}
	return out
}

// in runs a command in a task's container.
func (c *cluster) in(tk task, args ...string) result {
	c.t.Helper()
	container := tk.Name + "." + tk.ID
	return c.docker(tk.Node, append([]string{"exec", container}, args...)...)
}

// pid is that of a task's first process, as its node counts.
func (c *cluster) pid(tk task) (pid int) {
	c.t.Helper()
	if _, err := fmt.Sscan(c.mustDocker(tk.Node, "inspect", "--format", "{{.State.Pid}}", tk.Name+"."+tk.ID), &pid); err != nil {
		c.t.Fatal(err)
	}
	return pid
}

// readyNodes checks that a manager lists n ready nodes.
func readyNodes(c *cluster, node string, n int) error {
	r := c.docker(node, "node", "ls", "--format", "{{.Status}}")
	if got := strings.Count(r.out, "Ready"); got != n {
		return fmt.Errorf("%d nodes are ready, want %d: %v", got, n, r)
	}
	return nil
}
