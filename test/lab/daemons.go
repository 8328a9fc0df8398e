package lab

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
)

// The daemons of a node, by the names that Signal takes.
const (
	Meshd  = "meshd"
	Engine = "dockerd"
	// containerd is the engine's, and a service of its own as on real nodes: one that the engine starts itself dies with it, and has 15 s to
	// answer, however slow the machine is.
	containerd = "containerd"
)

// startDaemons starts meshd first, if the lab has it, so that its plugin's socket is there when the engine looks for it, and the engine when its containerd answers.
func (l *Lab) startDaemons(ctx context.Context, r record, n nodeRecord) error {
	below, err := containerdCommand(r.Name, n.Name)
	if err != nil {
		return err
	}
	engine, err := engineCommand(r, n.Name)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	if !r.EngineSwarm {
		if err := l.startDaemon(ctx, n.Name, Meshd, meshdCommand(r, n)); err != nil {
			return err
		}
		group.Go(func() error { return l.waitAnswer(ctx, n.Name, Meshd, meshdSocket(l.name, n.Name), ping) })
	}
	group.Go(func() error {
		if err := l.startDaemon(ctx, n.Name, containerd, below); err != nil {
			return err
		}
		if err := l.waitAnswer(ctx, n.Name, containerd, containerdSocket(l.name, n.Name), connect); err != nil {
			return err
		}
		if err := l.startDaemon(ctx, n.Name, Engine, engine); err != nil {
			return err
		}
		return l.waitAnswer(ctx, n.Name, Engine, engineSocket(l.name, n.Name), ping)
	})
	return group.Wait()
}

func (l *Lab) startDaemon(ctx context.Context, node, daemon string, argv []string) error {
	_, err := ask(ctx, l.name, node, request{Op: "start", Name: daemon, Argv: argv, Env: daemonEnv(), Log: l.logPath(node, daemon)})
	return err
}

// waitAnswer tries a daemon's socket until it answers; it gives up when the daemon has ended.
func (l *Lab) waitAnswer(ctx context.Context, node, daemon string, socket string, try func(ctx context.Context, socket string) error) error {
	began, ended := time.Now(), false
	err := poll(ctx, func() error {
		answer, err := ask(ctx, l.name, node, request{Op: "status"})
		if ended = err == nil && answer.Running[daemon] == 0; ended {
			return nil
		}
		return try(ctx, socket)
	})
	if ended {
		return fmt.Errorf("%s: %s ended; its last words:\n%s", node, daemon, tail(l.logPath(node, daemon), 10))
	}
	if err != nil {
		return fmt.Errorf("%s: %s does not answer: %w\n%s", node, daemon, err, tail(l.logPath(node, daemon), 10))
	}
	l.say("%s: %s up (%.1fs)", node, daemon, time.Since(began).Seconds())
	return nil
}

func connect(ctx context.Context, socket string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return err
	}
	return conn.Close()
}

func meshdCommand(r record, n nodeRecord) []string {
	return []string{
		cmp.Or(n.Meshd, r.Meshd),
		"--socket", meshdSocket(r.Name, n.Name),
		"--engine", "unix://" + engineSocket(r.Name, n.Name),
		"--state-dir", filepath.Join(stateDir(r.Name, n.Name), "meshd"),
	}
}

// containerdCommand: the machine's own config.toml does not apply.
func containerdCommand(lab, node string) ([]string, error) {
	program, err := exec.LookPath(containerd)
	if err != nil {
		return nil, fmt.Errorf("no containerd for the Docker Engine on this machine (make setup installs both): %w", err)
	}
	config := filepath.Join(runDir(lab, node), "containerd.toml")
	settings := fmt.Sprintf("version = 2\nroot = %q\nstate = \"/run/containerd\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\n[grpc]\naddress = %q\n",
		filepath.Join(stateDir(lab, node), containerd), containerdSocket(lab, node))
	if err := os.WriteFile(config, []byte(settings), 0o644); err != nil {
		return nil, err
	}
	return []string{program, "--config", config}, nil
}

// engineCommand: no bridge and no packet filter of the engine's own unless asked for, since meshd carries the containers' networks; live-restore as on
// real nodes; the machine's own daemon.json does not apply.
func engineCommand(r record, node string) ([]string, error) {
	lab := r.Name
	dockerd, err := exec.LookPath("dockerd")
	if err != nil {
		return nil, fmt.Errorf("no Docker Engine on this machine (make setup installs it): %w", err)
	}
	config := filepath.Join(runDir(lab, node), "docker.json")
	if err := os.WriteFile(config, []byte("{}\n"), 0o644); err != nil {
		return nil, err
	}
	command := []string{
		dockerd,
		"--config-file", config,
		"--host", "unix://" + engineSocket(lab, node),
		"--containerd", containerdSocket(lab, node),
		"--data-root", filepath.Join(stateDir(lab, node), "docker"),
		"--exec-root", "/run/docker",
		"--pidfile", "/run/docker.pid",
		"--cgroup-parent", cgroupParent(lab, node),
		"--exec-opt", "native.cgroupdriver=cgroupfs",
		"--userland-proxy=false",
	}
	for _, subnet := range r.addresses(hubHost) {
		command = append(command, "--insecure-registry", subnet.Masked().String()) // one on the lab's own bridge
	}
	if !r.EngineSwarm {
		command = append(command, "--live-restore")
	}
	if !r.EngineBridge {
		command = append(command, "--bridge=none", "--iptables=false", "--ip6tables=false")
	}
	return command, nil
}
