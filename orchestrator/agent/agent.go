package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moby/moby/api/types/swarm"
	"golang.org/x/sync/errgroup"

	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/orchestrator/tasklife"
)

// Config is what an agent needs. Fields without a default must be set.
type Config struct {
	NodeID string
	// DataAddr is where peers send overlay traffic to.
	DataAddr netip.Addr
	// Direct says that this node takes overlay packets without encapsulation.
	Direct bool
	// Keys, if set, are those by which this node takes encrypted packets, newest first.
	// Who changes them calls Announce.
	Keys func() []protocol.EncryptionKey
	// Managers are the ones known at the start; the session keeps them up to date.
	Managers []swarm.Peer
	// SaveManagers, if set, is called with every new list.
	SaveManagers func([]swarm.Peer)
	// Client reaches the managers; Remote makes one.
	Client    Client
	Runner    Runner
	Engine    Engine
	Dataplane Dataplane
	// Tunnels, if set, takes the managers' invitations to call them; it must not wait.
	Tunnels func([]protocol.Tunnel)
	// Trust, if set, is told what this node's certificate should be like; it must not wait.
	Trust func(protocol.Trust)
	// StateDir holds the file of assignments; empty: nothing is saved.
	StateDir string
	Logger   *slog.Logger

	// Backoff spaces tries that failed; default 100 ms to 2 s.
	Backoff Backoff
	// PullBackoff spaces tries to get an image while its registry cannot be asked;
	// default 1 s to 16 s.
	PullBackoff Backoff
	// AckPeriod is the longest silence towards the manager, more than the period of its
	// heartbeats and, twice, less than the lease; default 1.5 s, less up to a quarter.
	AckPeriod time.Duration
	// DrainTimeout bounds the wait for others to stop sending; default 2.5 s.
	DrainTimeout time.Duration
	// ReadyTimeout bounds the wait for the data plane before a start; default 30 s.
	ReadyTimeout time.Duration
	// LagPatience is how long pictures older than one this node was shown before
	// are refused; default 30 s.
	LagPatience time.Duration
	// ManagerPatience is how long a machine that shuts down waits for managers to know
	// that, and in the end to be told of its tasks' ends; default 5 s.
	ManagerPatience time.Duration
	// MovePatience is how long it then waits for them to end its tasks, which may have
	// to run elsewhere first; default 30 s.
	MovePatience time.Duration
	// CallTimeout bounds a call to a manager; default 5 s.
	CallTimeout time.Duration
	// Now is the clock of task statuses; default time.Now.
	Now func() time.Time
}

func (c Config) withDefaults() Config {
	c.Backoff = c.Backoff.withDefaults()
	setDefault(&c.PullBackoff.Min, time.Second)
	setDefault(&c.PullBackoff.Max, 16*time.Second)
	setDefault(&c.AckPeriod, 1500*time.Millisecond)
	setDefault(&c.DrainTimeout, 2500*time.Millisecond)
	setDefault(&c.ReadyTimeout, 30*time.Second)
	setDefault(&c.LagPatience, 30*time.Second)
	setDefault(&c.ManagerPatience, 5*time.Second)
	setDefault(&c.MovePatience, 30*time.Second)
	setDefault(&c.CallTimeout, 5*time.Second)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func setDefault(d *time.Duration, to time.Duration) {
	if *d == 0 {
		*d = to
	}
}

// Agent runs a node's tasks.
type Agent struct {
	cfg     Config
	log     *slog.Logger
	picture *picture
	reports *reports
	link    *link
	saves   chan struct{}
	prunes  chan struct{}
	desc    swarm.NodeDescription // set before any worker runs
	// attaching is what is being attached right now.
	attaching *attaching
	// stopping: the machine is about to shut down; anew ends the session that does not
	// say so.
	stopping atomic.Bool
	anew     chan struct{}

	mu      sync.Mutex
	workers map[string]*worker
	orphans map[string]Container // by task ID; removed with the first full set
	group   sync.WaitGroup       // the workers
}

// New returns an agent that does nothing until Run.
func New(cfg Config) *Agent {
	cfg = cfg.withDefaults()
	return &Agent{
		cfg: cfg, log: cfg.Logger,
		picture: newPicture(nil, 0), reports: newReports(), link: newLink(cfg.Managers),
		attaching: newAttaching(),
		anew:      make(chan struct{}, 1), saves: make(chan struct{}, 1), prunes: make(chan struct{}, 1),
		workers: map[string]*worker{}, orphans: map[string]Container{},
	}
}

// Announce tells the managers anew what this node says of itself.
func (a *Agent) Announce() { signal(a.anew) }

// Run adopts what an earlier agent left running and works until the context
// ends. It leaves the containers as they are.
func (a *Agent) Run(ctx context.Context) error {
	containers, err := a.adopt(ctx)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	saved, err := load(a.cfg.StateDir)
	if err != nil {
		a.log.Error("going on without the saved assignments", "error", err)
	}
	a.picture = newPicture(saved.Assignments, saved.Index)
	for _, c := range containers {
		a.orphans[c.TaskID] = c
	}
	a.cfg.Dataplane.Update(a.picture.view())
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.cfg.Engine.Run(gctx) })
	for _, t := range saved.Assignments {
		a.assign(gctx, t)
	}
	g.Go(func() error { return a.runSessions(gctx) })
	g.Go(func() error { return a.runSaver(gctx) })
	g.Go(func() error { return a.runPruner(gctx) })
	g.Go(func() error { return a.runAttached(gctx) })
	err = g.Wait()
	a.group.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// adopt asks the engine what it is and runs, until it answers.
func (a *Agent) adopt(ctx context.Context) ([]Container, error) {
	for try := 1; ; try++ {
		desc, err := a.cfg.Engine.Describe(ctx)
		if err == nil {
			var containers []Container
			if containers, err = a.cfg.Runner.List(ctx); err == nil {
				a.desc = desc
				return containers, nil
			}
		}
		if try == 1 {
			a.log.Warn("waiting for the engine", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("agent: engine not reached: %w", err)
		case <-time.After(a.cfg.Backoff.delay(try)):
		}
	}
}

// apply acts on a message of the managers; only the session calls it. After an
// error the session has to begin anew.
func (a *Agent) apply(ctx context.Context, m protocol.Message) error {
	d, err := a.picture.apply(m)
	if err != nil {
		return err
	}
	if d.View {
		a.cfg.Dataplane.Update(a.picture.view())
	}
	for _, t := range d.Set {
		a.assign(ctx, t)
	}
	for _, id := range d.Gone {
		a.unassign(id)
	}
	if d.Full {
		a.removeOrphans(ctx)
	}
	if len(d.Set)+len(d.Gone) > 0 {
		a.save()
	}
	if d.NetworksGone || d.Full {
		signal(a.prunes)
	}
	return nil
}

// runPruner removes networks from the engine that the node has no part in any more.
func (a *Agent) runPruner(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.prunes:
		}
		if err := a.cfg.Engine.PruneNetworks(ctx, a.picture.networkIDs()); err != nil && ctx.Err() == nil {
			a.log.Warn("superfluous networks stay on the engine", "error", err)
		}
	}
}

// signal wakes the one who waits on c, now or when it next does.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// assign gives a task to its worker, a new one if there is none. Attachments have
// none: their containers are run by others (attach.go).
func (a *Agent) assign(ctx context.Context, t protocol.Assignment) {
	if t.Task.Spec.NetworkAttachmentSpec != nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.workers[t.Task.ID]
	if w == nil {
		c := a.orphans[t.Task.ID]
		delete(a.orphans, t.Task.ID)
		a.spawnLocked(ctx, newWorker(a, t, c))
		return
	}
	w.assign(t)
	if s := w.current(); tasklife.Rank(s.State) > tasklife.Rank(t.Task.Status.State) {
		a.reports.put(t.Task.ID, s) // the manager missed it
	}
}

// spawnLocked runs a worker until its task is gone.
func (a *Agent) spawnLocked(ctx context.Context, w *worker) {
	a.workers[w.id] = w
	a.group.Go(func() {
		for ctx.Err() == nil {
			w.run(ctx)
			if a.retire(w) {
				return
			}
		}
	})
}

func (a *Agent) unassign(id string) {
	a.mu.Lock()
	w := a.workers[id]
	a.mu.Unlock()
	a.reports.drop(id)
	if w != nil {
		w.release()
	}
}

// retire forgets a worker whose task is gone; false if the task came back.
func (a *Agent) retire(w *worker) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !w.wish().Gone {
		return false
	}
	delete(a.workers, w.id)
	a.reports.drop(w.id)
	return true
}

// removeOrphans gives each container that no assignment claims to a worker
// that ends and removes it.
func (a *Agent) removeOrphans(ctx context.Context) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, c := range a.orphans {
		a.log.Info("removing the container of a task that is not assigned", "task", id, "container", c.ID)
		w := newWorker(a, protocol.Assignment{Task: swarm.Task{ID: id}}, c)
		w.gone = true
		a.spawnLocked(ctx, w)
	}
	clear(a.orphans)
}

// moved makes a worker's new status known; nobody asks for that of a task that
// is not assigned any more.
func (a *Agent) moved(id string, s swarm.TaskStatus, gone bool) {
	if tasklife.Rank(s.State) >= tasklife.Rank(swarm.TaskStateComplete) {
		a.picture.end(id)
		a.cfg.Dataplane.Update(a.picture.view())
	}
	a.log.Debug("task", "task", id, "state", s.State, "message", s.Message, "error", s.Err)
	if gone {
		return
	}
	a.reports.put(id, s)
	a.save()
}
