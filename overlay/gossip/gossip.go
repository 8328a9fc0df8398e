package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"golang.org/x/sync/errgroup"
)

// DefaultPort is the TCP and UDP port of gossip, as Swarm's.
const DefaultPort = 7946

// KeySize is the length of a key in bytes (AES-256).
const KeySize = 32

// ErrKey: a key is not KeySize bytes long.
var ErrKey = errors.New("gossip: key has the wrong length")

// Config is what a node needs to take part. NodeID and Addr must be set.
type Config struct {
	NodeID string
	// Addr is where this node listens and what it tells the others.
	Addr netip.AddrPort
	// Reach says whether the machine at addr shows a sign of life within ctx, if
	// only a refusal. Default: a TCP connect.
	Reach  func(ctx context.Context, addr netip.AddrPort) bool
	Logger *slog.Logger

	tune func(*memberlist.Config) // tests measure other timers
}

// Member is a node of the cluster, as the managers list it.
type Member struct {
	ID string
	// Addr is where its gossip listens.
	Addr netip.AddrPort
	// GivenUp says that managers count it as down already.
	GivenUp bool
	// Leaving says that managers know that it shuts down in order: that it falls silent
	// is no news.
	Leaving bool
}

// Gossip is this node's part in the cluster's failure detection.
type Gossip struct {
	cfg     Config
	log     *slog.Logger
	wake    chan struct{} // the loop's
	seek    chan struct{} // the joiner's
	changes chan struct{}
	answers chan answer
	// leaving: this node serves no more, and says so.
	leaving atomic.Bool

	mu      sync.Mutex
	keys    [][]byte
	members []Member
	list    *memberlist.Memberlist // nil before the first key
	down    map[string]bool
}

type answer struct {
	id     string
	silent bool
}

// New returns a Gossip; it does nothing until Run, and listens only once it has keys.
func New(cfg Config) *Gossip {
	if cfg.Reach == nil {
		cfg.Reach = reach
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Gossip{
		cfg: cfg, log: cfg.Logger,
		wake: make(chan struct{}, 1), seek: make(chan struct{}, 1), changes: make(chan struct{}, 1),
		answers: make(chan answer, maxChecks),
		down:    map[string]bool{},
	}
}

// SetKeys replaces the keys: the first encrypts, all decrypt. Without any nothing
// changes.
func (g *Gossip) SetKeys(keys [][]byte) error {
	for _, k := range keys {
		if len(k) != KeySize {
			return fmt.Errorf("%w: %d bytes, not %d", ErrKey, len(k), KeySize)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(keys) == 0 || slices.EqualFunc(keys, g.keys, bytes.Equal) {
		return nil
	}
	g.keys = slices.Clone(keys)
	signal(g.wake)
	return nil
}

// SetSeeds replaces the list of members: whom to seek, and about whom to tell.
func (g *Gossip) SetSeeds(members []Member) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if slices.Equal(members, g.members) {
		return
	}
	g.members = slices.Clone(members)
	signal(g.wake)
	signal(g.seek)
}

// Down are the members that cannot serve right now.
func (g *Gossip) Down() map[string]bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.down)
}

// Leave tells the others that this node serves no more, as it is about to shut down,
// and returns when they are likely to have heard: they mask it at once. It goes on
// watching them.
func (g *Gossip) Leave() error {
	g.leaving.Store(true)
	list := g.open()
	if list == nil {
		return nil // nobody has met this node
	}
	if err := list.UpdateNode(farewell); err != nil {
		return fmt.Errorf("gossip: say that this node leaves: %w", err)
	}
	return nil
}

// Alive are the nodes that gossip sees now, this one included; none before it runs.
func (g *Gossip) Alive() map[string]bool {
	if list := g.open(); list != nil {
		return alive(list)
	}
	return map[string]bool{}
}

// Changes is sent to after Down has changed; several changes may be one.
func (g *Gossip) Changes() <-chan struct{} { return g.changes }

// Run takes part until ctx ends. It does not say goodbye: after an orderly stop
// of the daemon its node serves on.
func (g *Gossip) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	var checks errgroup.Group
	checks.SetLimit(maxChecks)
	group.Go(func() error { return g.loop(ctx, &checks) })
	group.Go(func() error { return g.join(ctx) })
	err := errors.Join(group.Wait(), checks.Wait())
	if list := g.open(); list != nil {
		if serr := list.Shutdown(); serr != nil {
			err = errors.Join(err, fmt.Errorf("close gossip: %w", serr))
		}
	}
	return err
}

// open is the member list, nil before there is one.
func (g *Gossip) open() *memberlist.Memberlist {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.list
}

func (g *Gossip) wishes() ([][]byte, []Member) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.keys, g.members
}

// publish makes a new mask known if it differs.
func (g *Gossip) publish(down, left map[string]bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if maps.Equal(down, g.down) {
		return
	}
	for id := range down {
		if !g.down[id] && left[id] {
			g.log.Info("a node leaves: its tasks get no new connections from here", "node", id)
		} else if !g.down[id] {
			g.log.Warn("a node does not answer any more: its tasks get no new connections from here", "node", id)
		}
	}
	for id := range g.down {
		if !down[id] {
			g.log.Info("a node is back in service", "node", id)
		}
	}
	g.down = down
	signal(g.changes)
}

// signal wakes the one who waits on c, now or when it next does.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Pauses of the loop.
const (
	// recheckLiving is how often a machine whose daemon is away is looked at.
	recheckLiving = 500 * time.Millisecond
	// recheckSilent is how often one that does not answer is: it may be only
	// gossip that does not come through to it any more.
	recheckSilent = 5 * time.Second
	// farewell bounds the wait for the others to hear that this node leaves.
	farewell = time.Second
	// reopen is the pause after the port could not be opened.
	reopen = 5 * time.Second
)
