package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/orchestrator/remote"
	"github.com/meshd/meshd/orchestrator/store"
)

// describeRetry is the pause before a node's description is stored again after
// a failure, e.g. for want of a quorum.
const describeRetry = time.Second

// session is one node's stream.
type session struct {
	node string
	// base is the newest commit taken in when the session opened.
	base uint64
	wake chan struct{}
	end  context.CancelCauseFunc

	mu sync.Mutex
	// stale is what to look at again.
	stale stale
	// known are the networks that the node was told of, and since when.
	known map[string]time.Time
	// tunnels are invitations not sent yet.
	tunnels []protocol.Tunnel

	// What the node has; owned by the goroutine of the handler.
	started  bool
	tasks    map[string]sentTask
	networks map[string]subscription
	// uses counts the node's live tasks on each network, by ID.
	uses map[string]int
	// position is how far it knows the other nodes; see roster.
	position uint64
}

// stale is what commits changed of a node's picture since it was looked at, so that
// a look costs what has changed and not what the node has.
type stale struct {
	// own is the newest commit that may have changed the node's own tasks.
	own uint64
	// all: every task; else those named, and the networks, by ID.
	all             bool
	tasks, networks map[string]bool
}

func newSession(node string, base uint64, end context.CancelCauseFunc) *session {
	return &session{
		node: node, base: base, end: end, stale: stale{own: base, all: true},
		wake: make(chan struct{}, 1), known: map[string]time.Time{},
		tasks: map[string]sentTask{}, networks: map[string]subscription{}, uses: map[string]int{},
	}
}

func (s *session) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// changed says that anything of the node's own may differ since a commit.
func (s *session) changed(index uint64) {
	s.mu.Lock()
	s.stale.own, s.stale.all = max(s.stale.own, index), true
	s.mu.Unlock()
	s.wakeUp()
}

// note takes in what a commit touched, and wakes the session if that concerns it.
func (s *session) note(index uint64, t *touched) {
	s.mu.Lock()
	news := len(t.members)+len(t.defined) > 0 || t.keys
	if t.members[s.node] { // tasks may be named after their node
		s.stale.own, s.stale.all = max(s.stale.own, index), true
	}
	if ids := t.nodes[s.node]; len(ids) > 0 {
		news = true
		s.stale.own = max(s.stale.own, index)
		s.stale.tasks = with(s.stale.tasks, ids...)
	}
	for id := range t.fed {
		if _, knows := s.known[id]; knows {
			news = true
			s.stale.networks = with(s.stale.networks, id)
		}
	}
	s.mu.Unlock()
	if news {
		s.wakeUp()
	}
}

func with(set map[string]bool, ids ...string) map[string]bool {
	if set == nil {
		set = make(map[string]bool, len(ids))
	}
	for _, id := range ids {
		set[id] = true
	}
	return set
}

// takeStale returns what is to be looked at now.
func (s *session) takeStale() stale {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.stale
	s.stale = stale{own: out.own}
	return out
}

func (s *session) invite(t protocol.Tunnel) {
	s.mu.Lock()
	s.tunnels = append(s.tunnels, t)
	s.mu.Unlock()
	s.wakeUp()
}

func (s *session) invitations() []protocol.Tunnel {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.tunnels
	s.tunnels = nil
	return out
}

// since is when the node was first told of a network; now if it was not.
func (s *session) since(network string, now time.Time) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t, known := s.known[network]; known {
		return t
	}
	return now
}

// next is the difference between what the node should know and what it was
// sent; nil when there is none. It takes for granted that it will be sent.
func (s *session) next(v *store.View, c *cache) *protocol.Message {
	c.turn.RLock()
	defer c.turn.RUnlock()
	look := s.takeStale()
	if look.all {
		look.tasks = with(nil, slices.Collect(maps.Keys(s.tasks))...)
		for _, t := range v.TasksOnNode(s.node) {
			look.tasks[t.ID] = true
		}
	}
	m := &protocol.Message{Tasks: s.nextTasks(v, look)}
	s.position = c.roll(v, s.position, m)
	m.Networks, m.NetworksGone = s.nextNetworks(v, c, look)
	m.Tunnels = s.invitations()
	s.started = true
	if m.Tasks == nil && len(m.Nodes)+len(m.NodesGone)+len(m.Managers)+len(m.GossipKeys)+
		len(m.Networks)+len(m.NetworksGone)+len(m.Tunnels) == 0 && m.Trust == nil && m.Encryption == nil {
		return nil
	}
	return m
}

func (s *session) nextTasks(v *store.View, look stale) *protocol.Tasks {
	out := &protocol.Tasks{Full: !s.started, Index: v.Index()}
	for _, id := range slices.Sorted(maps.Keys(look.tasks)) {
		t, sent := v.Task(id), s.tasks[id]
		s.use(sent.task, -1)
		if t == nil || t.NodeID != s.node || !assigned(t) {
			if sent.task != nil {
				delete(s.tasks, id)
				out.Remove = append(out.Remove, id)
			}
			continue
		}
		s.use(t, 1)
		service := v.Service(t.ServiceID)
		if sent.task == nil || !sent.same(t, service) {
			out.Set = append(out.Set, assign(v, t))
		}
		s.tasks[id] = sentTask{task: t, service: service}
	}
	if !out.Full && len(out.Set)+len(out.Remove) == 0 {
		return nil
	}
	return out
}

// use counts the networks of a task, if it is live.
func (s *session) use(t *store.Task, sign int) {
	if t == nil || !live(t) {
		return
	}
	for _, a := range t.NetworksAttachments {
		if s.uses[a.Network.ID] += sign; s.uses[a.Network.ID] == 0 {
			delete(s.uses, a.Network.ID)
		}
	}
}

// follows are the networks that the node must know: the mesh network, first, and
// those it has live tasks on.
func (s *session) follows(v *store.View) []*store.Network {
	mesh := ingress(v)
	out := make([]*store.Network, 0, len(s.uses)+1)
	for _, id := range slices.Sorted(maps.Keys(s.uses)) {
		if n := v.Network(id); n != nil && n.Ready && n != mesh {
			out = append(out, n)
		}
	}
	if mesh != nil {
		out = slices.Insert(out, 0, mesh)
	}
	return out
}

func (s *session) nextNetworks(v *store.View, c *cache, look stale) (set []protocol.NetworkChange, gone []string) {
	wanted := map[string]time.Time{}
	for _, n := range s.follows(v) {
		wanted[n.ID] = s.since(n.ID, c.clock())
		old, told := s.networks[n.ID]
		if told && !look.all && !look.networks[n.ID] && !(n.Spec.Ingress && len(look.tasks) > 0) {
			continue
		}
		change, now, tell := c.follow(v, n, s.node, marks{base: s.base, look: look}, old)
		s.networks[n.ID] = now
		if tell {
			set = append(set, change)
		}
	}
	for id := range s.networks {
		if _, stays := wanted[id]; !stays {
			delete(s.networks, id)
			gone = append(gone, id)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known = wanted
	return set, gone
}

// handleSession streams messages to a node until either side ends it.
func (d *Dispatcher) handleSession(w http.ResponseWriter, r *http.Request) {
	var req protocol.SessionRequest
	if err := remote.Read(r, &req); err != nil {
		remote.Fail(w, err)
		return
	}
	node := remote.Peer(r.Context()).NodeID
	if err := d.admit(r.Context(), node); err != nil {
		remote.Fail(w, err)
		return
	}
	ctx, end := context.WithCancelCause(r.Context())
	defer end(nil)
	s, err := d.open(node, end)
	if err != nil {
		remote.Fail(w, err)
		return
	}
	defer d.close(s)
	d.beat(node)

	described := make(chan struct{})
	go func() {
		defer close(described)
		d.describe(ctx, node, req)
	}()
	sender := remote.NewSender(w)
	err = d.stream(ctx, s, func(m *protocol.Message) (err error) {
		if m == d.pulse {
			err = sender.SendEncoded(d.encoded)
		} else {
			err = sender.Send(m)
		}
		if err != nil {
			return fmt.Errorf("send to node %s: %w", node, err)
		}
		return nil
	})
	end(err)
	<-described
	if req.Stopping && errors.Is(err, context.Canceled) {
		d.seeOff(node)
	}
	d.cfg.Logger.Debug("session ended", "node", node, "reason", err)
}

// seeOff notes that a node that was shutting down, and has no task any more, has
// ended its session. If that does not work, its lease ends.
func (d *Dispatcher) seeOff(node string) {
	ctx, cancel := context.WithTimeout(context.Background(), d.cfg.Lease)
	defer cancel()
	err := store.Transact(ctx, d.cfg.Store, d.cfg.Proposer, func(tx *store.Tx) error {
		if next := stopped(tx.Node(node)); next != nil && !slices.ContainsFunc(tx.TasksOnNode(node), live) {
			tx.Update(next)
		}
		return nil
	})
	if err != nil {
		d.cfg.Logger.Debug("a node's shutdown is noticed later", "node", node, "error", err)
	}
}

// admit refuses nodes that are not in the store, and waits until the dispatcher runs.
func (d *Dispatcher) admit(ctx context.Context, node string) error {
	select {
	case <-d.ready:
	case <-ctx.Done():
		return ctx.Err()
	}
	var err error
	d.cfg.Store.View(func(v *store.View) {
		if v.Node(node) != nil {
			return
		}
		// A manager that lags may not know a new node yet: only the blocklist is proof.
		err = remote.Errorf(errdefs.ErrUnavailable, "node %s is not known to this manager", node)
		if c := v.Cluster(); c != nil {
			if _, blocked := c.BlockedNodes[node]; blocked {
				err = remote.Removed(node)
			}
		}
	})
	return err
}

// stream sends the picture and then what changes in it. Several changes within
// Coalesce go out as one.
func (d *Dispatcher) stream(ctx context.Context, s *session, send func(*protocol.Message) error) error {
	if err := d.begin(ctx, s, send); err != nil {
		return err
	}
	idle := time.NewTimer(d.untilBeat())
	defer idle.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(d.cfg.Coalesce):
		}
		var m *protocol.Message
		for m == nil {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-s.wake:
				d.cfg.Store.View(func(v *store.View) { m = s.next(v, d.cache) })
			case <-idle.C:
				m = d.pulse
			}
		}
		if err := send(m); err != nil {
			return err
		}
		idle.Reset(d.untilBeat())
	}
}

// untilBeat is when the next heartbeat is due. All sessions' are due together: to wake
// up once for a thousand costs less than a thousand times for one.
func (d *Dispatcher) untilBeat() time.Duration {
	return d.cfg.Heartbeat - time.Since(d.began)%d.cfg.Heartbeat
}

// describe stores what the node says of itself, as long as it takes.
func (d *Dispatcher) describe(ctx context.Context, node string, req protocol.SessionRequest) {
	for {
		err := d.submit(ctx, report{node: node, description: &req})
		if err == nil || ctx.Err() != nil {
			return
		}
		d.cfg.Logger.Warn("cannot store the node's description; will retry", "node", node, "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(describeRetry):
		}
	}
}
