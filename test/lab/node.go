package lab

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/moby/moby/client"
	"golang.org/x/sync/errgroup"
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
	for _, socket := range []func(lab, node string) string{meshdSocket, engineSocket, containerdSocket, initSocket} {
		if err := os.Remove(socket(l.name, node)); err != nil && !errors.Is(err, os.ErrNotExist) {
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
