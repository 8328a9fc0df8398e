package meshd

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"sync/atomic"

	"github.com/moby/moby/api/types/swarm"
	"golang.org/x/sync/errgroup"

	"github.com/meshd/meshd/certs"
	"github.com/meshd/meshd/meshd/api"
	"github.com/meshd/meshd/orchestrator/agent"
	"github.com/meshd/meshd/orchestrator/logs"
	"github.com/meshd/meshd/orchestrator/remote"
	"github.com/meshd/meshd/orchestrator/tunnel"
)

// node is this machine's membership of one cluster, from joining to leaving or
// to the end of the daemon.
//
// | goroutine | owns                           | ends with      |
// |-----------|--------------------------------|----------------|
// | manager   | the control plane's part       | stop           |
// | agent     | this node's tasks              | stop           |
// | renewal   | the certificate                | stop           |
// | roles     | whether the role still holds   | stop           |
// | liveness  | who cannot serve right now     | stop           |
// | tunnel    | what managers ask this node    | stop           |
// | move      | whether the address still holds| stop           |
// | raft addr | this manager's address in raft | done, or stop  |
// | lock      | the lock of the vault          | stop           |
// | keys      | news of WireGuard keys         | stop           |
// | watcher   | err, done                      | the others     |
type node struct {
	d      *Daemon
	keeper *certs.Keeper
	client *remote.Client
	// manager is nil on workers, and so is vault, which has the key of its data.
	manager *manager
	vault   *certs.Vault
	roles   roleWatch
	trust   trustWatch
	live    *liveness
	// tunnel is how managers call this node.
	tunnel *tunnel.Node
	// agent is there once the node runs.
	agent atomic.Pointer[agent.Agent]

	mu         sync.Mutex
	membership membership
	err        error // why it ended by itself

	stop context.CancelFunc
	done chan struct{}
}

// openNode builds a node; nothing runs yet. A manager without vault is a new one.
func (d *Daemon) openNode(m membership, k *certs.Keeper, vault *certs.Vault) (*node, error) {
	if err := os.MkdirAll(d.cfg.agentDir(), 0o700); err != nil {
		return nil, fmt.Errorf("make the agent's directory: %w", err)
	}
	n := &node{
		d: d, keeper: k, client: remote.NewClient(k), membership: m, done: make(chan struct{}),
		roles: roleWatch{d.data, m.NodeID, make(chan swarm.NodeRole, 1)},
		trust: make(trustWatch, 1),
		live:  newLiveness(d, m),
	}
	n.tunnel = tunnel.NewNode(tunnel.NodeConfig{Dial: n.client.DialTunnel, Handler: d.answers(), Logger: d.log})
	if k.Identity().Role != certs.RoleManager {
		return n, nil
	}
	var err error
	if n.vault = vault; vault == nil {
		if n.vault, err = d.newVault(k); err != nil {
			return nil, err
		}
	}
	n.manager, err = openManager(d.cfg, &m, k, n.vault, n.client)
	return n, err
}

// startNode runs the node in the background and makes it the daemon's. It
// outlives the request that asked for it, so it lives in the daemon's context.
func (d *Daemon) startNode(n *node) {
	d.data.join(identity{n.membership.NodeID, n.membership.DataAddr, n.membership.DataPathPort})
	ctx, stop := context.WithCancel(d.ctx)
	n.stop = stop
	told, _ := d.overlay.Keys()
	g, ctx := errgroup.WithContext(ctx)
	if n.manager != nil {
		g.Go(func() error { return n.manager.Run(ctx) })
		g.Go(func() error { return n.keepRaftAddress(ctx) })
		g.Go(func() error { return n.keepLock(ctx) })
	}
	g.Go(func() error { return n.runningAgent().Run(ctx) })
	g.Go(func() error { return n.renew(ctx) })
	g.Go(func() error { return n.awaitRole(ctx) })
	g.Go(func() error { return n.live.Run(ctx) })
	g.Go(func() error { return n.tunnel.Run(ctx) })
	g.Go(func() error { return n.awaitMove(ctx) })
	g.Go(func() error { return n.announceKeys(ctx, told) })
	go func() {
		err := g.Wait()
		n.mu.Lock()
		n.err = err
		n.mu.Unlock()
		n.client.Close()
		close(n.done)
		switch {
		case errors.Is(err, errRoleChanged):
			d.log.Info("changing this node's role", "reason", err)
			d.changeRole(n)
		case errors.Is(err, errMoved):
			d.log.Info("taking up this machine's new address", "reason", err)
			d.move(n)
		case err != nil:
			d.log.Error("this node's part in the swarm has ended", "error", err)
		}
	}()
	d.mu.Lock()
	d.node = n
	d.mu.Unlock()
}

// end stops the node's goroutines and waits for them. Containers go on.
func (n *node) end() {
	n.stop()
	<-n.done
}

func (n *node) newAgent() *agent.Agent {
	m := n.snapshot()
	return agent.New(agent.Config{
		NodeID: m.NodeID, DataAddr: m.DataAddr, Direct: n.d.cfg.DirectRouting, Keys: n.d.encryptionKeys, StateDir: n.d.cfg.agentDir(),
		Managers: n.preferred(m), SaveManagers: n.saveManagers,
		Client: agent.Remote(n.client), Runner: n.d.runner, Engine: n.d.runner, Dataplane: liveWatch{n.roles, n.live},
		Tunnels: n.tunnel.Accept, Trust: n.trust.set, Logger: n.d.log,
	})
}

// answers are what this node tells managers that call it.
func (d *Daemon) answers() http.Handler {
	mux := http.NewServeMux()
	logs.Register(mux, d.runner)
	mux.Handle("GET "+api.NetPath+"check", d.api)
	mux.Handle("GET "+api.NetPath+"trace", d.api)
	mux.Handle("GET "+api.NetPath+"doctor", d.api)
	mux.Handle(api.EnginePath+"/", d.api.TaskEngine())
	return mux
}

// preferred puts a manager's own control port first: its session costs no network.
// Where others had it last does not count.
func (n *node) preferred(m membership) []swarm.Peer {
	if n.manager == nil {
		return m.Managers
	}
	out := []swarm.Peer{{NodeID: m.NodeID, Addr: m.AdvertiseAddr.String()}}
	for _, p := range m.Managers {
		if p.NodeID != m.NodeID {
			out = append(out, p)
		}
	}
	return out
}

func (n *node) snapshot() membership {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.membership
}

func (n *node) saveManagers(peers []swarm.Peer) {
	n.mu.Lock()
	n.membership.Managers = peers
	m := n.membership
	n.mu.Unlock()
	if err := m.save(n.d.cfg.membershipFile()); err != nil {
		n.d.log.Error("the list of managers is not saved", "error", err)
	}
}
