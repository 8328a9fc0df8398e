package ebpf

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/meshd/meshd/ipvs"
)

// Config says where a node's balancer lives.
type Config struct {
	// HooksPath is the overlay's pinned program array, mesh_hooks.
	HooksPath string
	// PinDir is a directory on a bpffs for our own maps and links; it is made.
	PinDir string
	// CgroupPath is the root of the cgroup2 tree. Empty: a private mount of it.
	CgroupPath string
	// Connections is the number of connections that can be remembered, two entries
	// of about 170 bytes each. Default 65536.
	Connections uint32
	// Mode says where VIPs become backends; the default is ModeAuto.
	Mode Mode
	// Admit lets the host's packet filter decide on new connections to published
	// ports; somebody must lead what it accepts back to lo (overlay's Config.Admit).
	Admit bool
	// Logger gets what is not worth failing for; the default is slog's.
	Logger *slog.Logger
}

// Mode is a way to lead connections to VIPs.
type Mode string

// The modes. Packets are looked at in all of them: published ports, sockets that do
// not pass the hooks, and the first connection of an unknown container need that.
const (
	// ModeAuto leads sockets when they connect if the kernel can, else packets.
	ModeAuto Mode = "auto"
	// ModeSocket is ModeAuto, but a failure where the kernel cannot.
	ModeSocket Mode = "socket"
	// ModePacket leads packets only.
	ModePacket Mode = "packet"
)

// ErrUnknownMode is a Mode that is none of the above.
var ErrUnknownMode = errors.New("load balancer mode must be auto, socket or packet")

// flags are those of the map node.
func (c Config) flags() uint32 {
	var out uint32
	if c.Mode != ModePacket {
		out |= leadSockets
	}
	if c.Admit {
		out |= askFilter
	}
	return out
}

// rereadEvery is how long the maps are believed to hold what we put there.
const rereadEvery = 20 * time.Second

// Balancer is an ipvs.Balancer made of BPF programs. Its methods may be called
// from several goroutines.
type Balancer struct {
	config Config
	netns  uint64 // cookie of the node's network namespace

	mu      sync.Mutex // guards all below
	objects *objects
	held    *table // nil: to be read from the maps
	readAt  time.Time
	// countedAt is when connections were counted again.
	countedAt time.Time
	running   bool // our programs are in the slots
	carrying  bool // they leave connections to those before them
	// socketsLed: our programs are on the sockets, too.
	socketsLed bool
	names      map[ipvs.Key]string
}

var _ ipvs.Balancer = (*Balancer)(nil)

// New loads the programs, with the maps of an earlier process if it left any. They
// take over with the first Set. It must be called on a thread in the node's network
// namespace, which is the one whose processes reach published ports on 127.0.0.1.
func New(c Config) (*Balancer, error) {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Connections == 0 {
		c.Connections = 65536
	}
	switch c.Mode {
	case "":
		c.Mode = ModeAuto
	case ModeAuto, ModeSocket, ModePacket:
	default:
		return nil, fmt.Errorf("%w, not %q", ErrUnknownMode, c.Mode)
	}
	netns, err := netnsCookie()
	if err != nil {
		return nil, fmt.Errorf("identify network namespace: %w", err)
	}
	o, err := load(c)
	if err != nil {
		return nil, fmt.Errorf("load balancer programs: %w", err)
	}
	return &Balancer{config: c, netns: netns, objects: o}, nil
}

// Set makes the maps equal to the state. At the first call the programs then take
// over from those of an earlier process.
func (b *Balancer) Set(s ipvs.State) error {
	want, err := ipvs.Normalize(s)
	if err != nil {
		return fmt.Errorf("load balancer: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.beginCarryLocked()
	if err := b.refreshLocked(); err != nil {
		return fmt.Errorf("read load balancer maps: %w", err)
	}
	applied := b.held.apply(want)
	b.names = make(map[ipvs.Key]string, len(want.Services))
	for _, svc := range want.Services {
		b.names[svc.Key] = svc.Name
	}
	running := b.runLocked() // for all that could be written
	if applied != nil {
		b.held = nil // something is half done
		applied = fmt.Errorf("write load balancer maps: %w", applied)
	}
	return errors.Join(applied, running)
}

func (b *Balancer) refreshLocked() error {
	if b.held == nil || time.Since(b.readAt) >= rereadEvery {
		if err := b.rereadLocked(); err != nil {
			return err
		}
	}
	if time.Since(b.countedAt) < rereadEvery {
		return nil
	}
	b.countedAt = time.Now()
	return b.recount(b.held)
}

func (b *Balancer) rereadLocked() error {
	flags := b.config.flags()
	if b.carrying {
		flags |= carrying
	}
	t, err := read(&b.objects.balanceMaps, b.netns, flags)
	if err != nil {
		return err
	}
	b.held, b.readAt = t, time.Now()
	return nil
}

// runLocked puts the programs where they work. Every Set looks whether they still
// are there: the overlay may have made a new array.
func (b *Balancer) runLocked() error {
	if b.carrying {
		if err := b.objects.follow(); err != nil {
			return fmt.Errorf("find the programs before ours: %w", err)
		}
	}
	if err := b.objects.hook(); err != nil {
		return fmt.Errorf("hook load balancer in: %w", err)
	}
	if err := b.endCarryLocked(); err != nil {
		return err
	}
	if b.running && (!b.socketsLed || b.objects.attachedLocal(b.config)) {
		return nil
	}
	err := b.objects.attachLocal(b.config)
	b.socketsLed = err == nil
	if err != nil {
		if b.config.Mode == ModeSocket {
			return fmt.Errorf("hook load balancer into sockets: %w", err)
		}
		b.config.Logger.Warn("sockets are not led: published ports do not answer on 127.0.0.1, and VIPs cost work per packet", "err", err)
	}
	if err := dropFormer(b.config); err != nil {
		b.config.Logger.Warn("an older load balancer's maps stay", "err", err)
	}
	b.running = true
	return nil
}

// beginCarryLocked takes the services' numbers over from maps of another layout, if
// programs that use them are in the slots.
func (b *Balancer) beginCarryLocked() {
	if b.running || b.carrying {
		return
	}
	former, err := formerDirs(b.config.PinDir)
	if err == nil && len(former) > 0 {
		var used bool
		used, err = inUse(b.config)
		b.carrying = err == nil && !used
	}
	if b.carrying {
		b.held = nil
		err = carry(b.config, []string{balanceMapServices})
	}
	if err != nil {
		b.config.Logger.Warn("connections that an older load balancer leads are lost", "err", err)
	}
}

// endCarryLocked takes over all connections, now that only our programs begin any.
func (b *Balancer) endCarryLocked() error {
	if !b.carrying {
		return nil
	}
	if err := carry(b.config, remembered()); err != nil {
		b.config.Logger.Warn("connections that an older load balancer led are lost", "err", err)
	}
	b.carrying, b.countedAt = false, time.Time{}
	b.held.flags = b.config.flags()
	b.held.node.Flags &^= carrying
	if err := b.held.maps.Node.Put(uint32(0), b.held.node); err != nil {
		return fmt.Errorf("write load balancer maps: %w", err)
	}
	return nil
}

// Close lets go of maps and programs, which work on.
func (b *Balancer) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.objects.Close()
}

// Remove takes everything out of the kernel: for a node that leaves its swarm.
func (b *Balancer) Remove() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held, b.running = nil, false
	return errors.Join(b.objects.unhook(), removePins(b.config.PinDir))
}

// Held reads from the maps what they hold.
func (b *Balancer) Held() (ipvs.State, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.rereadLocked(); err != nil {
		return ipvs.State{}, fmt.Errorf("read load balancer maps: %w", err)
	}
	out := b.held.state
	out.Services = slices.Clone(out.Services)
	for i, s := range out.Services {
		out.Services[i].Name = b.names[s.Key]
	}
	return out, nil
}
