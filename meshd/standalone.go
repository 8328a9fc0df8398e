package meshd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/moby/moby/api/types/swarm"
	"golang.org/x/sync/errgroup"

	"github.com/meshd/meshd/certs"
	"github.com/meshd/meshd/meshd/api"
	"github.com/meshd/meshd/orchestrator/admission"
	"github.com/meshd/meshd/orchestrator/agent"
	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/orchestrator/remote"
)

// Standalone is a manager with no machine around it: raft on disk, the control
// port and the API as ever, but no engine, no agent, no data plane. Simulated
// clusters, which are larger than the machines at hand, are managed by some.
//
// | goroutine | owns                     | ends with |
// |-----------|--------------------------|-----------|
// | manager   | the control plane's part | Run       |
// | api       | requests on the socket   | Run       |
type Standalone struct {
	*manager
	cfg    Config
	addr   netip.AddrPort
	id     certs.Identity
	client *remote.Client
	api    *api.Server
}

// OpenStandalone takes up what is in cfg.StateDir, or begins there, as the manager
// with this certificate; others reach it at addr.
func OpenStandalone(cfg Config, addr netip.AddrPort, k *certs.Keeper) (*Standalone, error) {
	s := &Standalone{cfg: cfg, addr: addr, id: k.Identity(), client: remote.NewClient(k)}
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	m := membership{NodeID: s.id.NodeID, ClusterID: s.id.ClusterID, ListenAddr: addr.String(), AdvertiseAddr: addr, DataAddr: addr.Addr()}
	vault, err := certs.OpenVault(cfg.raftDir(), nil, true)
	if err != nil {
		return nil, err
	}
	if s.manager, err = openManager(cfg, &m, k, vault, s.client); err != nil {
		return nil, err
	}
	s.api = api.New(api.Config{Node: standaloneNode{s}, Engine: cfg.Engine, Version: cfg.Version, Logger: cfg.Logger})
	return s, nil
}

// Enter makes it a voter among the managers, one of which is at addr. It must run.
func (s *Standalone) Enter(ctx context.Context, addr string) error {
	return admission.JoinRaft(ctx, s.client, addr, s.addr.String())
}

// Run works until ctx ends or a part fails.
func (s *Standalone) Run(ctx context.Context) error {
	defer s.client.Close()
	socket, err := listenUnix(s.cfg.Socket, s.cfg.Group)
	if err != nil {
		return errors.Join(err, s.manager.Close())
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.manager.Run(ctx) })
	g.Go(func() error { return s.api.Serve(ctx, socket) })
	return g.Wait()
}

// standaloneNode is the API's view of it; its membership is not the API's to change.
type standaloneNode struct{ s *Standalone }

var errStandalone = remote.Errorf(errors.ErrUnsupported, "a manager without a machine neither joins nor leaves")

// Status implements api.Node.
func (n standaloneNode) Status() api.Status {
	return api.Status{
		State: swarm.LocalNodeStateActive, NodeID: n.s.id.NodeID,
		NodeAddr: n.s.addr.Addr().String(), Managers: n.s.peers(),
	}
}

// Attach implements api.Node.
func (standaloneNode) Attach(context.Context, protocol.AttachRequest) (agent.AttachmentPlan, error) {
	return agent.AttachmentPlan{}, errStandalone
}

// Manager implements api.Node.
func (n standaloneNode) Manager() (api.Control, bool) { return n.s.manager, true }

// Init implements api.Node.
func (standaloneNode) Init(context.Context, swarm.InitRequest) (string, error) {
	return "", errStandalone
}

// Join implements api.Node.
func (standaloneNode) Join(context.Context, swarm.JoinRequest) error { return errStandalone }

// Leave implements api.Node.
func (standaloneNode) Leave(context.Context, bool) error { return errStandalone }

// ShutDown implements api.Node: it runs no tasks.
func (standaloneNode) ShutDown(context.Context) error { return nil }

// Unlock implements api.Node.
func (standaloneNode) Unlock(context.Context, string) error { return errStandalone }
