package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/moby/moby/client"
	"golang.org/x/sync/errgroup"
)

// The two daemons of a node, by the names that Signal takes.
const (
	Meshd  = "meshd"
	Engine = "dockerd"
)

const (
	startTimeout = 60 * time.Second
	stopTimeout  = 60 * time.Second
	killTimeout  = 20 * time.Second
)

// Start brings a node back, or those of its daemons that do not run, with the same address and the state it had.
func (l *Lab) Start(ctx context.Context, node string) error {
	r, err := readRecord(l.name)
	if err != nil {
		return err
	}
	n, err := r.node(node)
	if err != nil {
		return err
	}
	ctx, cancel := limited(ctx, startTimeout)
	defer cancel()
	if r.Boot != bootID() {
		return fmt.Errorf("this machine was started anew since lab %s was made, which took its network away: meshctl lab down --name %s, then lab up", r.Name, r.Name)
	}
	if !n.Init.alive() {
		if err := l.boot(ctx, r, n); err != nil {
			return err
		}
	}
	return l.startDaemons(ctx, r, n)
}

// boot makes the node's namespaces and its init. What is left of an earlier life goes first.
func (l *Lab) boot(ctx context.Context, r record, n nodeRecord) error {
	if err := l.clearNode(ctx, n.Name); err != nil {
		return err
	}
	for _, dir := range []string{runDir(l.name, n.Name), stateDir(l.name, n.Name)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := plug(r, n.Name); err != nil {
		return err
	}
	p, err := spawnInit(l.name, n.Name)
	if err != nil {
		return err
	}
	return updateNode(l.name, n.Name, func(n *nodeRecord) { n.Init = p })
}

// startDaemons starts meshd first, if the lab has it, so that its plugin's socket is there when the engine looks for it.
func (l *Lab) startDaemons(ctx context.Context, r record, n nodeRecord) error {
	engine, err := engineCommand(r, n.Name)
	if err != nil {
		return err
	}
	requests := []request{{Op: "start", Name: Engine, Argv: engine, Log: l.logPath(n.Name, Engine)}}
	sockets := map[string]string{Engine: engineSocket(l.name, n.Name)}
	if !r.EngineSwarm {
		requests = slices.Insert(requests, 0, request{Op: "start", Name: Meshd, Argv: meshdCommand(r, n), Log: l.logPath(n.Name, Meshd)})
		sockets[Meshd] = meshdSocket(l.name, n.Name)
	}
	began := time.Now()
	for _, req := range requests {
		req.Env = daemonEnv()
		if _, err := ask(ctx, l.name, n.Name, req); err != nil {
			return err
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	for name, socket := range sockets {
		group.Go(func() error {
			if err := l.waitAnswer(ctx, n.Name, name, socket); err != nil {
				return err
			}
			l.say("%s: %s up (%.1fs)", n.Name, name, time.Since(began).Seconds())
			return nil
		})
	}
	return group.Wait()
}

// waitAnswer polls the API behind a socket; it gives up when the daemon has ended.
func (l *Lab) waitAnswer(ctx context.Context, node, daemon, socket string) error {
	api, err := dial(socket)
	if err != nil {
		return err
	}
	defer api.Close()
	ended := false
	err = poll(ctx, func() error {
		answer, err := ask(ctx, l.name, node, request{Op: "status"})
		if ended = err == nil && answer.Running[daemon] == 0; ended {
			return nil
		}
		_, err = api.Ping(ctx, client.PingOptions{})
		return err
	})
	if ended {
		return fmt.Errorf("%s: %s ended; its last words:\n%s", node, daemon, tail(l.logPath(node, daemon), 10))
	}
	if err != nil {
		return fmt.Errorf("%s: %s does not answer: %w\n%s", node, daemon, err, tail(l.logPath(node, daemon), 10))
	}
	return nil
}

func meshdCommand(r record, n nodeRecord) []string {
	return []string{
		cmp.Or(n.Meshd, r.Meshd),
		"--socket", meshdSocket(r.Name, n.Name),
		"--engine", "unix://" + engineSocket(r.Name, n.Name),
		"--state-dir", filepath.Join(stateDir(r.Name, n.Name), "meshd"),
	}
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

// Replace has a node run another build of the daemon, from its next start on: an upgrade.
func (l *Lab) Replace(node, meshd string) error {
	return updateNode(l.name, node, func(n *nodeRecord) { n.Meshd = meshd })
}

// Signal sends a signal to one daemon of a node; Start starts it again if it ended.
func (l *Lab) Signal(ctx context.Context, node, daemon string, sig syscall.Signal) error {
	_, err := ask(ctx, l.name, node, request{Op: "signal", Name: daemon, Signal: int(sig)})
	return err
}

// WaitEnded returns once the daemon does not run.
func (l *Lab) WaitEnded(ctx context.Context, node, daemon string) error {
	return poll(ctx, func() error {
		answer, err := ask(ctx, l.name, node, request{Op: "status"})
		if err == nil && answer.Running[daemon] != 0 {
			return fmt.Errorf("%s of %s still runs", daemon, node)
		}
		return nil // no init, no daemon
	})
}

// Kill is a power cut: the node is cut off, then every one of its processes gets SIGKILL at once. Disks stay.
func (l *Lab) Kill(ctx context.Context, node string) error {
	n, err := l.node(node)
	if err != nil {
		return err
	}
	if err := unplug(l.name, node); err != nil {
		return err
	}
	ctx, cancel := limited(ctx, killTimeout)
	defer cancel()
	if err := n.Init.kill(ctx); err != nil {
		return err
	}
	return l.afterEnd(ctx, node)
}

// Stop is a shutdown, as systemd does it with our units: meshd ends its tasks in order, then meshd, what other containers there are, and the
// engine are each asked to end and waited for.
func (l *Lab) Stop(ctx context.Context, node string) error {
	n, err := l.node(node)
	if err != nil {
		return err
	}
	if n.Init.alive() {
		ctx, cancel := limited(ctx, stopTimeout)
		defer cancel()
		l.shutDown(ctx, node)
	}
	return l.Kill(ctx, node)
}

// shutDown does what it can until ctx ends; what is left gets Kill.
func (l *Lab) shutDown(ctx context.Context, node string) {
	if err := l.endTasks(ctx, node); err != nil {
		l.say("%s: end its tasks in order: %v", node, err)
	}
	l.endDaemon(ctx, node, Meshd)
	if err := l.stopContainers(ctx, node); err != nil {
		l.say("%s: stop containers: %v", node, err)
	}
	l.endDaemon(ctx, node, Engine)
}

// endTasks does what `meshctl shutdown` does.
func (l *Lab) endTasks(ctx context.Context, node string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://meshd/mesh/shutdown", nil)
	if err != nil {
		return err
	}
	resp, err := l.MeshdHTTP(node).Do(req)
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist) {
		return nil // it does not run
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		return fmt.Errorf("meshd answers %s", resp.Status)
	}
	l.say("%s: no task runs any more", node)
	return nil
}

func (l *Lab) endDaemon(ctx context.Context, node, daemon string) {
	if err := l.Signal(ctx, node, daemon, syscall.SIGTERM); err != nil {
		return // it does not run
	}
	if err := l.WaitEnded(ctx, node, daemon); err != nil {
		l.say("%v", err)
		return
	}
	l.say("%s: %s ended", node, daemon)
}

func (l *Lab) stopContainers(ctx context.Context, node string) error {
	api, err := l.EngineClient(node)
	if err != nil {
		return err
	}
	defer api.Close()
	running, err := api.ContainerList(ctx, client.ContainerListOptions{})
	if err != nil {
		return err
	}
	var group errgroup.Group
	for _, c := range running.Items {
		group.Go(func() error {
			_, err := api.ContainerStop(ctx, c.ID, client.ContainerStopOptions{})
			return err
		})
	}
	return group.Wait()
}

// afterEnd removes what a dead node leaves behind, all but its disk and its logs.
func (l *Lab) afterEnd(ctx context.Context, node string) error {
	if err := l.clearNode(ctx, node); err != nil {
		return err
	}
	return updateNode(l.name, node, func(n *nodeRecord) { n.Init = process{} })
}

// clearNode is idempotent. Processes that somebody started in the node's network namespace from outside go too.
func (l *Lab) clearNode(ctx context.Context, node string) error {
	if err := unplug(l.name, node); err != nil {
		return err
	}
	if err := killIn(ctx, []string{netnsPath(l.name, node)}); err != nil {
		return err
	}
	if err := delNetns(netnsName(l.name, node)); err != nil {
		return err
	}
	for _, socket := range []string{meshdSocket(l.name, node), engineSocket(l.name, node), initSocket(l.name, node)} {
		if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return removeCgroups(ctx, cgroupParent(l.name, node))
}

// killIn ends every process of the given network namespaces.
func killIn(ctx context.Context, namespaces []string) error {
	return poll(ctx, func() error {
		left := processesIn(namespaces)
		for _, p := range left {
			if err := p.kill(ctx); err != nil {
				return err
			}
		}
		if len(left) > 0 {
			return fmt.Errorf("%d processes left", len(left))
		}
		return nil
	})
}
