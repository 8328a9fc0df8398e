package meshd

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/meshd/meshd/dns"
	"github.com/meshd/meshd/ipvs"
	"github.com/meshd/meshd/meshd/plan"
	"github.com/meshd/meshd/orchestrator/agent"
	"github.com/meshd/meshd/overlay"
)

// The parts of the data plane as this package drives them.
type (
	overlayPart interface{ Set(overlay.State) error }
	dnsPart     interface{ Set(dns.State) }
	ipvsPart    interface{ Set(ipvs.State) error }
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
	// selfAddr is the node's underlay address; surroundings says what the machine
	// around us is like now: its addresses and resolvers.
	surroundings func() (addrs []netip.Addr, upstreams []netip.AddrPort)
	wake         chan struct{}

	mu       sync.Mutex
	self     string
	selfAddr netip.Addr
	view     agent.View
	held     map[string]uint64 // network ID -> revision that the kernel holds
	changed  chan struct{}     // closed and replaced whenever held changes
}

func newDataplane(o overlayPart, d dnsPart, b ipvsPart, log *slog.Logger) *dataplane {
	return &dataplane{
		overlay: o, dns: d, ipvs: b, log: log,
		surroundings: surroundings,
		wake:         make(chan struct{}, 1),
		held:         map[string]uint64{},
		changed:      make(chan struct{}),
	}
}

// join tells who this node is; leave forgets everything that it was told.
func (d *dataplane) join(self string, addr netip.Addr) { d.reset(self, addr) }
func (d *dataplane) leave()                            { d.reset("", netip.Addr{}) }

func (d *dataplane) reset(self string, addr netip.Addr) {
	d.mu.Lock()
	d.self, d.selfAddr, d.view = self, addr, agent.View{}
	d.held = map[string]uint64{}
	d.mu.Unlock()
	d.poke()
}

// Update implements agent.Dataplane.
func (d *dataplane) Update(v agent.View) {
	d.mu.Lock()
	d.view = v
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
// machine's own addresses and resolvers are looked at.
const (
	firstRetry  = 100 * time.Millisecond
	lastRetry   = 5 * time.Second
	lookAround  = 10 * time.Second
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
// the balancers that lead to them, and names last.
func (d *dataplane) apply() error {
	d.mu.Lock()
	self, selfAddr, view := d.self, d.selfAddr, d.view
	d.mu.Unlock()
	addrs, upstreams := d.surroundings()
	out := plan.Compile(plan.Input{
		Self: self, SelfAddr: selfAddr,
		Nodes: view.Nodes, Networks: view.Networks, Tasks: view.Tasks,
		NodeAddrs: addrs, Upstreams: upstreams,
	})
	if err := d.overlay.Set(out.Overlay); err != nil {
		return fmt.Errorf("overlay: %w", err)
	}
	if err := d.ipvs.Set(out.IPVS); err != nil {
		return fmt.Errorf("load balancer: %w", err)
	}
	d.dns.Set(out.DNS)
	d.hold(self, view)
	return nil
}

// hold records that the kernel has what the view asks for.
func (d *dataplane) hold(self string, view agent.View) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.self != self {
		return // left or joined meanwhile
	}
	held := make(map[string]uint64, len(view.Networks))
	for _, n := range view.Networks {
		held[n.ID] = n.Revision
	}
	d.held = held
	close(d.changed)
	d.changed = make(chan struct{})
}

// surroundings reads the machine's addresses and resolvers.
func surroundings() ([]netip.Addr, []netip.AddrPort) {
	var addrs []netip.Addr
	if ifs, err := hostInterfaces(); err == nil {
		for _, i := range ifs {
			addrs = append(addrs, i.Addrs...)
		}
	}
	return addrs, dns.SystemUpstreams(systemResolvConf)
}

const systemResolvConf = "/etc/resolv.conf"
