package admission

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/certs"
	"github.com/meshd/meshd/orchestrator/consensus"
	"github.com/meshd/meshd/orchestrator/remote"
	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/overlay/ipam"
)

// host is one machine: real TCP, real TLS, real raft on disk.
type host struct {
	id, addr string
	dir      string
	keeper   *certs.Keeper
	client   *remote.Client
	store    *store.Store
	raft     *consensus.Node
	down     func()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func ctx(t *testing.T) context.Context {
	c, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return c
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().String()
}

// start brings a manager up, as the daemon does.
func start(t *testing.T, k *certs.Keeper, dir, addr string) *host {
	t.Helper()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	h := &host{
		id: k.Identity().NodeID, addr: addr, dir: dir, keeper: k,
		client: remote.NewClient(k), store: store.New(),
	}
	srv := remote.NewServer(remote.Config{Keeper: k, Logger: log})
	var err error
	h.raft, err = consensus.Open(consensus.Config{
		Dir: filepath.Join(dir, "raft"), NodeID: h.id, Addr: addr,
		Store: h.store, Server: srv, Client: h.client, Fatal: func(err error) { t.Error(err) }, Logger: log,
	})
	must(t, err)
	New(Config{Store: h.store, Raft: h.raft, Client: h.client, Logger: log}).Register(srv)
	must(t, srv.Listen(addr))
	life, end := context.WithCancel(context.Background())
	served, ran := make(chan error, 1), make(chan error, 1)
	go func() { served <- srv.Serve(life) }()
	go func() { ran <- h.raft.Run(life) }()
	h.down = func() {
		end()
		<-served
		<-ran
		h.client.Close()
		h.down = func() {}
	}
	t.Cleanup(func() { h.down() })
	return h
}

// found makes a cluster of one manager.
func found(t *testing.T) *host {
	t.Helper()
	addr, dir := freeAddr(t), t.TempDir()
	f, err := NewCluster(Founder{
		Description: swarm.NodeDescription{Hostname: "first"}, Addr: addr, DataAddr: netip.MustParseAddr("127.0.0.1"),
	})
	must(t, err)
	k, err := certs.Create(filepath.Join(dir, "certs"), f.KeyPEM, f.CertPEM, f.RootPEM)
	must(t, err)
	h := start(t, k, dir, addr)
	must(t, h.raft.Bootstrap())
	_, err = h.raft.Propose(ctx(t), f.Batch)
	must(t, err)
	return h
}

func (h *host) cluster() (c *store.Cluster) {
	h.store.View(func(v *store.View) { c = v.Cluster() })
	return c
}

func (h *host) node(id string) (n *store.Node) {
	h.store.View(func(v *store.View) { n = v.Node(id) })
	return n
}

func (h *host) nodes() (n int) {
	h.store.View(func(v *store.View) { n = len(v.Nodes()) })
	return n
}

func parse(t *testing.T, text string) certs.Token {
	t.Helper()
	token, err := certs.ParseToken(text)
	must(t, err)
	return token
}

// addManager joins a manager the whole way.
func addManager(t *testing.T, at *host) *host {
	t.Helper()
	addr, dir := freeAddr(t), t.TempDir()
	j, err := Join(ctx(t), at.addr, parse(t, at.cluster().JoinTokens.Manager), Candidate{Addr: addr})
	must(t, err)
	k, err := certs.Create(filepath.Join(dir, "certs"), j.KeyPEM, j.CertPEM, j.RootPEM)
	must(t, err)
	h := start(t, k, dir, addr)
	must(t, JoinRaft(ctx(t), h.client, at.addr, addr))
	eventually(t, "the new manager knows the cluster", func() bool { return h.node(h.id) != nil })
	return h
}

// Docker's client sends a size of 24 whether the user did or not.
func TestAddrPool(t *testing.T) {
	for _, tc := range []struct {
		pools    string
		size     uint32
		want     string
		wantSize uint32
	}{
		{"", 0, "[]", 0},
		{"", 24, "[]", 0},
		{"", 20, "[10.0.0.0/8]", 20},
		{"10.0.0.0/8", 24, "[10.0.0.0/8]", 24},
		{"192.168.0.0/16", 0, "[192.168.0.0/16]", 24},
	} {
		r := swarm.InitRequest{SubnetSize: tc.size}
		if tc.pools != "" {
			r.DefaultAddrPool = []netip.Prefix{netip.MustParsePrefix(tc.pools)}
		}
		if pools, size := addrPool(r); fmt.Sprint(pools) != tc.want || size != tc.wantSize {
			t.Errorf("%+v: %v %d", tc, pools, size)
		}
	}
}

func TestNewCluster(t *testing.T) {
	h := found(t)
	c := h.cluster()
	if c.ID == "" || c.ID == store.ClusterID || c.Spec.Name != "default" || c.SubnetSize != 0 || c.DataPathPort != 4789 ||
		len(c.DefaultAddrPool) != 0 || c.LastVNI != 4096 ||
		*c.Spec.Orchestration.TaskHistoryRetentionLimit != 5 || c.Spec.Dispatcher.HeartbeatPeriod != 5*time.Second ||
		c.Spec.CAConfig.NodeCertExpiry != 90*24*time.Hour || c.TLSInfo.TrustRoot != string(c.RootCert) {
		t.Errorf("cluster %+v", c)
	}
	if c.JoinTokens.Worker == c.JoinTokens.Manager {
		t.Error("one token for both roles")
	}
	n := h.node(h.id)
	if n == nil || n.Spec.Role != swarm.NodeRoleManager || n.Status.Addr != "127.0.0.1" || n.Hostname() != "first" ||
		n.ManagerStatus == nil || n.ManagerStatus.Addr != h.addr {
		t.Errorf("node %+v", n)
	}
	var in *store.Network
	h.store.View(func(v *store.View) { in = v.NetworkByName("ingress") })
	if in == nil || !in.Spec.Ingress || !in.Ready || in.VNI != 4096 ||
		in.IPAMOptions.Configs[0].Subnet.String() != "10.255.0.0/16" || in.IPAMOptions.Configs[0].Gateway.String() != "10.255.0.1" {
		t.Errorf("ingress %+v", in)
	}
	if in == nil || in.Spec.IPv6Enabled || len(in.IPAMOptions.Configs) != 1 {
		t.Errorf("ingress %+v on a machine without IPv6", in)
	}
	six, err := NewCluster(Founder{IPv6: true})
	must(t, err)
	mesh := six.Batch.Changes[2].Object.(*store.Network)
	if c := mesh.IPAMOptions.Configs; !mesh.Spec.IPv6Enabled || len(c) != 2 || c[1].Subnet != ipam.UniqueLocalMesh(six.ClusterID) ||
		c[1].Gateway != c[1].Subnet.Addr().Next() || c[0].Subnet.String() != "10.255.0.0/16" {
		t.Errorf("ingress %+v on a machine with IPv6", mesh.IPAMOptions)
	}
	locked, err := NewCluster(Founder{Request: swarm.InitRequest{AutoLockManagers: true}})
	must(t, err)
	if c := locked.Batch.Changes[0].Object.(*store.Cluster); c.UnlockKey == "" || !c.Spec.EncryptionConfig.AutoLockManagers {
		t.Error("a cluster with autolock has no unlock key")
	}
	for _, f := range []Founder{
		{Request: swarm.InitRequest{Spec: swarm.Spec{CAConfig: swarm.CAConfig{NodeCertExpiry: time.Minute}}}},
	} {
		if _, err := NewCluster(f); err == nil {
			t.Errorf("founded with %+v", f.Request)
		}
	}
}

func TestTokens(t *testing.T) {
	h, foreign := found(t), found(t)
	tokens := h.cluster().JoinTokens
	c := Candidate{Description: swarm.NodeDescription{Hostname: "w"}, Addr: "192.0.2.7:2377", DataAddr: netip.MustParseAddr("192.0.2.8")}

	j, err := Join(ctx(t), h.addr, parse(t, tokens.Worker), c)
	must(t, err)
	n := h.node(j.NodeID)
	if n == nil || n.Spec.Role != swarm.NodeRoleWorker || n.Status.Addr != "192.0.2.7" || n.DataAddr != c.DataAddr ||
		n.Spec.Availability != swarm.NodeAvailabilityActive || n.Hostname() != "w" {
		t.Errorf("node %+v", n)
	}
	if len(j.Managers) != 1 || j.Managers[0].Addr != h.addr || j.ClusterID != h.cluster().ID || j.DataPathPort != 4789 {
		t.Errorf("joined %+v", j)
	}
	before := h.nodes()

	_, err = Join(ctx(t), h.addr, parse(t, foreign.cluster().JoinTokens.Worker), c)
	if !errors.Is(err, certs.ErrForeign) || !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), h.addr) ||
		!strings.Contains(err.Error(), "belongs to another cluster") {
		t.Errorf("a foreign token: %v", err)
	}
	wrong := parse(t, tokens.Worker)
	wrong.Secret = strings.Repeat("0", len(wrong.Secret))
	refused := func(token certs.Token, what string) {
		_, err := Join(ctx(t), h.addr, token, c)
		if !errdefs.IsPermissionDenied(err) || err.Error() != "A valid join token is necessary to join this cluster" {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused(wrong, "a wrong secret")
	must(t, store.Transact(ctx(t), h.store, h.raft, func(tx *store.Tx) error { return RotateToken(tx, swarm.NodeRoleWorker) }))
	refused(parse(t, tokens.Worker), "a rotated token")
	if now := h.cluster().JoinTokens; now.Manager != tokens.Manager || now.Worker == tokens.Worker {
		t.Errorf("rotated the wrong one: %+v", now)
	}
	_, err = Join(ctx(t), freeAddr(t), parse(t, tokens.Worker), c)
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "cannot be reached") {
		t.Errorf("nobody listens: %v", err)
	}
	if h.nodes() != before {
		t.Errorf("%d nodes, there were %d: a refusal left something behind", h.nodes(), before)
	}
	_, err = Join(ctx(t), h.addr, parse(t, h.cluster().JoinTokens.Worker), c)
	must(t, err)
}

// A join whose answer was lost is repeated with the same request.
func TestJoinTwiceMakesOneNode(t *testing.T) {
	h := found(t)
	token := h.cluster().JoinTokens.Worker
	_, csr, err := certs.NewRequest()
	must(t, err)
	client := remote.NewJoinClient(parse(t, token))
	defer client.Close()
	var a, b joinReply
	in := joinRequest{Candidate: Candidate{Token: token}, CSR: csr}
	must(t, client.Call(ctx(t), h.addr, pathJoin, in, &a))
	must(t, client.Call(ctx(t), h.addr, pathJoin, in, &b))
	if a.NodeID != b.NodeID || h.nodes() != 2 {
		t.Errorf("%s, %s, %d nodes", a.NodeID, b.NodeID, h.nodes())
	}
	if n := a.Networks; len(n) != 1 || n[0].Name != "ingress" || n[0].Subnets[0].Prefix.String() != "10.255.0.0/16" {
		t.Errorf("it is told of the networks %+v", n)
	}
	in.Token = h.cluster().JoinTokens.Manager
	if err := client.Call(ctx(t), h.addr, pathJoin, in, &b); !errdefs.IsConflict(err) {
		t.Errorf("a worker became a manager by joining: %v", err)
	}
	in.CSR = []byte("x")
	if err := client.Call(ctx(t), h.addr, pathJoin, in, &b); !errdefs.IsInvalidArgument(err) {
		t.Errorf("no certificate request: %v", err)
	}
}

func TestManagersJoinRenewAndLeave(t *testing.T) {
	first := found(t)
	second := addManager(t, first)
	third := addManager(t, second) // by way of a follower
	must(t, third.raft.Barrier(ctx(t)))
	if len(third.raft.Members()) != 3 || third.nodes() != 3 {
		t.Fatalf("members %+v, %d nodes", third.raft.Members(), third.nodes())
	}
	if s := third.node(second.id).ManagerStatus; s == nil || s.Addr != second.addr {
		t.Errorf("the second's status: %+v", s)
	}

	was := third.keeper.NotAfter()
	must(t, Renew(ctx(t), third.client, first.addr, third.keeper))
	if third.keeper.Generation() != 1 || third.keeper.NotAfter().Before(was) {
		t.Error("not renewed")
	}

	// One is dead: another must not leave, unless forced.
	second.down()
	if err := Leave(ctx(t), third.client, first.addr, false); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("left though the quorum goes: %v", err)
	}
	if third.node(third.id).Spec.Role != swarm.NodeRoleManager {
		t.Error("the refusal changed the node")
	}
	second = start(t, second.keeper, second.dir, second.addr)
	eventually(t, "the quorum is safe again", func() bool {
		rest, err := first.raft.Without(ctx(t), first.id)
		return err == nil && rest.Quorum()
	})

	// The leader leaves, asking itself last of all.
	lead, rest := first, []*host{second, third}
	must(t, Leave(ctx(t), lead.client, lead.addr, false))
	lead.down()
	for _, h := range rest {
		must(t, h.raft.Barrier(ctx(t)))
		n := h.node(lead.id)
		if n.Spec.Role != swarm.NodeRoleWorker || n.ManagerStatus != nil || n.Status.State != swarm.NodeStateDown {
			t.Errorf("who left is %+v", n)
		}
		if len(h.raft.Members()) != 2 {
			t.Errorf("members %+v", h.raft.Members())
		}
	}
}

func TestRemovedNodeIsRefused(t *testing.T) {
	h := found(t)
	j, err := Join(ctx(t), h.addr, parse(t, h.cluster().JoinTokens.Worker), Candidate{})
	must(t, err)
	k, err := certs.Create(t.TempDir(), j.KeyPEM, j.CertPEM, j.RootPEM)
	must(t, err)
	client := remote.NewClient(k)
	defer client.Close()
	must(t, Renew(ctx(t), client, h.addr, k))
	if err := JoinRaft(ctx(t), client, h.addr, "127.0.0.1:1"); !errdefs.IsPermissionDenied(err) {
		t.Errorf("a worker joins raft: %v", err)
	}
	must(t, store.Transact(ctx(t), h.store, h.raft, func(tx *store.Tx) error {
		next := *tx.Cluster()
		next.BlockedNodes = map[string]time.Time{j.NodeID: time.Now().Add(time.Hour)}
		tx.Update(&next)
		tx.Remove(tx.Node(j.NodeID))
		return nil
	}))
	if err := Renew(ctx(t), client, h.addr, k); !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "removed from the swarm") {
		t.Errorf("a removed node renews: %v", err)
	}
}

func TestRolesTakesDemotedManagersOut(t *testing.T) {
	first := found(t)
	second := addManager(t, first)
	third := addManager(t, first)
	life, end := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- NewRoles(first.store, first.raft, slog.New(slog.DiscardHandler)).Run(life) }()
	must(t, store.Transact(ctx(t), first.store, first.raft, func(tx *store.Tx) error {
		n := *tx.Node(third.id)
		n.Spec.Role = swarm.NodeRoleWorker
		tx.Update(&n)
		return nil
	}))
	eventually(t, "the demoted manager is out of raft", func() bool { return len(first.raft.Members()) == 2 })
	end()
	must(t, <-done)
	// Only now does it get a worker's certificate.
	must(t, Renew(ctx(t), third.client, second.addr, third.keeper))
	if r := third.keeper.Identity().Role; r != certs.RoleWorker {
		t.Errorf("the demoted manager is a %s", r)
	}
}

func TestRecover(t *testing.T) {
	first := found(t)
	second := addManager(t, first)
	first.down()
	second.down()
	must(t, consensus.ForceNewCluster(consensus.Config{
		Dir: filepath.Join(second.dir, "raft"), NodeID: second.id, Addr: second.addr,
	}))
	second = start(t, second.keeper, second.dir, second.addr)
	must(t, second.raft.Barrier(ctx(t)))
	must(t, Recover(ctx(t), second.store, second.raft, second.id))
	n := second.node(first.id)
	if n.Spec.Role != swarm.NodeRoleWorker || n.ManagerStatus != nil || second.node(second.id).Spec.Role != swarm.NodeRoleManager {
		t.Errorf("after the recovery: %+v", n)
	}
	if _, blocked := second.cluster().BlockedNodes[first.id]; !blocked {
		t.Error("the lost manager is not blocked")
	}
	if err := Renew(ctx(t), first.client, second.addr, first.keeper); !errdefs.IsPermissionDenied(err) {
		t.Errorf("the lost manager is let in: %v", err)
	}
}
