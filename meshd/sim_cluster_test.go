package meshd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"
	"golang.org/x/sync/errgroup"

	"github.com/meshd/meshd/certs"
	"github.com/meshd/meshd/meshd/api"
	"github.com/meshd/meshd/orchestrator/admission"
	"github.com/meshd/meshd/orchestrator/agent"
	"github.com/meshd/meshd/orchestrator/agent/agenttest"
	"github.com/meshd/meshd/orchestrator/remote"
	"github.com/meshd/meshd/orchestrator/remote/remotetest"
	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/tunnel"
)

// A simulation is a whole cluster in this process and in virtual time
// (testing/synctest): managers as the daemon assembles them, with raft on the
// disk, TLS, control loops and the Engine API; agents; and in place of the
// network remotetest's, of the engine and the data plane agenttest's. Hours of
// it take seconds. It must be made in synctest's bubble.
type simulation struct {
	testing.TB
	rng     *rand.Rand // the test's goroutine only
	network *remotetest.Network
	nodes   []*simNode // managers first
	ca      *certs.CA
	cluster string
	log     *slog.Logger
}

// simNode is one machine. Its engine and its disk outlive its daemon.
type simNode struct {
	api.Node // what is not implemented below nobody asks

	sim    *simulation
	id     string
	name   string
	addr   netip.AddrPort
	keeper *certs.Keeper
	dir    string
	engine *simEngine
	api    *api.Server

	mu      sync.Mutex // guards what follows
	manager *manager   // nil on workers and while the daemon is down
	up      bool
	skew    time.Duration // of its clock
	stop    func()
}

// newSimulation starts a cluster and waits until all its nodes are ready.
func newSimulation(t testing.TB, seed uint64, managers, workers int) *simulation {
	t.Helper()
	level := slog.LevelError + 1
	if os.Getenv("SIM_LOG") != "" {
		level = slog.LevelInfo
	}
	s := &simulation{
		TB: t, rng: rand.New(rand.NewPCG(seed, 1)), network: remotetest.New(),
		log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})),
	}
	first := s.node(0, seed)
	found, err := admission.NewCluster(admission.Founder{
		Request: swarm.InitRequest{DefaultAddrPool: []netip.Prefix{netip.MustParsePrefix("10.32.0.0/16")}, SubnetSize: 26},
		Addr:    first.addr.String(), DataAddr: first.addr.Addr(),
	})
	s.must(err)
	for _, c := range found.Batch.Changes {
		if o, ok := c.Object.(*store.Cluster); ok {
			s.ca, err = certs.ParseCA(o.RootCert, o.RootKey)
			s.must(err)
		}
	}
	s.cluster, first.id = found.ClusterID, found.NodeID
	first.keeper, err = certs.Create(filepath.Join(first.dir, "certificates"), found.KeyPEM, found.CertPEM, found.RootPEM)
	s.must(err)
	s.nodes = append(s.nodes, first)
	for i := 1; i < managers+workers; i++ {
		role := swarm.NodeRoleManager
		if i >= managers {
			role = swarm.NodeRoleWorker
		}
		n := s.node(i, seed)
		n.certify(admission.CertRole(role))
		o := &store.Node{DataAddr: n.addr.Addr()}
		o.ID, o.Spec.Role, o.Spec.Availability = n.id, role, swarm.NodeAvailabilityActive
		o.Status.State = swarm.NodeStateUnknown
		found.Batch.Changes = append(found.Batch.Changes, store.Change{Action: store.Create, Kind: o.Kind(), Key: o.Key(), Object: o})
		s.nodes = append(s.nodes, n)
	}
	for i, n := range s.nodes {
		n.start()
		if i == 0 {
			s.must(n.manager.Bootstrap())
			_, err := n.manager.Propose(s.ctx(), found.Batch)
			s.must(err)
		} else if n.manages() {
			s.must(first.manager.AddVoter(s.ctx(), n.id, n.addr.String()))
		}
	}
	s.until("all nodes are ready", func(v *store.View) error {
		for _, n := range v.Nodes() {
			if n.Status.State != swarm.NodeStateReady {
				return fmt.Errorf("node %s is %s: %s", n.ID, n.Status.State, n.Status.Message)
			}
		}
		return nil
	})
	return s
}

func (s *simulation) node(i int, seed uint64) *simNode {
	n := &simNode{
		sim: s, name: fmt.Sprintf("node%d", i+1), dir: s.memoryDir(),
		addr:   netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), DefaultControlPort),
		engine: newSimEngine(s.TB, seed+uint64(i)),
	}
	n.api = api.New(api.Config{Node: n, Engine: filepath.Join(n.dir, "no-engine.sock"), Logger: s.log})
	return n
}

// memoryDir is a directory whose syncs cost nothing, if the machine has one.
func (s *simulation) memoryDir() string {
	dir, err := os.MkdirTemp("/dev/shm", "meshd-sim-")
	if err != nil {
		return s.TempDir()
	}
	s.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (n *simNode) certify(role certs.Role) {
	key, csr, err := certs.NewRequest()
	n.sim.must(err)
	n.id, err = certs.NodeID(csr)
	n.sim.must(err)
	cert, err := n.sim.ca.Sign(csr, certs.Identity{NodeID: n.id, ClusterID: n.sim.cluster, Role: role}, 0)
	n.sim.must(err)
	n.keeper, err = certs.Create(filepath.Join(n.dir, "certificates"), key, cert, n.sim.ca.CertPEM())
	n.sim.must(err)
}

func (n *simNode) manages() bool { return n.keeper.Identity().Role == certs.RoleManager }

// start runs the node's daemon, as far as it is simulated, from its disk.
func (n *simNode) start() {
	s := n.sim
	log := s.log.With("node", n.name)
	network := s.network.Host(n.name)
	client := remote.NewClient(n.keeper).Over(network)
	ctx, cancel := context.WithCancel(context.Background())
	g, ctx := errgroup.WithContext(ctx)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.manages() {
		cfg := Config{StateDir: n.dir, Logger: log, network: network, answers: func(context.Context, netip.Addr) bool { return false }}
		vault, err := certs.OpenVault(cfg.raftDir(), nil, true)
		s.must(err)
		mgr, err := openManager(cfg,
			&membership{NodeID: n.id, ClusterID: s.cluster, ListenAddr: n.addr.String(), AdvertiseAddr: n.addr, DataAddr: n.addr.Addr()},
			n.keeper, vault, client)
		s.must(err)
		n.manager = mgr
		g.Go(func() error { return mgr.Run(ctx) })
		g.Go(func() error { return watchLives(ctx, s.TB, mgr.store) })
	}
	s.must(os.MkdirAll(filepath.Join(n.dir, "agent"), 0o700))
	calls := tunnel.NewNode(tunnel.NodeConfig{Dial: client.DialTunnel, Handler: http.NotFoundHandler(), Logger: log})
	a := agent.New(agent.Config{
		NodeID: n.id, DataAddr: n.addr.Addr(), StateDir: filepath.Join(n.dir, "agent"), Managers: s.managers(),
		Client: agent.Remote(client), Runner: n.engine, Engine: n.engine, Dataplane: agenttest.NewDataplane(),
		Tunnels: calls.Accept, Logger: log, Now: n.now,
	})
	g.Go(func() error { return calls.Run(ctx) })
	g.Go(func() error { return a.Run(ctx) })
	n.up = true
	n.stop = func() {
		cancel()
		if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
			s.Errorf("%s ended: %v", n.name, err)
		}
		client.Close()
		n.mu.Lock()
		n.up, n.manager = false, nil
		n.mu.Unlock()
	}
}

// crash ends the daemon so that nobody hears of it.
func (n *simNode) crash() {
	for _, o := range n.sim.nodes {
		if o != n {
			n.sim.network.Part(n.name, o.name)
		}
	}
	n.stop()
	for _, o := range n.sim.nodes {
		n.sim.network.Join(n.name, o.name)
	}
}

func (n *simNode) now() time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	return time.Now().Add(n.skew)
}

func (n *simNode) isUp() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.up
}

// control is the node's manager, nil while it is down.
func (n *simNode) control() *manager {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.manager
}

// Status implements api.Node.
func (n *simNode) Status() api.Status {
	return api.Status{State: swarm.LocalNodeStateActive, NodeID: n.id, NodeAddr: n.addr.Addr().String()}
}

// Manager implements api.Node.
func (n *simNode) Manager() (api.Control, bool) {
	m := n.control()
	return m, m != nil
}

// call makes a request to the node's Engine API; out may be nil. Status 0: the
// daemon is down, or went down meanwhile.
func (n *simNode) call(ctx context.Context, method, path string, in, out any) (status int, message string) {
	if n.control() == nil {
		return 0, "down"
	}
	body, err := json.Marshal(in)
	n.sim.must(err)
	r := httptest.NewRequest(method, path, bytes.NewReader(body)).WithContext(ctx)
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	n.api.ServeHTTP(w, r)
	if w.Code == http.StatusInternalServerError && !strings.Contains(w.Body.String(), store.ErrSequence.Error()) { // for that it is Docker's
		n.sim.Errorf("%s %s through %s is answered: %s", method, path, n.name, w.Body)
	}
	if w.Code < 300 && out != nil && w.Body.Len() > 0 {
		n.sim.must(json.Unmarshal(w.Body.Bytes(), out))
	}
	return w.Code, w.Body.String()
}

func (s *simulation) managers() []swarm.Peer {
	var out []swarm.Peer
	for _, n := range s.nodes {
		if n.manages() {
			out = append(out, swarm.Peer{NodeID: n.id, Addr: n.addr.String()})
		}
	}
	return out
}

// live are the managers whose daemon runs.
func (s *simulation) live() (out []*manager) {
	for _, n := range s.nodes {
		if m := n.control(); m != nil {
			out = append(out, m)
		}
	}
	return out
}

func (s *simulation) leader() *simNode {
	for _, n := range s.nodes {
		if m := n.control(); m != nil && m.IsLeader() {
			return n
		}
	}
	return nil
}

// until waits, minutes of virtual time, until what holds of every live manager's store.
func (s *simulation) until(what string, holds func(*store.View) error) {
	s.Helper()
	var err error
	for range 600 {
		err = nil
		for _, m := range s.live() {
			m.store.View(func(v *store.View) { err = errors.Join(err, holds(v)) })
		}
		if err == nil {
			return
		}
		<-time.After(time.Second)
	}
	s.live()[0].store.View(func(v *store.View) { s.Log(describe(v)) })
	s.Fatalf("in vain waited until %s: %v", what, err)
}

// close ends all daemons, and waits for what is under way to arrive.
func (s *simulation) close() {
	for _, n := range s.nodes {
		if n.isUp() {
			n.stop()
		}
	}
	<-time.After(time.Minute)
}

// ctx bounds one step of a test.
func (s *simulation) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	context.AfterFunc(ctx, cancel)
	return ctx
}

func (s *simulation) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}
