package consensus

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/meshd/meshd/certs"
	"github.com/meshd/meshd/certs/certstest"
	"github.com/meshd/meshd/orchestrator/remote"
	"github.com/meshd/meshd/orchestrator/store"
)

// marker is in every object that the tests store; it must not be on disk in the clear.
const marker = "PLAINTEXT-MARKER-OF-THE-TEST"

// peer is one manager: real TCP, real TLS, real disk.
type peer struct {
	*Node
	id, addr, dir string
	store         *store.Store
	client        *remote.Client
	keeper        *certs.Keeper
	faults        func(raft.LogStore) raft.LogStore
	// down ends it at once, stop as a daemon ends.
	down, stop func()
}

type cluster struct {
	t     *testing.T
	ca    *certs.CA
	peers []*peer
}

func newCluster(t *testing.T, size int) *cluster {
	t.Helper()
	ca, err := certs.NewCA()
	must(t, err)
	c := &cluster{t: t, ca: ca}
	t.Cleanup(func() {
		for _, p := range c.peers {
			p.down()
		}
	})
	for range size {
		c.grow(t.TempDir())
	}
	return c
}

// grow adds a manager that keeps its data in dir; the first makes the cluster.
func (c *cluster) grow(dir string) *peer {
	c.t.Helper()
	p := c.prepare(fmt.Sprint("node", len(c.peers)+1), dir)
	c.start(p)
	c.peers = append(c.peers, p)
	if len(c.peers) == 1 {
		must(c.t, p.Bootstrap())
	} else {
		c.admit(c.peers[0], p)
	}
	return p
}

// admit has a manager give another one its vote, which may take several tries.
func (c *cluster) admit(lead, p *peer) {
	c.t.Helper()
	eventually(c.t, time.Minute, p.id+" has a vote", func() bool {
		if err := lead.AddVoter(ctx(c.t), p.id, p.addr); err != nil {
			c.t.Log(err)
		}
		m, _ := lead.member(p.id)
		return m.Voter
	})
}

// prepare gives a node its certificate and an address that stays its own.
func (c *cluster) prepare(id, dir string) *peer {
	c.t.Helper()
	k := certstest.Keeper(c.t, c.ca, filepath.Join(dir, "certs"), id, certs.RoleManager)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(c.t, err)
	addr := l.Addr().String()
	l.Close()
	return &peer{id: id, addr: addr, dir: filepath.Join(dir, "raft"), keeper: k, down: func() {}, stop: func() {}}
}

// start runs the node from what is on its disk.
func (c *cluster) start(p *peer) {
	c.t.Helper()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})).With("node", p.id)
	srv := remote.NewServer(remote.Config{Keeper: p.keeper, Logger: log})
	must(c.t, srv.Listen(p.addr))
	life, end := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(life) }()
	p.store, p.client = store.New(), remote.NewClient(p.keeper)
	n, err := Open(Config{
		Dir: p.dir, NodeID: p.id, Addr: p.addr, Store: p.store, Server: srv, Client: p.client,
		Fatal: func(err error) { c.t.Error(err) }, Logger: log,
		faults: p.faults,
	})
	must(c.t, err)
	p.Node = n
	ran := make(chan error, 1)
	go func() { ran <- n.Run(life) }()
	p.stop = func() {
		end()
		if err := <-served; err != nil {
			c.t.Error(err)
		}
		<-ran
		p.client.Close()
		p.down, p.stop = func() {}, func() {}
	}
	p.down = func() {
		must(c.t, n.Close())
		p.stop()
	}
}

// leader waits until exactly one of the peers leads and the others agree.
func (c *cluster) leader(among ...*peer) *peer {
	c.t.Helper()
	var lead *peer
	eventually(c.t, time.Minute, "one leader", func() bool {
		lead = nil
		for _, p := range among {
			if p.IsLeader() {
				lead = p
			}
		}
		if lead == nil {
			return false
		}
		for _, p := range among {
			if id, _ := p.Leader(); id != lead.id {
				return false
			}
		}
		return true
	})
	return lead
}

func (c *cluster) others(p *peer) []*peer {
	var out []*peer
	for _, q := range c.peers {
		if q != p {
			out = append(out, q)
		}
	}
	return out
}

func ctx(t *testing.T) context.Context {
	c, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	t.Cleanup(cancel)
	return c
}

func createConfig(name string) store.Batch {
	o := &store.Config{}
	o.ID, o.Spec.Name, o.Spec.Data = store.NewID(), name, []byte(marker)
	o.Spec.Labels = map[string]string{"marker": marker}
	return store.Batch{Time: time.Now().UTC(), Changes: []store.Change{
		{Action: store.Create, Kind: o.Kind(), Key: o.Key(), Object: o},
	}}
}

func has(s *store.Store, name string) bool {
	found := false
	s.View(func(v *store.View) {
		for _, c := range v.Configs() {
			found = found || c.Spec.Name == name
		}
	})
	return found
}

func count(s *store.Store) int {
	n := 0
	s.View(func(v *store.View) { n = len(v.Configs()) })
	return n
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually polls, which is the only use of a pause in these tests.
func eventually(t *testing.T, d time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(d); ; {
		if ok() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", d, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
