package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/agent"
	"github.com/meshd/meshd/orchestrator/consensus"
	"github.com/meshd/meshd/orchestrator/dispatcher"
	"github.com/meshd/meshd/orchestrator/journal"
	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/store/storetest"
	"github.com/meshd/meshd/overlay"
)

// fakeNode is a node whose membership a test sets.
type fakeNode struct {
	mu      sync.Mutex
	status  Status
	control Control
	initErr error
	joinErr error
	left    bool
	off     bool

	leaveErr error

	attached  []protocol.AttachRequest
	plan      agent.AttachmentPlan
	attachErr error
}

func (n *fakeNode) Status() Status {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.status
}

func (n *fakeNode) Init(context.Context, swarm.InitRequest) (string, error) {
	if n.initErr != nil {
		return "", n.initErr
	}
	return "node1id", nil
}

func (n *fakeNode) Attach(_ context.Context, r protocol.AttachRequest) (agent.AttachmentPlan, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.attached = append(n.attached, r)
	return n.plan, n.attachErr
}

func (n *fakeNode) Join(context.Context, swarm.JoinRequest) error { return n.joinErr }

func (n *fakeNode) ShutDown(context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.off = true
	return nil
}

func (n *fakeNode) Leave(context.Context, bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.left = n.leaveErr == nil
	return n.leaveErr
}

func (n *fakeNode) Unlock(_ context.Context, key string) error {
	if key != "right" {
		return errdefs.ErrInvalidArgument.WithMessage("invalid key provided")
	}
	n.become(swarm.LocalNodeStateActive, n.control)
	return nil
}

func (n *fakeNode) Manager() (Control, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.control, n.control != nil
}

func (n *fakeNode) become(st swarm.LocalNodeState, c Control) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.status.State, n.control = st, c
}

// fakeControl is a manager over a store without raft.
type fakeControl struct {
	*storetest.Proposer
	store      *store.Store
	journal    *journal.Journal
	barrierErr error
	barriers   int
	mu         sync.Mutex
	nodes      fakeNodes
	silent     []string // managers that do not answer
}

func (c *fakeControl) Without(_ context.Context, id string) (consensus.Rest, error) {
	rest := consensus.Rest{Silent: c.silent}
	c.store.View(func(v *store.View) { rest.Voters = managersBut(v, id) })
	return rest, nil
}

// fakeNodes are the addresses of servers by node ID; others are not connected.
type fakeNodes map[string]string

func (n fakeNodes) RoundTrip(r *http.Request) (*http.Response, error) {
	addr, ok := n[r.URL.Host]
	if !ok {
		return nil, fmt.Errorf("node %s is not connected to any manager", r.URL.Host)
	}
	r = r.Clone(r.Context())
	r.URL.Host = addr
	return http.DefaultTransport.RoundTrip(r)
}

func (c *fakeControl) Watched(context.Context) ([]string, []dispatcher.Lag, error) {
	return []string{"node1"}, []dispatcher.Lag{{Node: "node1", Network: "front", Held: 3, Revision: 4}}, nil
}

func (c *fakeControl) Nodes() http.RoundTripper { return c.nodes }

func (c *fakeControl) Store() *store.Store { return c.store }

func (c *fakeControl) Journal() *journal.Journal { return c.journal }

func (c *fakeControl) Barrier(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.barriers++
	return c.barrierErr
}

func (c *fakeControl) Leader() (string, string) { return "node1id", "192.0.2.1:2377" }

// rig is a server on a unix socket with a fake engine behind it.
type rig struct {
	t       testing.TB
	node    *fakeNode
	control *fakeControl
	engine  *fakeEngine
	server  *Server
	socket  string
	client  *http.Client
	hosts   []overlay.HostRoute
}

func newRig(t testing.TB) *rig {
	t.Helper()
	st, p := storetest.New()
	r := &rig{t: t, control: &fakeControl{Proposer: p, store: st, journal: journal.New(st)}, engine: newFakeEngine(t)}
	ctx, cancel := context.WithCancel(context.Background())
	written := make(chan error, 1)
	go func() { written <- r.control.journal.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-written })
	r.node = &fakeNode{control: r.control, status: Status{
		State: swarm.LocalNodeStateActive, NodeID: "node1id", NodeAddr: "192.0.2.1",
		Managers: []swarm.Peer{{NodeID: "anotherid", Addr: "192.0.2.2:2377"}, {NodeID: "node1id", Addr: "192.0.2.1:2377"}},
	}}
	r.server = New(Config{
		Node: r.node, Engine: "unix://" + r.engine.socket, Version: "0.1.0", Logger: slog.New(slog.DiscardHandler),
		HostRoutes: func() ([]overlay.HostRoute, error) { return r.hosts, nil },
		Observer:   fakeObserver{}, GossipPort: 7946, ResolvConf: "/run/resolv.conf",
	})
	r.socket = filepath.Join(t.TempDir(), "meshd.sock")
	serve(t, r.socket, r.server.Serve)
	r.client = clientOf(r.socket)
	r.seed()
	r.allocate()
	return r
}

// serve runs a server on a unix socket until the test ends, and waits for it.
func serve(t testing.TB, socket string, run func(context.Context, net.Listener) error) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
}

func clientOf(socket string) *http.Client {
	var d net.Dialer
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialContext(ctx, "unix", socket)
		},
	}}
}

// seed makes a swarm of two nodes with a mesh network.
func (r *rig) seed() {
	r.t.Helper()
	limit := int64(5)
	cluster := &store.Cluster{}
	cluster.ID, cluster.DataPathPort = "clusterid", 4789
	cluster.Spec.Name = "default"
	cluster.Spec.Orchestration.TaskHistoryRetentionLimit = &limit
	cluster.Spec.CAConfig.SigningCAKey = "a secret key"
	cluster.JoinTokens = swarm.JoinTokens{Worker: "SWMTKN-1-digest-workersecret", Manager: "SWMTKN-1-digest-managersecret"}
	ingress := &store.Network{VNI: 4096, Ready: true}
	ingress.ID, ingress.Spec.Name, ingress.Spec.Ingress = "ingressid", "ingress", true
	ingress.IPAMOptions = &swarm.IPAMOptions{Configs: []swarm.IPAMConfig{{Subnet: netip.MustParsePrefix("10.255.0.0/16"), Gateway: netip.MustParseAddr("10.255.0.1")}}}
	r.create(cluster, ingress,
		testNode("node1id", "node1", swarm.NodeRoleManager, swarm.NodeStateReady),
		testNode("node2id", "node2", swarm.NodeRoleWorker, swarm.NodeStateReady))
}

func testNode(id, host string, role swarm.NodeRole, state swarm.NodeState) *store.Node {
	n := &store.Node{}
	n.ID, n.Spec.Role, n.Spec.Availability, n.Status.State = id, role, swarm.NodeAvailabilityActive, state
	n.Description.Hostname = host
	n.Description.Engine.EngineVersion = "20.10.24"
	if role == swarm.NodeRoleManager {
		n.ManagerStatus = &swarm.ManagerStatus{Reachability: swarm.ReachabilityReachable, Addr: "192.0.2.1:2377"}
	}
	return n
}

func (r *rig) create(objects ...store.Object) {
	r.t.Helper()
	r.change(func(tx *store.Tx) error {
		for _, o := range objects {
			tx.Create(o)
		}
		return nil
	})
}

func (r *rig) change(fn func(*store.Tx) error) {
	r.t.Helper()
	if err := store.Transact(context.Background(), r.control.store, r.control, fn); err != nil {
		r.t.Fatal(err)
	}
}

// Propose also does the allocator's work on services, at once: a client's version
// of a service would go stale under it otherwise, as it may in life.
func (c *fakeControl) Propose(ctx context.Context, b store.Batch) (uint64, error) {
	index, err := c.Proposer.Propose(ctx, b)
	if err != nil {
		return index, err
	}
	for _, change := range b.Changes {
		if change.Kind == store.KindService {
			err = store.Transact(ctx, c.store, c.Proposer, func(tx *store.Tx) error {
				allocateService(tx, tx.Service(change.Key))
				return nil
			})
		}
	}
	return index, err
}

// allocate gives every new network a subnet, as the allocator would.
func (r *rig) allocate() {
	w := r.control.store.Watch(nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for c := range w.C {
			for _, e := range c.Events {
				if o, ok := e.New.(*store.Network); ok {
					_ = store.Transact(context.Background(), r.control.store, r.control, func(tx *store.Tx) error {
						allocateNetwork(tx, tx.Network(o.ID))
						return nil
					})
				}
			}
		}
	}()
	r.t.Cleanup(func() { w.Close(); <-done })
}

func allocateNetwork(tx *store.Tx, n *store.Network) {
	if n == nil || n.Ready {
		return
	}
	next := *n
	if reason := n.Spec.Labels["refuse"]; reason != "" {
		if next.Error = reason; n.Error == "" {
			tx.Update(&next)
		}
		return
	}
	next.Ready, next.VNI = true, 4097
	next.IPAMOptions = &swarm.IPAMOptions{Configs: n.Spec.IPAMOptions.Configs}
	if len(next.IPAMOptions.Configs) == 0 {
		next.IPAMOptions.Configs = []swarm.IPAMConfig{{Subnet: netip.MustParsePrefix("10.0.0.0/24"), Gateway: netip.MustParseAddr("10.0.0.1")}}
	}
	tx.Update(&next)
}

func allocateService(tx *store.Tx, s *store.Service) {
	if s == nil || s.Spec.EndpointSpec == nil || len(s.Endpoint.Ports) == len(s.Spec.EndpointSpec.Ports) {
		return
	}
	next := *s
	next.Endpoint = swarm.Endpoint{Spec: *s.Spec.EndpointSpec, Ports: s.Spec.EndpointSpec.Ports}
	tx.Update(&next)
}

// answer is what came back for a request.
type answer struct {
	t      testing.TB
	status int
	header http.Header
	body   []byte
}

func (r *rig) do(method, path string, body any, header ...string) answer {
	r.t.Helper()
	var in io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		in = strings.NewReader(b)
	default:
		data, err := json.Marshal(b)
		if err != nil {
			r.t.Fatal(err)
		}
		in = bytes.NewReader(data)
	}
	req, err := http.NewRequest(method, "http://docker"+path, in)
	if err != nil {
		r.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := r.client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return answer{r.t, res.StatusCode, res.Header, data}
}

// want checks status and a part of the error message.
func (a answer) want(status int, text string) answer {
	a.t.Helper()
	if a.status != status {
		a.t.Fatalf("status %d, want %d: %s", a.status, status, a.body)
	}
	if status >= http.StatusBadRequest {
		var m struct{ Message string }
		if err := json.Unmarshal(a.body, &m); err != nil || m.Message == "" {
			a.t.Fatalf("the error body is %q", a.body)
		}
		if !strings.Contains(m.Message, text) {
			a.t.Fatalf("message %q, want %q in it", m.Message, text)
		}
	} else if !strings.Contains(string(a.body), text) {
		a.t.Fatalf("body %q, want %q in it", a.body, text)
	}
	return a
}

func decode[T any](a answer) T {
	a.t.Helper()
	var v T
	if err := json.Unmarshal(a.body, &v); err != nil {
		a.t.Fatalf("decode %q: %v", a.body, err)
	}
	return v
}

func sortedWords(s string) []string {
	words := strings.Fields(s)
	slices.Sort(words)
	return words
}
