package dispatcher

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meshd/meshd/certs"
	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/orchestrator/remote"
	"github.com/meshd/meshd/orchestrator/store"
)

// Config is all that a Dispatcher needs. Store, Proposer, Leader and Caller must be set.
type Config struct {
	Store    *store.Store
	Proposer store.Proposer
	// Leader says who leads now; nodeID and addr are empty when nobody does.
	Leader func() (nodeID, addr string, isMe bool)
	// NodeID is this manager's own.
	NodeID string
	// Caller reaches other managers.
	Caller Caller
	// Barrier returns when Store holds every write acknowledged before. Nil: it does.
	Barrier func(ctx context.Context) error
	// Members are the managers' control addresses by node ID, as raft knows them.
	// When nil, the addresses in the node objects are left as they are.
	Members func() map[string]string
	// Answers says whether a machine is there although its node is silent; such a
	// node is given up only after DaemonGrace more. Nil: machines are not asked.
	Answers func(ctx context.Context, addr netip.Addr) bool
	// Heartbeat is the period that agents are told, and the longest silence of a
	// stream. Default 1 s.
	Heartbeat time.Duration
	// Lease is how long a node counts as alive after its last beat. Default 3 s.
	Lease time.Duration
	// Relay is how often followers report to the leader, and how often the leader
	// looks for leases that ran out. Default 250 ms.
	Relay time.Duration
	// Coalesce is the least time between two messages of a session, and between
	// two batches of reports. Default 20 ms.
	Coalesce time.Duration
	// DrainTimeout bounds the wait for acknowledgements of a drain. Default 2 s.
	DrainTimeout time.Duration
	Logger       *slog.Logger
	// Clock is the time of leases; default time.Now.
	Clock func() time.Time
}

// Caller makes one request to a manager; an error of the other side keeps its class.
type Caller interface {
	Call(ctx context.Context, addr, path string, in, out any) error
}

// Router takes the dispatcher's routes; *remote.Server is one.
type Router interface {
	Handle(path string, h http.HandlerFunc, roles ...certs.Role)
}

// Dispatcher serves the nodes' sessions.
type Dispatcher struct {
	cfg     Config
	cache   *cache
	ledger  *ledger
	reports chan report
	began   time.Time
	// reaches: this manager leads, or reaches the leader.
	reaches atomic.Bool
	// nudge wakes the beats loop before its tick.
	nudge chan struct{}
	turns turns
	// pulse is the heartbeat of all sessions, encoded it as it is sent.
	pulse   *protocol.Message
	encoded remote.Encoded
	// ready is closed once the watcher stands.
	ready chan struct{}

	mu       sync.Mutex
	stopped  bool
	sessions map[string]*session // by node
	running  sync.WaitGroup      // handlers of sessions
}

// New returns a Dispatcher; it answers once Run was called.
func New(cfg Config) *Dispatcher {
	defaultTo(&cfg.Heartbeat, time.Second)
	defaultTo(&cfg.Lease, 3*time.Second)
	defaultTo(&cfg.Relay, 250*time.Millisecond)
	defaultTo(&cfg.Coalesce, 20*time.Millisecond)
	defaultTo(&cfg.DrainTimeout, 2*time.Second)
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	pulse := &protocol.Message{Heartbeat: cfg.Heartbeat}
	encoded, _ := remote.Encode(pulse) // a number can be encoded
	return &Dispatcher{
		cfg:      cfg,
		pulse:    pulse,
		encoded:  encoded,
		cache:    newCache(cfg.Clock),
		ledger:   newLedger(2 * cfg.Relay),
		reports:  make(chan report, 256),
		began:    time.Now(),
		nudge:    make(chan struct{}, 1),
		turns:    newTurns(),
		ready:    make(chan struct{}),
		sessions: map[string]*session{},
	}
}

func defaultTo(d *time.Duration, v time.Duration) {
	if *d <= 0 {
		*d = v
	}
}

// Register adds the dispatcher's routes.
func (d *Dispatcher) Register(r Router) {
	r.Handle(protocol.PathSession, d.handleSession, certs.RoleManager, certs.RoleWorker)
	r.Handle(protocol.PathStatus, d.handleStatus, certs.RoleManager, certs.RoleWorker)
	r.Handle(protocol.PathAcks, d.handleAcks, certs.RoleManager, certs.RoleWorker)
	r.Handle(protocol.PathAck, d.handleAck, certs.RoleManager, certs.RoleWorker)
	r.Handle(protocol.PathDrained, d.handleDrained, certs.RoleManager, certs.RoleWorker)
	r.Handle(protocol.PathAttach, d.handleAttach, certs.RoleManager, certs.RoleWorker)
	r.Handle(protocol.PathAttached, d.handleAttached, certs.RoleManager, certs.RoleWorker)
	r.Handle(pathRelay, d.handleRelay, certs.RoleManager)
	r.Handle(pathRelayDrained, d.handleRelayDrained, certs.RoleManager)
	r.Handle(pathReaches, d.handleReaches, certs.RoleManager)
}

// Run works until ctx ends; then it ends all sessions and returns nil. It may be
// called once.
func (d *Dispatcher) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.loop(ctx) })
	g.Go(func() error { return d.record(ctx) })
	g.Go(func() error { return d.beats(ctx) })
	err := g.Wait()
	d.mu.Lock()
	d.stopped = true
	for _, s := range d.sessions {
		s.end(errStopped)
	}
	d.mu.Unlock()
	d.running.Wait()
	return err
}

// open makes the session of a node; an older one of the same node ends.
func (d *Dispatcher) open(node string, end context.CancelCauseFunc) (*session, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopped {
		return nil, errStopped
	}
	if old := d.sessions[node]; old != nil {
		old.end(errReplaced)
	}
	s := newSession(node, d.cache.processed(), end)
	d.sessions[node] = s
	d.running.Add(1)
	return s, nil
}

func (d *Dispatcher) close(s *session) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sessions[s.node] == s {
		delete(d.sessions, s.node)
	}
	d.running.Done()
}

func (d *Dispatcher) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.sessions)
}

func (d *Dispatcher) hasSession(node string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sessions[node] != nil
}

// Invite implements tunnel.Sessions.
func (d *Dispatcher) Invite(node string, t protocol.Tunnel) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.sessions[node]
	if s != nil {
		s.invite(t)
	}
	return s != nil
}

// each calls fn for every open session; fn must not block.
func (d *Dispatcher) each(fn func(*session)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.sessions {
		fn(s)
	}
}

func (d *Dispatcher) poke() {
	select {
	case d.nudge <- struct{}{}:
	default:
	}
}
