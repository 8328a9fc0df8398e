package meshd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"

	"github.com/moby/moby/api/types/swarm"
	"golang.org/x/sync/errgroup"

	"github.com/meshd/meshd/certs"
	"github.com/meshd/meshd/orchestrator/admission"
	"github.com/meshd/meshd/orchestrator/consensus"
	"github.com/meshd/meshd/orchestrator/dispatcher"
	"github.com/meshd/meshd/orchestrator/journal"
	"github.com/meshd/meshd/orchestrator/remote"
	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/tunnel"
)

// manager is this node's part in the control plane. It implements api.Control.
//
//	control port -> consensus   raft
//	             -> admission   joining, certificates, leaving
//	             -> dispatcher  the nodes' sessions
//	             -> tunnel      calls to the nodes
//	leader only  -> the control loops (leader.go)
type manager struct {
	*consensus.Node
	store      *store.Store
	server     *remote.Server
	desk       *admission.Desk
	dispatcher *dispatcher.Dispatcher
	hub        *tunnel.Hub
	journal    *journal.Journal
	log        *slog.Logger
	// broken gets the reason when this replica can apply nothing any more.
	broken chan error
}

// openManager builds the parts from the ground up: the port they are reached
// through, the log they agree on, and those who read it.
func openManager(cfg Config, m *membership, k *certs.Keeper, vault *certs.Vault, client *remote.Client) (*manager, error) {
	mgr := &manager{
		store:  store.New(),
		server: remote.NewServer(remote.Config{Keeper: k, Network: cfg.network, Logger: cfg.Logger}),
		log:    cfg.Logger,
		broken: make(chan error, 1),
	}
	mgr.journal = journal.New(mgr.store) // before there is anything: raft's log is its past
	raft, err := consensus.Open(consensus.Config{
		Dir: cfg.raftDir(), Vault: vault, NodeID: m.NodeID, Addr: m.AdvertiseAddr.String(),
		Store: mgr.store, Server: mgr.server, Client: client, Logger: cfg.Logger,
		Fatal: func(err error) { mgr.broken <- err },
	})
	if err != nil {
		return nil, fmt.Errorf("open the raft log: %w", err)
	}
	mgr.Node = raft
	mgr.desk = admission.New(admission.Config{Store: mgr.store, Raft: raft, Client: client, Logger: cfg.Logger})
	mgr.desk.Register(mgr.server)
	answers := dispatcher.Answers
	if cfg.answers != nil {
		answers = cfg.answers
	}
	mgr.dispatcher = dispatcher.New(dispatcher.Config{
		Store: mgr.store, Proposer: raft, NodeID: m.NodeID, Caller: client, Logger: cfg.Logger,
		Leader: func() (string, string, bool) {
			id, addr := raft.Leader()
			return id, addr, raft.IsLeader()
		},
		Barrier: raft.Barrier, Members: mgr.memberAddrs, Answers: answers,
	})
	mgr.dispatcher.Register(mgr.server)
	mgr.hub = tunnel.NewHub(tunnel.HubConfig{
		Self: func() string { return mgr.memberAddrs()[m.NodeID] }, Managers: mgr.addrs,
		Sessions: mgr.dispatcher, Caller: client, Down: mgr.down,
		Incoming: mgr.server.Tunnels(), PeerOf: remote.PeerOf, Logger: cfg.Logger,
	})
	mgr.hub.Register(mgr.server)
	if err := mgr.server.Listen(m.ListenAddr); err != nil {
		return nil, errors.Join(fmt.Errorf("listen on the control port: %w", err), raft.Close())
	}
	return mgr, nil
}

// Store implements api.Control.
func (m *manager) Store() *store.Store { return m.store }

// Journal implements api.Control.
func (m *manager) Journal() *journal.Journal { return m.journal }

// Nodes implements api.Control.
func (m *manager) Nodes() http.RoundTripper { return m.hub }

// Watched implements api.Control.
func (m *manager) Watched(ctx context.Context) ([]string, []dispatcher.Lag, error) {
	return m.dispatcher.Watched(ctx)
}

// down says whether a node is given up, or gone.
func (m *manager) down(node string) (down bool) {
	m.store.View(func(v *store.View) {
		n := v.Node(node)
		down = n == nil || n.Status.State == swarm.NodeStateDown
	})
	return down
}

func (m *manager) addrs() []string { return slices.Collect(maps.Values(m.memberAddrs())) }

func (m *manager) memberAddrs() map[string]string {
	out := map[string]string{}
	for _, member := range m.Members() {
		out[member.ID] = member.Addr
	}
	return out
}

// peers lists the managers as Docker's API shows them.
func (m *manager) peers() []swarm.Peer {
	var out []swarm.Peer
	for _, member := range m.Members() {
		out = append(out, swarm.Peer{NodeID: member.ID, Addr: member.Addr})
	}
	return out
}

// Run works until ctx ends, or until this replica is broken.
func (m *manager) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.server.Serve(ctx) })
	g.Go(func() error { return m.Node.Run(ctx) })
	g.Go(func() error { return m.dispatcher.Run(ctx) })
	g.Go(func() error { return m.hub.Run(ctx) })
	g.Go(func() error { return m.journal.Run(ctx) })
	g.Go(func() error { return m.lead(ctx) })
	g.Go(func() error {
		select {
		case err := <-m.broken:
			return fmt.Errorf("this manager's replica is broken: %w", err)
		case <-ctx.Done():
			return nil
		}
	})
	return g.Wait()
}
