package overlay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/meshd/meshd/overlay/datapath"
	"github.com/meshd/meshd/overlay/link"
	"github.com/meshd/meshd/overlay/nft"
	"github.com/meshd/meshd/overlay/wireguard"
)

// Config is what an Overlay needs.
type Config struct {
	// RunDir holds the bpffs, at RunDir/bpf; New mounts it if nobody has.
	RunDir string
	// VXLANPort is the UDP port of the tunnels, the same on every node; 0 means
	// 4789 (IANA), which cannot be shared with another overlay on the machine.
	VXLANPort uint16
	// Resync is how often everything is compared with the kernel; 0 means 2 s. What
	// netlink tells of is noticed at once.
	Resync time.Duration
	// Direct lets packets to peers that take them so travel without encapsulation.
	Direct bool
	// Admit leads to lo what the load balancer lets the host's packet filter decide on,
	// once that has accepted it; see nft/admit.go and CanAdmit.
	Admit bool
	// KeyFile holds this node's WireGuard keys; empty: they live as long as the process.
	KeyFile string
	// WireGuardPort is the UDP port of encrypted packets, and the next one is, too,
	// which is used alternately; 0 means 51820.
	WireGuardPort uint16
	// KeyOverlap is how long a former WireGuard key is kept when nobody uses it any
	// more; 0 means 10 s.
	KeyOverlap time.Duration
	// NoTCX attaches programs as clsact filters even where there is tcx.
	NoTCX bool
	// Driver is one that Choose gave; empty: DriverEBPF. DriverBridge has no use for Direct,
	// Admit and NoTCX.
	Driver Driver
	Logger *slog.Logger
}

const (
	defaultVXLANPort     = 4789
	defaultWireGuardPort = 51820
	defaultResync        = 2 * time.Second
	// lookAround is how often the ways to all peers are asked for.
	lookAround = 30 * time.Second
	// settle is how long a disturbance is let settle before it is repaired.
	settle = 50 * time.Millisecond
	// leaked is how long an interface may lie in the node's namespace. The engine
	// moves it into the container within a second; one that came back belongs to a
	// container that ended while nobody could be told.
	leaked = 2 * time.Minute
)

// kernel is the edge: all that reads or changes the node.
type kernel interface {
	// facts reads what objects depend on. Paths to peers may be remembered ones,
	// unless fresh.
	facts(s State, fresh bool) (facts, error)
	// attached reads the containers' interfaces alone.
	attached() ([]port, error)
	// read reads all objects of ours.
	read(facts) (objects, error)
	// do carries out one operation.
	do(op) error
	// addPort makes a container's interface; one that is there is kept.
	addPort(a Attachment, mtu int) error
	// rejoinPort makes an interface anew that was deleted under a running container,
	// with default routes by gateways; false: the container has ended.
	rejoinPort(p port, mtu int, gateways []netip.Addr) (bool, error)
	// namespace opens the network namespace that the node knows by a number; nil: nobody is left in it.
	namespace(nsid int) (*os.File, error)
	// removePort removes it; one that is not there is no error.
	removePort(id string) error
	// putCipher makes a WireGuard device, and says how it stands with its peers.
	putCipher(d wireguard.Device, mtu int) (cipher, error)
	// removeCipher removes one.
	removeCipher(name string) error
	// drops counts dropped packets by reason.
	drops() (map[string]uint64, error)
	// ask sends a probe to each peer; moved says that a peer's MAC has changed.
	ask([]probe) (moved bool, err error)
	// answers gives when each peer's last answer came, by the monotonic clock.
	answers() (map[netip.Addr]time.Duration, error)
	close() error
}

// Overlay keeps a node's overlay networks.
type Overlay struct {
	cfg    Config
	kernel kernel

	mu sync.Mutex
	// state is the newest desired state, nil until the first Set.
	state *State
	// held is what the kernel holds as far as we know; nil: to be read.
	held objects
	// idle is since when an interface waits to be moved into its container.
	idle map[string]time.Time
	// ports are the interfaces that are in containers, by ID.
	ports map[string]port
	// probes are those to be sent, reached is what has come of them.
	probes  []probe
	reached map[netip.Addr]reach
	// ring holds this node's WireGuard keys; keysChanged is closed when they change.
	ring        *wireguard.Keyring
	keysChanged chan struct{}
	// moved is since when all peers have the newest keys, while there are older ones.
	moved time.Time
	// ciphers are the WireGuard devices as they were last.
	ciphers map[string]cipher

	// disturbed wakes Run: something changed, or did not get done.
	disturbed chan struct{}
	repairs   repairs
}

// New takes over what an earlier process left in the network namespace of this
// process, or makes it. It changes no network before the first Set.
func New(cfg Config) (*Overlay, error) {
	if cfg.VXLANPort == 0 {
		cfg.VXLANPort = defaultVXLANPort
	}
	if cfg.Resync == 0 {
		cfg.Resync = defaultResync
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Driver == DriverBridge {
		cfg.Direct, cfg.Admit = false, false
	}
	if cfg.WireGuardPort == 0 {
		cfg.WireGuardPort = defaultWireGuardPort
	}
	if cfg.KeyOverlap == 0 {
		cfg.KeyOverlap = defaultOverlap
	}
	ring, err := wireguard.OpenKeyring(cfg.KeyFile, cfg.WireGuardPort)
	if err != nil {
		return nil, fmt.Errorf("overlay: %w", err)
	}
	k, err := openKernel(cfg)
	if err != nil {
		return nil, fmt.Errorf("overlay: %w", err)
	}
	o := &Overlay{cfg: cfg, kernel: k, ring: ring, keysChanged: make(chan struct{}), disturbed: make(chan struct{}, 1)}
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.reconcile(true); err != nil {
		return nil, errors.Join(fmt.Errorf("overlay: %w", err), k.close())
	}
	if err := o.adoptDirect(); err != nil {
		return nil, errors.Join(fmt.Errorf("overlay: %w", err), k.close())
	}
	return o, nil
}

// Close lets go of the kernel's objects without removing any.
func (o *Overlay) Close() error { return o.kernel.close() }

// HooksPath is where the program array is pinned that the load balancer joins
// the data path through; see datapath/bpf/hook.h.
func (o *Overlay) HooksPath() string { return HooksPath(o.cfg.RunDir) }

// HooksPath is the same without an Overlay.
func HooksPath(runDir string) string { return filepath.Join(bpfDir(runDir), datapath.HooksName) }

func bpfDir(runDir string) string { return filepath.Join(runDir, "bpf") }

// Set replaces the desired state and returns when the kernel holds it, or with
// what could not be done, as NetworkErrors where that concerns single networks; Run
// goes on trying.
func (o *Overlay) Set(s State) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.state = &s
	return o.reconcile(false)
}

// facts are the kernel's, and what we found out ourselves. o.mu is held.
func (o *Overlay) facts(s State, fresh bool) (facts, error) {
	f, err := o.kernel.facts(s, fresh)
	f.asking, f.reached, f.keys = o.cfg.Direct, o.reached, o.ring.Public()
	ciphers := map[string]cipher{}
	for name, c := range f.ciphers {
		ciphers[name] = cipher{c.ifindex, o.ciphers[name].peers}
	}
	f.ciphers = ciphers
	return f, err
}

// desired is the newest state with what it leaves to the configuration.
func (o *Overlay) desired() State {
	if o.state == nil {
		return o.cfg.complete(State{})
	}
	return o.cfg.complete(*o.state)
}

func (c Config) complete(s State) State {
	if s.VXLANPort == 0 {
		s.VXLANPort = c.VXLANPort
	}
	return s
}

// reconcile makes the kernel equal to the newest state; reread compares with
// the kernel itself instead of what we know of it. o.mu is held.
func (o *Overlay) reconcile(reread bool) error {
	err := o.reconcileLocked(reread, reread)
	if err != nil {
		o.disturb()
	}
	return err
}

func (o *Overlay) reconcileLocked(reread, fresh bool) error {
	f, err := o.facts(o.desired(), fresh)
	if err != nil {
		return err
	}
	var drift map[object]bool
	if before := o.held; reread || o.held == nil || f.tunnel == 0 {
		if o.held, err = o.kernel.read(f); err != nil {
			o.held = nil
			return err
		}
		drift = drifted(before, o.held)
	}
	s := o.desired()
	f.live = o.live(f)
	put, removals := splitRemovals(o.allowed(diff(o.cfg.Driver.objects().devices(s, f, s.VXLANPort), o.held, 0, lastDeviceRank)))
	err = o.run(put)
	defer o.noteRepairs(drift, put)
	if len(put) > 0 {
		var ferr error
		if f, ferr = o.facts(s, false); ferr != nil {
			return errors.Join(err, ferr)
		}
		f.live = o.live(f)
	}
	err = errors.Join(err, o.putCiphers(s, &f))
	o.probes = probes(s, f)
	rest := o.allowed(diff(o.cfg.Driver.objects().rest(s, f, s.VXLANPort), o.held, lastDeviceRank+1, lastRank))
	err = errors.Join(err, o.run(rest), o.run(removals), o.removeCiphers(s, f))
	o.noteRepairs(drift, rest)
	return err
}

// live says whether there is an overlay: as the state says, or, before one is
// known, as an earlier process left it.
func (o *Overlay) live(f facts) bool {
	if o.state == nil {
		return f.tunnel != 0
	}
	return !o.state.empty()
}

func (o *Overlay) allowed(ops []op) []op {
	if o.state == nil {
		return withoutState(ops, o.held)
	}
	return ops
}

// run does what it can: one object's failure does not keep the others waiting.
func (o *Overlay) run(ops []op) error {
	var errs []error
	for _, op := range ops {
		if err := o.kernel.do(op); err != nil {
			errs = append(errs, op.blame(err))
			continue
		}
		if op.remove {
			delete(o.held, op.object)
		} else {
			o.held[op.object] = op.value
		}
	}
	return errors.Join(errs...)
}

// Run repairs what others change, and tries again what failed, until ctx ends.
func (o *Overlay) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watches := []func(context.Context, func()) error{link.Watch, nft.Watch}
	watched := make(chan error, len(watches))
	for _, watch := range watches {
		go func() { watched <- watch(ctx, o.disturb) }()
	}
	probed := make(chan struct{})
	go func() { defer close(probed); o.probe(ctx) }()
	o.repair(ctx)
	cancel()
	<-probed
	for range watches {
		if err := <-watched; err != nil {
			// Without notifications the resync still repaired, only later.
			o.cfg.Logger.Warn("network changes were not watched", "error", err)
		}
	}
	return nil
}

// CanAdmit tells whether this kernel can do what Config.Admit asks for.
func CanAdmit() bool { return nft.CanAdmit() }

func (o *Overlay) disturb() {
	select {
	case o.disturbed <- struct{}{}:
	default:
	}
}

// repair compares with the kernel now and then, and soon after a disturbance:
// the first of a series sets when, so that one that goes on holds nothing up.
func (o *Overlay) repair(ctx context.Context) {
	retry := backoff{first: 500 * time.Millisecond, most: lookAround}
	timer := time.NewTimer(o.cfg.Resync)
	defer timer.Stop()
	var looked time.Time
	soon := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-o.disturbed:
			if !soon {
				soon = true
				timer.Reset(settle)
			}
			continue
		case <-timer.C:
		}
		now := time.Now()
		fresh := soon || now.Sub(looked) >= lookAround
		if fresh {
			looked = now
		}
		soon = false
		if err := o.repairOnce(now, fresh); err != nil {
			o.cfg.Logger.Warn("overlay is incomplete", "error", err)
			timer.Reset(retry.next())
			continue
		}
		retry.reset()
		timer.Reset(o.cfg.Resync)
	}
}

func (o *Overlay) repairOnce(now time.Time, fresh bool) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return errors.Join(o.collect(now), o.rejoin(), o.reconcileLocked(true, fresh))
}

// collect removes interfaces that no container has any more. o.mu is held.
func (o *Overlay) collect(now time.Time) error {
	ports, err := o.kernel.attached()
	if err != nil {
		return err
	}
	idle := map[string]time.Time{}
	var errs []error
	for _, p := range ports {
		if !p.idle {
			continue
		}
		since, known := o.idle[p.ID]
		if !known {
			since = now
		}
		if now.Sub(since) < leaked {
			idle[p.ID] = since
			continue
		}
		o.cfg.Logger.Warn("removing an interface that no container has", "id", p.ID, "task", p.TaskID)
		errs = append(errs, o.kernel.removePort(p.ID))
	}
	o.idle = idle
	return errors.Join(errs...)
}
