package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	_ "net/http/pprof" // served with -pprof
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/moby/moby/api/types/swarm"
	"golang.org/x/sync/errgroup"

	"github.com/meshd/meshd/certs"
	"github.com/meshd/meshd/meshd"
	"github.com/meshd/meshd/orchestrator/admission"
	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/tasklife"
)

// meshSubnet has an address for each of a million tasks; the usual one has 65,000.
const meshSubnet = "10.128.0.0/12"

// tellEvery is how often a process tells how things are.
const tellEvery = 50 * time.Millisecond

// managerState is what a manager tells.
type managerState struct {
	NodeID string
	// Ready: it has caught up with the others.
	Ready bool
	Leads bool
	// Nodes that are ready, and Down.
	Nodes, Down int
	// Tasks that are to run, and those of them that Run.
	Tasks, Run int
	// Stray are tasks that are to run on nodes that are down.
	Stray int
}

// runManager is a manager's process; it founds a cluster, joins one, or takes up
// the state that it left.
func runManager(ctx context.Context, args []string) error {
	f := flag.NewFlagSet(roleManager, flag.ContinueOnError)
	dir := f.String("dir", "", "state")
	at := f.String("addr", "", "control port, host:port")
	join := f.String("join", "", "a manager to join, host:port")
	token := f.String("token", "", "join token")
	profiles := f.Bool("pprof", false, "serve profiles")
	if err := f.Parse(args); err != nil {
		return err
	}
	addr, err := netip.ParseAddrPort(*at)
	if err != nil {
		return err
	}
	if *profiles {
		if err := serveProfiles(); err != nil {
			return err
		}
	}
	keeper, founded, err := identity(ctx, *dir, addr, *join, *token)
	if err != nil {
		return err
	}
	m, err := meshd.OpenStandalone(meshd.Config{
		StateDir: *dir, Socket: socketOf(*dir), Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}, addr, keeper)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.Run(ctx) })
	g.Go(func() error {
		return newNode(addr.String(), addr.Addr(), []string{addr.String()}).with(keeper).run(ctx)
	})
	g.Go(func() error {
		if err := enter(ctx, m, founded, *join); err != nil {
			return err
		}
		return tellManager(ctx, m, keeper.Identity().NodeID, os.Stdout)
	})
	return g.Wait()
}

func socketOf(dir string) string { return filepath.Join(dir, "api.sock") }

func serveProfiles() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "profiles of %d: http://%s/debug/pprof/\n", os.Getpid(), l.Addr())
	go http.Serve(l, nil)
	return nil
}

// identity is the certificate that is in dir, a new cluster's or that of a joiner.
func identity(ctx context.Context, dir string, addr netip.AddrPort, join, token string) (*certs.Keeper, *admission.Found, error) {
	certDir := filepath.Join(dir, "certificates")
	if k, err := certs.Load(certDir, nil); err == nil {
		return k, nil, nil
	}
	if join == "" {
		found, err := admission.NewCluster(admission.Founder{
			Request:     swarm.InitRequest{Availability: swarm.NodeAvailabilityDrain},
			Description: describe(addr.String(), 0), Addr: addr.String(), DataAddr: addr.Addr(), MeshSubnet: netip.MustParsePrefix(meshSubnet),
		})
		if err != nil {
			return nil, nil, err
		}
		k, err := certs.Create(certDir, found.KeyPEM, found.CertPEM, found.RootPEM)
		return k, &found, err
	}
	k, _, err := joinAs(ctx, certDir, join, token, admission.Candidate{
		Description: describe(addr.String(), 0), Addr: addr.String(), DataAddr: addr.Addr(), Availability: swarm.NodeAvailabilityDrain,
	})
	return k, nil, err
}

// joinAs has a cluster admit a machine.
func joinAs(ctx context.Context, certDir, manager, token string, c admission.Candidate) (*certs.Keeper, []swarm.Peer, error) {
	t, err := certs.ParseToken(token)
	if err != nil {
		return nil, nil, err
	}
	in, err := admission.Join(ctx, manager, t, c)
	if err != nil {
		return nil, nil, err
	}
	k, err := certs.Create(certDir, in.KeyPEM, in.CertPEM, in.RootPEM)
	return k, in.Managers, err
}

// enter brings a manager that runs in among the others.
func enter(ctx context.Context, m *meshd.Standalone, founded *admission.Found, join string) error {
	if founded != nil {
		if err := m.Bootstrap(); err != nil {
			return err
		}
		_, err := m.Propose(ctx, founded.Batch)
		return err
	}
	if join != "" {
		return m.Enter(ctx, join)
	}
	return nil
}

// tellManager follows the manager's store and tells of it until ctx ends.
func tellManager(ctx context.Context, m *meshd.Standalone, id string, w io.Writer) error {
	barrier, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := m.Barrier(barrier); err != nil {
		return err
	}
	s := managerState{NodeID: id, Ready: true}
	c := newCensus()
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	enc := json.NewEncoder(w)
	for {
		watch := m.Store().Watch(c.reset)
		for open := true; open; {
			select {
			case <-ctx.Done():
				watch.Close()
				return nil
			case commit, ok := <-watch.C:
				open = ok
				for _, e := range commit.Events {
					c.observe(e)
				}
			case <-tick.C:
				next := c.state
				next.NodeID, next.Ready, next.Leads = id, true, m.IsLeader()
				if next == s {
					continue
				}
				s = next
				if err := enc.Encode(s); err != nil {
					return errors.Join(err, errors.New("nobody listens"))
				}
			}
		}
	}
}

// census counts what a store holds as it changes.
type census struct {
	state managerState
	down  map[string]bool
	// on are the tasks that are to run, by node.
	on map[string]map[string]bool
}

func newCensus() *census { return &census{} }

func (c *census) reset(v *store.View) {
	*c = census{down: map[string]bool{}, on: map[string]map[string]bool{}}
	for _, n := range v.Nodes() {
		c.observe(store.Event{New: n})
	}
	for _, t := range v.Tasks() {
		c.observe(store.Event{New: t})
	}
}

func (c *census) observe(e store.Event) {
	switch o := e.Object().(type) {
	case *store.Node:
		if old, ok := e.Old.(*store.Node); ok {
			c.node(old, -1)
		}
		if e.New != nil {
			c.node(o, 1)
		}
	case *store.Task:
		if old, ok := e.Old.(*store.Task); ok {
			c.task(old, -1)
		}
		if e.New != nil {
			c.task(o, 1)
		}
	}
}

func (c *census) node(n *store.Node, sign int) {
	down := n.Status.State == swarm.NodeStateDown
	if down {
		c.state.Down += sign
		c.state.Stray += sign * len(c.on[n.ID])
	} else if n.Status.State == swarm.NodeStateReady {
		c.state.Nodes += sign
	}
	c.down[n.ID] = down && sign > 0
}

func (c *census) task(t *store.Task, sign int) {
	if !tasklife.Wanted(t) {
		return
	}
	c.state.Tasks += sign
	if t.Status.State == swarm.TaskStateRunning {
		c.state.Run += sign
	}
	if t.NodeID == "" {
		return
	}
	if c.down[t.NodeID] {
		c.state.Stray += sign
	}
	if c.on[t.NodeID] == nil {
		c.on[t.NodeID] = map[string]bool{}
	}
	if sign > 0 {
		c.on[t.NodeID][t.ID] = true
	} else {
		delete(c.on[t.NodeID], t.ID)
	}
}
