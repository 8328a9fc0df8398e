// Package meshd is the daemon of one node: the one place where control plane
// and data plane are put together.
//
// Order of start, and why: the engine's plugin socket first, since an engine
// that starts its containers waits for it; the data plane next, so that what
// runs already goes on under our hands; then the API; last the membership,
// which makes use of all of them. Stop is the reverse. Nothing but the local
// sockets listens before the node is in a swarm.
//
// Containers, pinned programs and links outlive the daemon on purpose.
package meshd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	osuser "os/user" // user is taken
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/meshd/meshd/certs"
	"github.com/meshd/meshd/dns"
	"github.com/meshd/meshd/ipvs"
	"github.com/meshd/meshd/meshd/api"
	"github.com/meshd/meshd/meshd/observe"
	"github.com/meshd/meshd/meshd/plan"
	"github.com/meshd/meshd/orchestrator/runner"
	"github.com/meshd/meshd/overlay"
	"github.com/meshd/meshd/overlay/attach"
)

// Daemon is one running node.
type Daemon struct {
	cfg Config
	log *slog.Logger

	overlay  *overlay.Overlay
	datapath datapath
	driver   *attach.Driver
	balancer *ipvs.Keeper
	edge     *balancer // what balancer keeps
	resolver *dns.Server
	data     *dataplane
	runner   *runner.Runner
	observer *observe.Observer
	api      *api.Server

	// addrs is sent to when this machine's addresses may have changed.
	addrs chan struct{}

	// ctx is the daemon's life; memberships begun by a request live in it.
	ctx context.Context

	op   sync.Mutex // held during init, join, leave
	mu   sync.Mutex
	node *node // nil while in no swarm
	// failure is why the membership on disk could not be taken up; certs.ErrLocked
	// if the unlock key is needed.
	failure error
}

// Run is the whole life of a node's daemon. It returns when ctx ends, or when
// something that it cannot do without fails.
func Run(ctx context.Context, cfg Config) error {
	for _, dir := range []string{cfg.StateDir, cfg.driverDir(), cfg.RunDir, cfg.PluginDir, filepath.Dir(cfg.Socket)} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	d, err := newDaemon(ctx, cfg)
	if err != nil {
		return err
	}
	defer d.close()
	listeners, err := cfg.listenAPI()
	if err != nil {
		return err
	}
	g.Go(func() error { return d.driver.Run(ctx) })
	g.Go(func() error { return d.overlay.Run(ctx) })
	g.Go(func() error { return d.balancer.Run(ctx) })
	g.Go(func() error { return d.edge.Run(ctx) })
	g.Go(func() error { return d.resolver.Run(ctx) })
	g.Go(func() error { return d.data.Run(ctx) })
	g.Go(func() error { return watchMachine(ctx, systemResolvConf, d.lookAround, d.log) })
	for _, l := range listeners {
		g.Go(func() error { return d.api.Serve(ctx, l) })
	}
	if cfg.MetricsAddr != "" {
		g.Go(func() error { return d.observer.Serve(ctx, cfg.MetricsAddr) })
	}
	d.failure = d.resume(nil)
	switch {
	case errors.Is(d.failure, certs.ErrLocked):
		d.log.Warn("this manager is locked: \"docker swarm unlock\" takes up its place in the swarm")
	case d.failure != nil:
		d.log.Error("this node cannot take up its place in the swarm", "error", d.failure)
	}
	d.log.Info("meshd is up", "version", cfg.Version, "socket", cfg.Socket)
	return g.Wait()
}

func newDaemon(ctx context.Context, cfg Config) (*Daemon, error) {
	d := &Daemon{cfg: cfg, log: cfg.Logger, ctx: ctx, addrs: make(chan struct{}, 1)}
	err := checkMeshSubnet(cfg.MeshSubnet)
	if err != nil {
		return nil, err
	}
	if cfg.PublishOn != "" {
		if err = plan.CheckAddresses(cfg.PublishOn); err != nil {
			return nil, fmt.Errorf("addresses of published ports: %w", err)
		}
	}
	if err := d.openOverlay(); err != nil {
		return nil, fmt.Errorf("open the overlay data plane: %w", err)
	}
	d.driver, err = attach.New(attach.Config{
		Socket: cfg.pluginSocket(), Dir: cfg.driverDir(), Overlay: d.overlay, Logger: cfg.Logger,
	})
	if err != nil {
		return nil, fmt.Errorf("open the engine's network driver: %w", err)
	}
	if d.edge, err = newBalancer(cfg, d.overlay, d.datapath); err != nil {
		return nil, fmt.Errorf("open the load balancer: %w", err)
	}
	d.balancer = ipvs.NewKeeper(d.edge, ipvs.KeeperConfig{Logger: cfg.Logger})
	// Containers mount this file, and are made before the resolver's address is known.
	conf, err := os.OpenFile(cfg.resolvConf(), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("make the tasks' resolv.conf: %w", err)
	}
	if err := conf.Close(); err != nil {
		return nil, err
	}
	d.resolver = dns.New(dns.Config{Logger: cfg.Logger})
	d.data = newDataplane(d.overlay, d.resolver, d.balancer, cfg.resolvConf(), cfg.Logger)
	d.data.publishOn = cfg.PublishOn
	d.runner, err = runner.New(runner.Config{Socket: cfg.Engine, ResolvConf: cfg.resolvConf(), MemoryDir: cfg.tasksDir(),
		AllowPrivileged: cfg.AllowPrivileged, Logger: cfg.Logger})
	if err != nil {
		return nil, fmt.Errorf("open the engine's client: %w", err)
	}
	d.observer, err = observe.New(observe.Config{
		Sources: observe.Sources{
			Overlay: d.overlay, DataPath: d.datapath.String(), Keeper: d.balancer, Balancer: d.edge, Resolver: d.resolver,
			View: d.data.look, Member: d.member, Sockets: observe.Sockets, Overlap: d.data.Overlap,
			Maps: func() ([]observe.MapFill, error) { return mapFills(d.overlay, d.edge.edgeBalancer) },
		},
		Version: cfg.Version, Logger: cfg.Logger,
	})
	if err != nil {
		return nil, err
	}
	audit, err := cfg.openAudit()
	if err != nil {
		return nil, err
	}
	d.api = api.New(api.Config{
		Audit: audit,
		Node:  d, Engine: cfg.Engine, Version: cfg.Version, Logger: cfg.Logger, HostRoutes: hostRoutes,
		Observer: d.observer, Examiner: d, GossipPort: cfg.gossipPort(), ResolvConf: cfg.resolvConf(),
	})
	return d, nil
}

// lookAround tells those who depend on it that the machine has changed.
func (d *Daemon) lookAround() {
	d.data.poke()
	select {
	case d.addrs <- struct{}{}:
	default:
	}
}

// close lets go of the kernel's objects; they go on without us.
func (d *Daemon) close() {
	d.mu.Lock()
	n := d.node
	d.mu.Unlock()
	if n != nil && n.stop != nil {
		n.end()
	}
	if err := errors.Join(d.balancer.Close(), d.overlay.Close()); err != nil {
		d.log.Warn("closing the data plane", "error", err)
	}
}

// resume takes up the membership that a former run of the daemon left. A manager's
// may need the unlock key.
func (d *Daemon) resume(unlock certs.UnlockKey) error {
	m, err := loadMembership(d.cfg.membershipFile())
	if err != nil || m == nil {
		return err
	}
	vault, err := certs.OpenVault(d.cfg.raftDir(), unlock, false)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // workers have none
		return err
	}
	k, err := certs.Load(d.cfg.certDir(), vault)
	if err != nil {
		return fmt.Errorf("this node is in a swarm but its certificate is not readable: %w", err)
	}
	if ifs, err := hostInterfaces(); err == nil {
		*m, _ = m.moved(ifs) // while this daemon did not run
	}
	n, err := d.openNode(*m, k, vault)
	if err != nil {
		return err
	}
	d.startNode(n)
	return nil
}

// listenUnix opens the API's socket for root and a group only, replacing a dead
// daemon's. An empty group is root's.
func listenUnix(path, group string) (net.Listener, error) {
	gid, err := groupID(group)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove the old socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("open the API's socket: %w", err)
	}
	if err := cmp.Or(os.Chown(path, -1, gid), os.Chmod(path, 0o660)); err != nil {
		return nil, errors.Join(fmt.Errorf("give the API's socket to its group: %w", err), l.Close())
	}
	return l, nil
}

// groupID is the ID of a group that is given by its name or its ID; -1 for none: the
// daemon's own.
func groupID(group string) (int, error) {
	if group == "" {
		return -1, nil
	}
	if id, err := strconv.ParseUint(group, 10, 31); err == nil {
		return int(id), nil
	}
	g, err := osuser.LookupGroup(group)
	if err != nil {
		return 0, fmt.Errorf("group of the API's socket (--group): %w", err)
	}
	return strconv.Atoi(g.Gid)
}
