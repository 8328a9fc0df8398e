package api

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshd/meshd/orchestrator/store"
)

// cli runs an official docker client against the server.
type cli struct {
	*rig
	binary string
	config string
}

func newCLI(t *testing.T, binary string) cli {
	t.Helper()
	if _, err := os.Stat(binary); err != nil {
		t.Skipf("no docker client at %s: this test drives the official client", binary)
	}
	return cli{rig: newRig(t), binary: binary, config: t.TempDir()}
}

// run returns the output of a command, which must exit with the given code.
func (c cli) run(code int, args ...string) string {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.binary, args...)
	cmd.Env = []string{"DOCKER_HOST=unix://" + c.socket, "DOCKER_CONFIG=" + c.config, "HOME=" + c.config, "PATH=/nonexistent"}
	cmd.Stdin = strings.NewReader("hidden")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Fatalf("docker %s: %v", strings.Join(args, " "), err)
	}
	if got := cmd.ProcessState.ExitCode(); got != code {
		c.t.Fatalf("docker %s: exit status %d, want %d\n%s", strings.Join(args, " "), got, code, out.String())
	}
	return strings.TrimSpace(out.String())
}

// want runs a command and looks for words in its output.
func (c cli) want(code int, words string, args ...string) {
	c.t.Helper()
	out := c.run(code, args...)
	for _, w := range strings.Split(words, "|") {
		if !strings.Contains(out, w) {
			c.t.Errorf("docker %s: %q is missing in\n%s", strings.Join(args, " "), w, out)
		}
	}
}

// TestOfficialClient drives the clients found here; DOCKER_CLIENTS (a list as in
// PATH) names others.
func TestOfficialClient(t *testing.T) {
	binaries := []string{"/usr/local/bin/docker", "/usr/bin/docker"}
	if list := os.Getenv("DOCKER_CLIENTS"); list != "" {
		binaries = filepath.SplitList(list)
	}
	for _, binary := range binaries {
		t.Run(strings.ReplaceAll(strings.Trim(binary, "/"), "/", "-"), func(t *testing.T) {
			c := newCLI(t, binary)
			c.want(0, "meshd|20.10.24", "version")
			c.want(0, "Swarm: active|Is Manager: true|Managers: 1|Nodes: 2|NodeID: node1id", "info")
			c.want(0, "node1id *|node2|Ready|Leader", "node", "ls")
			c.want(0, "active", "node", "inspect", "node2", "--format", "{{.Spec.Availability}}")
			c.run(0, "node", "update", "--availability", "drain", "node2")
			c.want(0, "Drain", "node", "ls")
			c.want(1, "attempting to demote the last manager of the swarm", "node", "demote", "node1")
			c.want(1, "is not down and can't be removed", "node", "rm", "node2")

			if got := c.run(0, "swarm", "join-token", "-q", "worker"); got != "SWMTKN-1-digest-workersecret" {
				t.Errorf("worker token: %s", got)
			}
			c.want(0, "docker swarm join --token SWMTKN-1-digest-managersecret 192.0.2.1:2377", "swarm", "join-token", "manager")
			c.want(0, "Successfully rotated", "swarm", "join-token", "--rotate", "worker")
			c.want(1, "already part of a swarm", "swarm", "init")
			c.want(1, "You are attempting to leave the swarm", "swarm", "leave")
			c.networks()
			c.services()
			c.secrets()
			c.stack()
			c.progress()
		})
	}
}

func (c cli) networks() {
	c.t.Helper()
	c.run(0, "network", "create", "--driver", "overlay", "--attachable", "--subnet", "10.7.0.0/24", "ov")
	c.want(0, "ov|overlay|swarm|ingress|mine", "network", "ls")
	c.want(0, "swarm 10.7.0.0/24 true", "network", "inspect", "ov", "--format", "{{.Scope}} {{(index .IPAM.Config 0).Subnet}} {{.Attachable}}")
	c.want(1, "network with name ov already exists", "network", "create", "--driver", "overlay", "ov")
	c.want(1, "Pool overlaps", "network", "create", "--driver", "overlay", "--subnet", "10.7.0.0/16", "ov2")
	c.want(1, "network|nope", "network", "inspect", "nope")
}

func (c cli) services() {
	c.t.Helper()
	create := []string{"service", "create", "-d", "--no-resolve-image"}
	c.run(0, append(create, "--name", "web", "--replicas", "2", "--network", "ov", "--publish", "8080:80", "--env", "A=b",
		"--mount", "type=volume,source=v,target=/v", "--constraint", "node.role==manager", "nginx:1", "sleep", "9")...)
	c.run(0, append(create, "--name", "agent", "--mode", "global", "--network", "host", "nginx:1")...)
	c.want(0, "web|replicated|0/2|nginx:1|*:8080->80/tcp|agent|global", "service", "ls")
	c.want(0, "Replicas:\t2|PublishedPort = 8080|node.role==manager|Networks: |Env:\t\tA=b", "service", "inspect", "--pretty", "web")
	c.want(1, "name conflicts with an existing object", append(create, "--name", "web", "nginx")...)
	c.want(1, "port '8080' is already in use by service 'web'", append(create, "--name", "web2", "--publish", "8080:80", "nginx")...)
	c.want(1, "network|nope", append(create, "--name", "web2", "--network", "nope", "nginx")...)
	c.want(1, "is not a valid repository/tag", append(create, "--name", "web2", "Nginx")...)
	c.want(1, "no such service: nope", "service", "inspect", "nope")

	c.run(0, "service", "update", "-d", "--image", "nginx:2", "--no-resolve-image", "--replicas", "3", "web")
	c.want(0, "nginx:2 3", "service", "inspect", "web", "--format", "{{.Spec.TaskTemplate.ContainerSpec.Image}} {{.Spec.Mode.Replicated.Replicas}}")
	c.run(0, "service", "scale", "-d", "web=4")
	c.want(0, "0/4", "service", "ls")
	c.run(0, "service", "rollback", "-d", "web")
	c.want(0, "nginx:2 3", "service", "inspect", "web", "--format", "{{.Spec.TaskTemplate.ContainerSpec.Image}} {{.Spec.Mode.Replicated.Replicas}}")

	c.change(func(tx *store.Tx) error {
		tx.Create(runningTask(tx.ServiceByName("web"), 1))
		return nil
	})
	c.want(0, "web.1|nginx:2|node1|Running", "service", "ps", "web")
	c.want(0, "web.1", "node", "ps", "node1")
	c.want(0, "web.1", "node", "ps", "self")
	c.want(0, "1/3", "service", "ls")
	c.want(1, "is in use by service", "network", "rm", "ov")
	c.want(0, "web", "service", "rm", "web", "agent")
	c.want(1, "service|web", "service", "rm", "web")
	c.change(func(tx *store.Tx) error {
		for _, task := range tx.Tasks() {
			tx.Remove(task)
		}
		return nil
	})
	c.want(0, "ov", "network", "rm", "ov")
}

func (c cli) secrets() {
	c.t.Helper()
	for _, kind := range []string{"secret", "config"} {
		c.run(0, kind, "create", "--label", "a=b", "s1", "-")
		c.want(0, "s1", kind, "ls")
		c.want(0, "b", kind, "inspect", "s1", "--format", "{{.Spec.Labels.a}}")
		c.want(1, "already exists", kind, "create", "s1", "-")
		c.run(0, "service", "create", "-d", "--no-resolve-image", "--name", "user", "--"+kind, "s1", "nginx")
		c.want(1, "is in use by the following service: user", kind, "rm", "s1")
		c.run(0, "service", "rm", "user")
		c.want(0, "s1", kind, "rm", "s1")
	}
}

const composeFile = `
version: "3.8"
services:
  web:
    image: nginx:1
    networks: [front]
    secrets: [s1]
    deploy: {replicas: 2, labels: {a: b}}
networks:
  front: {driver: overlay}
secrets:
  s1: {file: ./s1.txt}
`

func (c cli) stack() {
	c.t.Helper()
	dir := c.t.TempDir()
	file := filepath.Join(dir, "stack.yml")
	for name, text := range map[string]string{file: composeFile, filepath.Join(dir, "s1.txt"): "hidden"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			c.t.Fatal(err)
		}
	}
	for range 2 { // the second time, everything is there to be updated
		c.run(0, "stack", "deploy", "--resolve-image", "never", "-c", file, "shop")
	}
	c.want(0, "shop", "stack", "ls")
	c.want(0, "shop_web|0/2", "stack", "services", "shop")
	c.change(func(tx *store.Tx) error {
		tx.Create(runningTask(tx.ServiceByName("shop_web"), 1))
		return nil
	})
	c.want(0, "shop_web.1|Running", "stack", "ps", "shop")
	c.want(0, "shop_front", "network", "ls", "--filter", "label=com.docker.stack.namespace=shop", "--filter", "scope=swarm")
	c.change(func(tx *store.Tx) error {
		tx.Remove(tx.Tasks()[0])
		return nil
	})
	c.run(0, "stack", "rm", "shop")
	c.want(0, "", "stack", "ls")
	c.control.store.View(func(v *store.View) {
		if len(v.Services())+len(v.Secrets()) > 0 || len(v.Networks()) != 1 {
			c.t.Errorf("left over: %d services, %d secrets, %d networks", len(v.Services()), len(v.Secrets()), len(v.Networks()))
		}
	})
}

// progress waits with the client for a service to converge, and again for an update of it.
func (c cli) progress() {
	c.t.Helper()
	watch := c.control.store.Watch(nil)
	done := make(chan struct{})
	go func() { // runs one task of the newest template
		defer close(done)
		for commit := range watch.C {
			for _, e := range commit.Events {
				s, ok := e.New.(*store.Service)
				if !ok {
					continue
				}
				_ = store.Transact(context.Background(), c.control.store, c.control, func(tx *store.Tx) error {
					tasks := tx.TasksOfService(s.ID)
					if s = tx.Service(s.ID); s == nil || len(tasks) > 0 && tasks[0].SpecVersion == s.SpecVersion {
						return nil
					}
					for _, t := range tasks {
						tx.Remove(t)
					}
					tx.Create(runningTask(s, 1))
					return nil
				})
			}
		}
	}()
	defer func() { watch.Close(); <-done }()
	c.want(0, "converged", "service", "create", "--detach=false", "--no-resolve-image", "--update-monitor", "50ms", "--name", "slow", "nginx:1")
	c.want(0, "converged", "service", "update", "--detach=false", "--force", "slow")
	c.run(0, "service", "rm", "slow")
}

func runningTask(s *store.Service, slot int) *store.Task {
	t := &store.Task{SpecVersion: s.SpecVersion}
	t.ID, t.ServiceID, t.Slot, t.NodeID = store.NewID(), s.ID, slot, "node1id"
	t.Status.State, t.DesiredState, t.Status.Timestamp = "running", "running", time.Now()
	return t
}
