package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/meshd/meshd/test/lab"
)

const (
	labName = "benchdns"
	node    = "node1"
	image   = "meshd/sample:latest"
	// limit bounds the waits for containers.
	limit = 2 * time.Minute
)

// inContainers measures from inside of two containers of one node: a task asks
// meshd, a container on a bridge network of the same engine asks Docker's resolver.
func inContainers(ctx context.Context, o options) (err error) {
	if err := lab.Down(ctx, labName, os.Stderr); err != nil {
		return err
	}
	l, err := lab.Up(ctx, lab.Options{Name: labName, Nodes: 1, Managers: 1, Meshd: o.meshd, Progress: os.Stderr})
	defer func() {
		err = errors.Join(err, lab.Down(context.WithoutCancel(ctx), labName, os.Stderr))
	}()
	if err != nil {
		return err
	}
	if err := l.Load(ctx, o.image); err != nil {
		return err
	}
	nodes, err := l.Ls(ctx)
	if err != nil {
		return err
	}
	swarm, engine := client(ctx, nodes[0].Socket), client(ctx, nodes[0].Engine)
	for _, step := range [][]string{
		{"network", "create", "--driver", "overlay", "front"},
		{"service", "create", "-q", "--no-resolve-image", "--detach=false", "--name", "web", "--network", "front", image},
	} {
		if _, err := swarm(step...); err != nil {
			return err
		}
	}
	for _, step := range [][]string{
		{"network", "create", "--driver", "bridge", "plain"},
		{"run", "-d", "--network", "plain", "--name", "web", "--pull", "never", image},
	} {
		if _, err := engine(step...); err != nil {
			return err
		}
	}
	task, err := engine("ps", "-q", "--filter", "label=com.docker.swarm.service.name=web")
	if err != nil {
		return err
	}
	asked := filepath.Join(o.dir, "web")
	if err := queries(asked, []string{"web"}); err != nil {
		return err
	}
	gateway, err := engine("network", "inspect", "--format", "{{(index .IPAM.Config 0).Gateway}}", "ingress")
	if err != nil {
		return err
	}
	var contenders []*contender
	for _, c := range []struct{ name, container, server, daemon string }{
		{"meshd", task, gateway, "meshd"}, {"Docker's embedded resolver", "web", "127.0.0.11", "dockerd"},
	} {
		daemons, err := l.Processes(node, c.daemon)
		if err != nil {
			return err
		}
		resolver := daemons[0]
		pid, err := engine("inspect", "--format", "{{.State.Pid}}", c.container)
		if err != nil {
			return err
		}
		// As before: the resolver has the first CPU, its client the second.
		if out, err := exec.CommandContext(ctx, "taskset", "-a", "-c", "-p", "0", strconv.Itoa(resolver)).CombinedOutput(); err != nil {
			return fmt.Errorf("give %s one CPU: %w: %s", c.daemon, err, out)
		}
		contenders = append(contenders, &contender{name: c.name, pid: resolver, dnsperf: func(args ...string) ([]byte, error) {
			var out bytes.Buffer
			cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=/proc/" + pid + "/ns/net", "taskset", "-c", "1", o.dnsperf, "-s", c.server}, args...)...)
			cmd.Stdout, cmd.Stderr = &out, &out
			err := l.Exec(node, cmd)
			return out.Bytes(), err
		}})
	}
	fmt.Println()
	fmt.Println("From inside of a container, one CPU each:")
	fmt.Println()
	head(o)
	return measure(o, asked, contenders)
}

// client runs the docker client with a socket.
func client(ctx context.Context, socket string) func(args ...string) (string, error) {
	return func(args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		cmd := exec.CommandContext(ctx, "docker", append([]string{"-H", "unix://" + strings.TrimPrefix(socket, "unix://")}, args...)...)
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		if err := cmd.Run(); err != nil {
			return "", fmt.Errorf("docker %s: %w\n%s", strings.Join(args, " "), err, errs.Bytes())
		}
		return strings.TrimSpace(out.String()), nil
	}
}
