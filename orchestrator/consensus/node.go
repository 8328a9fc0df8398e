package consensus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/hashicorp/raft"

	"github.com/meshd/meshd/certs"
	"github.com/meshd/meshd/orchestrator/remote"
	"github.com/meshd/meshd/orchestrator/store"
)

// Config of a Node.
type Config struct {
	// Dir holds the log and the snapshots.
	Dir string
	// Vault has the key that encrypts them; nil: one of their own in Dir, in the clear.
	Vault  *certs.Vault
	NodeID string
	// Addr is host:port of the control port, as other managers dial it.
	Addr  string
	Store *store.Store
	// Server brings raft's connections and the calls of other managers. It must
	// be fresh: a Node uses it up.
	Server *remote.Server
	Client *remote.Client
	// Fatal is told once that this replica cannot go on; it applies nothing after that.
	Fatal  func(error)
	Logger *slog.Logger

	// faults makes the log fail now and then, in tests.
	faults func(raft.LogStore) raft.LogStore
}

// ErrRemoved: this manager was taken out of raft, Run has nothing left to do.
var ErrRemoved = errors.New("consensus: this manager was removed from the managers of the swarm")

// The timing; its reasons are in the package's comment.
const (
	heartbeatTimeout = 600 * time.Millisecond
	electionTimeout  = 600 * time.Millisecond
	leaseTimeout     = 400 * time.Millisecond
	// commitTimeout is how late an idle leader tells followers what is committed,
	// thus what a proposal through a follower waits longer.
	commitTimeout = 20 * time.Millisecond
	// transportTimeout bounds one exchange with another raft.
	transportTimeout = 3 * time.Second
	// dialTimeout bounds the wait for a connection: nothing else is tried meanwhile
	// with that peer, not even its new address. One lost SYN must fit (RFC 6298).
	dialTimeout = 1500 * time.Millisecond
)

const (
	snapshotEvery    = 30 * time.Second
	snapshotAfter    = 8192
	keepLogs         = 2048
	keepSnapshots    = 2
	leaderEvents     = 16
	observerCapacity = 256
)

// Node is this manager's part in raft. It implements store.Proposer.
type Node struct {
	cfg  Config
	raft *raft.Raft
	fsm  *fsm
	disk *disk

	stream    *streamLayer
	transport *raft.NetworkTransport
	conf      *raft.Config
	notify    chan bool             // raft's news of leadership
	observed  chan raft.Observation // raft's news of peers

	readyTerm atomic.Uint64 // the term this node leads with all earlier entries applied; 0 none
	subs      subscriptions
	peers     peerSet
	moves     moves

	stop       chan struct{} // closed by Close
	removed    chan struct{} // closed when raft shut itself down
	once       sync.Once
	workers    sync.WaitGroup // watch, observe
	transferMu sync.Mutex     // held while leadership is handed over
	callsMu    sync.Mutex     // so that nothing is spawned once stop is closed
	calls      sync.WaitGroup
}

// Open starts raft from what is on disk and answers the other managers' calls.
func Open(cfg Config) (*Node, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	stop := make(chan struct{})
	d, err := openDisk(cfg, bridge(cfg.Logger), stop)
	if err != nil {
		return nil, err
	}
	n := &Node{
		cfg:      cfg,
		disk:     d,
		notify:   make(chan bool, leaderEvents),
		observed: make(chan raft.Observation, observerCapacity),
		stop:     stop,
		removed:  make(chan struct{}),
	}
	n.fsm = newFSM(cfg.Store, cfg.Fatal, n.stop)
	n.conf = raftConfig(cfg)
	n.conf.NotifyCh = n.notify
	n.stream = &streamLayer{Listener: cfg.Server.Raft(), addr: cfg.Addr, client: cfg.Client, dialed: map[*dialed]bool{}}
	n.transport = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream:  n.stream,
		MaxPool: 3,
		// One at a time: raft's pipeline can stop for good when a follower refuses an
		// entry (hashicorp/raft#612). Heartbeats go on, so nobody notices that the
		// follower gets nothing more, and the node cannot shut down.
		MaxRPCsInFlight: 1,
		Timeout:         transportTimeout,
		Logger:          n.conf.Logger,
	})
	n.raft, err = raft.NewRaft(n.conf, n.fsm, d.logs, d.stable, d.snapshots, n.transport)
	if err == nil {
		err = n.fsm.failure() // raft may have fallen back to an older snapshot
	}
	if err != nil {
		n.Close()
		return nil, fmt.Errorf("consensus: open %s: %w", cfg.Dir, err)
	}
	n.raft.RegisterObserver(raft.NewObserver(n.observed, false, wanted))
	n.workers.Go(n.watch)
	n.workers.Go(n.observe)
	n.register()
	return n, nil
}

func raftConfig(cfg Config) *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(cfg.NodeID)
	c.HeartbeatTimeout = heartbeatTimeout
	c.ElectionTimeout = electionTimeout
	c.LeaderLeaseTimeout = leaseTimeout
	c.CommitTimeout = commitTimeout
	c.SnapshotInterval = snapshotEvery
	c.SnapshotThreshold = snapshotAfter
	c.TrailingLogs = keepLogs
	c.Logger = bridge(cfg.Logger)
	c.NoLegacyTelemetry = true
	return c
}

// Bootstrap makes this node the only voter of a new cluster.
func (n *Node) Bootstrap() error {
	f := n.raft.BootstrapCluster(raft.Configuration{Servers: []raft.Server{{
		Suffrage: raft.Voter, ID: n.conf.LocalID, Address: raft.ServerAddress(n.cfg.Addr),
	}}})
	if err := f.Error(); err != nil {
		return fmt.Errorf("consensus: bootstrap: %w", err)
	}
	return nil
}

// Run returns when the context ends, or with ErrRemoved when raft ended by
// itself; everything is shut down and joined by then. A leader hands over
// first, so that a restart leaves no gap without one.
func (n *Node) Run(ctx context.Context) error {
	var err error
	select {
	case <-ctx.Done():
		n.handOver()
	case <-n.stop:
	case <-n.removed:
		err = ErrRemoved
	}
	return errors.Join(err, n.Close())
}

// handOver gives leadership away if there is somebody to take it. It takes an
// election timeout at most.
func (n *Node) handOver() {
	if !n.IsLeader() || len(n.Members()) < 2 {
		return
	}
	if err := n.giveLeadership(); err != nil {
		n.cfg.Logger.Info("leadership is given up without a successor", "error", err)
	}
}

// giveLeadership hands leadership over, one call at a time and none while raft
// shuts down: raft never answers a second one that is queued then.
func (n *Node) giveLeadership() error {
	n.transferMu.Lock()
	defer n.transferMu.Unlock()
	select {
	case <-n.stop:
		return raft.ErrRaftShutdown
	default:
	}
	if !n.IsLeader() {
		return raft.ErrNotLeader
	}
	return n.raft.LeadershipTransfer().Error()
}

// Close shuts raft down at once and joins everything. Safe to call again.
func (n *Node) Close() error {
	var err error
	n.once.Do(func() {
		n.callsMu.Lock()
		close(n.stop)
		n.callsMu.Unlock()
		n.stream.hangUp()
		if n.raft != nil {
			n.transferMu.Lock()
			err = n.raft.Shutdown().Error()
			n.transferMu.Unlock()
		}
		err = errors.Join(err, n.transport.Close())
		n.calls.Wait()
		n.workers.Wait()
		n.subs.end()
		err = errors.Join(err, n.disk.Close())
	})
	return err
}

// Leader returns the leader's node ID and address, empty when none is known.
func (n *Node) Leader() (nodeID, addr string) {
	a, id := n.raft.LeaderWithID()
	return string(id), string(a)
}

// IsLeader says whether this node leads.
func (n *Node) IsLeader() bool { return n.raft.State() == raft.Leader }

// Snapshot writes a snapshot now; that there is nothing new is no error.
func (n *Node) Snapshot() error {
	if err := n.raft.Snapshot().Error(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return fmt.Errorf("consensus: snapshot: %w", err)
	}
	return nil
}

// streamLayer is raft's way to its peers.
type streamLayer struct {
	net.Listener
	addr   string
	client *remote.Client

	mu     sync.Mutex
	dialed map[*dialed]bool
	hungUp bool
}

// dialed is a connection to a peer.
type dialed struct {
	net.Conn
	layer *streamLayer
}

// Close implements net.Conn.
func (d *dialed) Close() error {
	d.layer.mu.Lock()
	delete(d.layer.dialed, d)
	d.layer.mu.Unlock()
	return d.Conn.Close()
}

// hangUp closes all connections to peers, and new ones at once: raft, on its way
// down, would wait for answers that cannot come when the network is gone.
func (s *streamLayer) hangUp() {
	s.mu.Lock()
	s.hungUp = true
	open := slices.Collect(maps.Keys(s.dialed))
	s.mu.Unlock()
	for _, d := range open {
		d.Close()
	}
}

// Addr is the address that raft tells its peers.
func (s *streamLayer) Addr() net.Addr { return advertised(s.addr) }

// Dial implements raft.StreamLayer.
func (s *streamLayer) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), min(timeout, dialTimeout))
	defer cancel()
	c, _, err := s.client.DialRaft(ctx, string(addr))
	if err != nil {
		return nil, err
	}
	d := &dialed{Conn: c, layer: s}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hungUp {
		return nil, errors.Join(raft.ErrTransportShutdown, c.Close())
	}
	s.dialed[d] = true
	return d, nil
}

type advertised string

func (advertised) Network() string  { return "tcp" }
func (a advertised) String() string { return string(a) }

// ForceNewCluster makes the state on disk that of a cluster whose only manager
// is this node. Raft must not be running; entries that were on disk but not
// known to be committed become committed.
func ForceNewCluster(cfg Config) error {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if _, err := os.Stat(filepath.Join(cfg.Dir, logFile)); err != nil {
		return remote.Errorf(errdefs.ErrFailedPrecondition, "there is no swarm state to recover in %s", cfg.Dir)
	}
	d, err := openDisk(cfg, bridge(cfg.Logger), nil)
	if err != nil {
		return err
	}
	defer d.Close()
	stop := make(chan struct{})
	close(stop) // a failure must not block
	scratch := newFSM(store.New(), nil, stop)
	_, trans := raft.NewInmemTransport(raft.ServerAddress(cfg.Addr))
	err = raft.RecoverCluster(raftConfig(cfg), scratch, d.logs, d.stable, d.snapshots, trans,
		raft.Configuration{Servers: []raft.Server{{
			Suffrage: raft.Voter, ID: raft.ServerID(cfg.NodeID), Address: raft.ServerAddress(cfg.Addr),
		}}})
	if err == nil {
		err = scratch.failure()
	}
	if err != nil {
		return fmt.Errorf("consensus: force a new cluster: %w", err)
	}
	return nil
}
