package meshd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/meshd/meshd/dns"
	"github.com/meshd/meshd/ipvs"
	"github.com/meshd/meshd/meshd/observe"
	"github.com/meshd/meshd/meshd/plan"
	"github.com/meshd/meshd/orchestrator/agent"
	"github.com/meshd/meshd/overlay"
)

// The parts of the data plane as this package drives them.
type (
	overlayPart interface {
		Set(overlay.State) error
		TunnelLimit() int
	}
	dnsPart  interface{ Set(dns.State) }
	ipvsPart interface{ Set(ipvs.State) error }
)

// dataplane makes the three parts follow the newest view. The newest view wins:
// one that was overtaken is never applied.
//
// | goroutine | owns                                    | ends with |
// |-----------|-----------------------------------------|-----------|
// | Run       | calls to the parts, retries             | its ctx   |
type dataplane struct {
	overlay overlayPart
	dns     dnsPart
	ipvs    ipvsPart
	log     *slog.Logger
	// surroundings says what the machine around us is like now: its addresses and
	// resolvers.
	surroundings func() (interfaces []plan.Interface, upstreams []netip.AddrPort)
	// publishOn is plan.Input's.
	publishOn string
	// search are the domains that the machine completes names with.
	search func() []string
	// sockets are those that processes of the machine listen on.
	sockets func() ([]observe.Socket, error)
	// routes are the machine's own that no network may cover.
	routes   func() ([]overlay.HostRoute, error)
	clashes  clashes
	overlaps overlaps
	wake     chan struct{}
	// resolvConfPath is the tasks' resolv.conf, resolvConf what Run wrote there.
	resolvConfPath string
	resolvConf     string
	// compiler is Run's.
	compiler plan.Compiler

	mu   sync.Mutex
	self identity
	// blank: the node has just left, so that nothing is to be held. It differs
	// from not having been told anything yet.
	blank   bool
	view    agent.View
	dead    map[string]bool   // nodes that cannot serve right now
	held    map[string]uint64 // network ID -> revision that the kernel holds
	changed chan struct{}     // closed and replaced whenever held changes
	// behind is since when held is less than the view, by network ID.
	behind map[string]time.Time
}

func newDataplane(o overlayPart, d dnsPart, b ipvsPart, resolvConf string, log *slog.Logger) *dataplane {
	return &dataplane{
		overlay: o, dns: d, ipvs: b, log: log,
		surroundings: surroundings, search: func() []string { return dns.SystemSearch(systemResolvConf) }, resolvConfPath: resolvConf, sockets: observe.Sockets, routes: hostRoutes,
		wake:    make(chan struct{}, 1),
		held:    map[string]uint64{},
		changed: make(chan struct{}),
	}
}

// identity is what the data plane knows of its own node.
type identity struct {
	node string
	addr netip.Addr
	port uint16
}

// join tells who this node is; what the kernel holds stays until a manager has
// said what it should be.
func (d *dataplane) join(self identity) { d.reset(self, false) }

// leave empties the data plane.
func (d *dataplane) leave() { d.reset(identity{}, true) }

func (d *dataplane) reset(self identity, blank bool) {
	d.mu.Lock()
	d.self, d.blank, d.view, d.dead = self, blank, agent.View{}, nil
	d.held, d.behind = map[string]uint64{}, nil
	d.mu.Unlock()
	d.poke()
}

// Update implements agent.Dataplane.
func (d *dataplane) Update(v agent.View) {
	d.mu.Lock()
	d.view = v
	d.noteBehind(time.Now())
	d.mu.Unlock()
	d.poke()
}

func (d *dataplane) poke() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// Ready implements agent.Dataplane.
func (d *dataplane) Ready(ctx context.Context, network string, revision uint64) error {
	for {
		d.mu.Lock()
		held, ok := d.held[network]
		changed := d.changed
		d.mu.Unlock()
		if ok && held >= revision {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("network %s is not yet in this node's data plane: %w", network, ctx.Err())
		}
	}
}

// Held implements agent.Dataplane: what the kernel holds, and a channel
// that is closed when that changes.
func (d *dataplane) Held() (map[string]uint64, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	held := make(map[string]uint64, len(d.held))
	for id, rev := range d.held {
		held[id] = rev
	}
	return held, d.changed
}

// How long to wait before a failed state is tried again, and how often the
// machine's own addresses and resolvers are looked at although nobody told that
// they changed (machine.go).
const (
	firstRetry  = 100 * time.Millisecond
	lastRetry   = 5 * time.Second
	lookAround  = time.Minute
	retryFactor = 2
)

// Run applies views until ctx ends.
func (d *dataplane) Run(ctx context.Context) error {
	retry := firstRetry
	timer := time.NewTimer(lookAround)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.wake:
		case <-timer.C:
		}
		next := lookAround
		if err := d.apply(); err != nil {
			d.log.Error("data plane does not hold the newest state yet", "error", err, "retry", retry)
			next, retry = retry, min(retry*retryFactor, lastRetry)
		} else {
			retry = firstRetry
		}
		timer.Reset(next)
	}
}

// apply compiles the newest view and hands it to the parts. Routes come before
// the balancers that lead to them, and names last. What fails in one part does not
// keep the others from what they must not miss: that a task is gone.
func (d *dataplane) apply() error {
	d.mu.Lock()
	self, blank, view := d.self, d.blank, d.view
	d.mu.Unlock()
	if len(view.Nodes) == 0 && !blank {
		return nil // nobody has told us yet; what a former daemon left goes on
	}
	out := d.compiler.Compile(d.input(self, view))
	var errs []error
	if err := d.overlay.Set(out.Overlay); err != nil {
		errs = append(errs, fmt.Errorf("overlay: %w", err))
	}
	out.IPVS.TunnelLimit = d.overlay.TunnelLimit()
	if err := d.ipvs.Set(out.IPVS); err != nil {
		errs = append(errs, fmt.Errorf("load balancer: %w", err))
	}
	d.dns.Set(out.DNS)
	if err := d.writeResolvConf(out.DNS.Listen); err != nil {
		errs = append(errs, err)
	}
	err := errors.Join(errs...)
	failed, confined := failedNetworks(err)
	if !confined {
		return err
	}
	d.hold(self, view, failed)
	d.noteClashes(out.IPVS, time.Now())
	d.noteOverlaps(view.Networks, time.Now())
	return err
}

// failedNetworks are the VNIs that an error of the parts concerns; confined: it concerns
// nothing else.
func failedNetworks(err error) (vnis map[uint32]bool, confined bool) {
	vnis = map[uint32]bool{}
	switch err := err.(type) { //nolint:errorlint // every branch of the tree is looked at
	case nil:
		return vnis, true
	case *overlay.NetworkError:
		vnis[err.VNI] = true
		return vnis, true
	case *ipvs.NetworkError:
		vnis[err.VNI] = true
		return vnis, true
	case interface{ Unwrap() error }:
		return failedNetworks(err.Unwrap())
	case interface{ Unwrap() []error }:
		for _, one := range err.Unwrap() {
			some, ok := failedNetworks(one)
			if !ok {
				return nil, false
			}
			maps.Copy(vnis, some)
		}
		return vnis, true
	}
	return nil, false
}

// input is all that the parts' states follow from.
func (d *dataplane) input(self identity, view agent.View) plan.Input {
	interfaces, upstreams := d.surroundings()
	return plan.Input{
		Self: self.node, SelfAddr: self.addr, DataPathPort: self.port, KeyEpoch: view.KeyEpoch,
		Nodes: view.Nodes, Dead: d.masked(), Networks: view.Networks, Tasks: view.Tasks,
		Interfaces: interfaces, PublishOn: d.publishOn, Upstreams: upstreams,
	}
}

// writeResolvConf tells tasks where their resolver is, and what the machine completes
// names with; that comes after names as they are (ndots:0). They mount the file, so
// it is written in place: a new file would not reach those that have the old one.
// One server is named though the resolver listens at an IPv6 address, too: some C
// libraries ask all that are named at once.
func (d *dataplane) writeResolvConf(resolvers []netip.AddrPort) error {
	var b strings.Builder
	if len(resolvers) > 0 {
		fmt.Fprintf(&b, "nameserver %s\n", resolvers[0].Addr())
	}
	if search := d.search(); len(search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(search, " "))
	}
	b.WriteString("options ndots:0\n")
	if b.String() == d.resolvConf || len(resolvers) == 0 {
		return nil
	}
	if err := os.WriteFile(d.resolvConfPath, []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("write the tasks' resolv.conf: %w", err)
	}
	d.resolvConf = b.String()
	return nil
}

// hold records that the kernel has what the view asks for, but for networks that failed:
// of those it has what it had.
func (d *dataplane) hold(self identity, view agent.View, failed map[uint32]bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.self != self {
		return // left or joined meanwhile
	}
	held := make(map[string]uint64, len(view.Networks))
	for _, n := range view.Networks {
		if !failed[n.VNI] {
			held[n.ID] = n.Revision
		} else if was, ok := d.held[n.ID]; ok {
			held[n.ID] = was
		}
	}
	d.held = held
	d.noteBehind(time.Now())
	close(d.changed)
	d.changed = make(chan struct{})
}
