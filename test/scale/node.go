package main

import (
	"context"
	"maps"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/moby/moby/api/types/swarm"
	"golang.org/x/sync/errgroup"

	"github.com/meshd/meshd/certs"
	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/orchestrator/remote"
	"github.com/meshd/meshd/orchestrator/tasklife"
)

const (
	// ackPeriod is the agents' own.
	ackPeriod = 1500 * time.Millisecond
	// again is the pause before a call is tried again, and the longest before a session is.
	again = 500 * time.Millisecond
)

// message is what a simulated node reads of a protocol.Message.
type message struct {
	Heartbeat time.Duration
	Tasks     *struct {
		Full   bool
		Set    []struct{ Task task }
		Remove []string
	}
	Networks []struct {
		ID       string
		Revision uint64
	}
	NetworksGone []string
}

// task is what it reads of a task.
type task struct {
	ID           string
	DesiredState swarm.TaskState
}

// node plays the agent of one node: a session, reports of its tasks, which it
// pretends to run, and acknowledgements of networks, which it pretends to hold.
//
// | goroutine         | owns                            | ends with       |
// |-------------------|---------------------------------|-----------------|
// | run               | which session stands            | ctx             |
// | flusher, acker    | delivery of reports, revisions  | the session     |
// | one per container | the pause before it runs or ends| itself          |
type node struct {
	addrs []string
	first int // index of the manager to turn to first
	name  string
	at    netip.Addr
	start time.Duration
	total *counters

	client *remote.Client

	mu       sync.Mutex
	tasks    map[string]*container
	pending  map[string]swarm.TaskState
	networks map[string]uint64
	reports  chan struct{}
	revised  chan struct{}
}

// container is the one of a task on this node.
type container struct {
	desired, state swarm.TaskState
}

func newNode(name string, at netip.Addr, managers []string) *node {
	return &node{
		name: name, at: at, addrs: managers, total: &counters{},
		tasks: map[string]*container{}, pending: map[string]swarm.TaskState{}, networks: map[string]uint64{},
		reports: make(chan struct{}, 1), revised: make(chan struct{}, 1),
	}
}

// with gives the node its certificate.
func (n *node) with(k *certs.Keeper) *node {
	n.client = remote.NewClient(k)
	return n
}

// run keeps a session with some manager until ctx ends: then the node falls silent.
func (n *node) run(ctx context.Context) error {
	defer n.client.Close()
	for try := n.first; ctx.Err() == nil; try++ {
		n.session(ctx, n.addrs[try%len(n.addrs)]) // how it ends does not matter: try another
		pause(ctx, rand.N(again))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, t := range n.tasks {
		n.moveLocked("", t, swarm.TaskStateOrphaned)
	}
	return nil
}

func (n *node) session(ctx context.Context, addr string) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	s, err := n.client.Open(ctx, addr, protocol.PathSession, protocol.SessionRequest{Description: describe(n.name, 64), DataAddr: n.at})
	if err != nil {
		return err
	}
	defer s.Close()
	n.total.sessions.Add(1)
	defer n.total.sessions.Add(-1)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		for {
			var m message
			if err := s.Next(&m); err != nil {
				end()
				return err
			}
			n.take(ctx, addr, m)
		}
	})
	g.Go(func() error { return n.flush(ctx, addr) })
	g.Go(func() error { return n.ack(ctx, addr) })
	return g.Wait()
}

// take applies a message.
func (n *node) take(ctx context.Context, addr string, m message) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, net := range m.Networks {
		n.networks[net.ID] = net.Revision
	}
	for _, id := range m.NetworksGone {
		delete(n.networks, id)
	}
	if len(m.Networks)+len(m.NetworksGone) > 0 || m.Heartbeat > 0 {
		poke(n.revised)
	}
	if m.Tasks == nil {
		return
	}
	set := make(map[string]bool, len(m.Tasks.Set))
	for _, a := range m.Tasks.Set {
		set[a.Task.ID] = true
		n.setLocked(ctx, addr, a.Task)
	}
	if m.Tasks.Full {
		for id := range n.tasks {
			if !set[id] {
				m.Tasks.Remove = append(m.Tasks.Remove, id)
			}
		}
	}
	for _, id := range m.Tasks.Remove {
		if t := n.tasks[id]; t != nil {
			n.moveLocked("", t, swarm.TaskStateOrphaned)
			delete(n.tasks, id)
			delete(n.pending, id)
		}
	}
}

// setLocked does what an assignment asks for.
func (n *node) setLocked(ctx context.Context, addr string, a task) {
	t := n.tasks[a.ID]
	if t == nil {
		t = &container{state: swarm.TaskStateAssigned}
		n.tasks[a.ID] = t
	}
	before := t.desired
	t.desired = a.DesiredState
	if before == t.desired || tasklife.Rank(t.state) > tasklife.Rank(swarm.TaskStateRunning) {
		return
	}
	switch {
	case t.desired == swarm.TaskStateReady:
		n.moveLocked(a.ID, t, swarm.TaskStateReady)
	case t.desired == swarm.TaskStateRunning:
		n.moveLocked(a.ID, t, swarm.TaskStatePreparing)
		time.AfterFunc(n.start, func() { n.move(a.ID, swarm.TaskStateRunning) })
	case t.state == swarm.TaskStateRunning:
		go func() {
			var late protocol.DrainedReply
			if n.client.Call(ctx, addr, protocol.PathDrained, protocol.DrainedRequest{TaskID: a.ID}, &late) == nil {
				n.move(a.ID, swarm.TaskStateShutdown)
			}
		}()
	default:
		n.moveLocked(a.ID, t, swarm.TaskStateShutdown)
	}
}

func (n *node) move(id string, to swarm.TaskState) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if t := n.tasks[id]; t != nil {
		n.moveLocked(id, t, to)
	}
}

// moveLocked brings a task forward; without an ID nobody is told.
func (n *node) moveLocked(id string, t *container, to swarm.TaskState) {
	if !tasklife.Before(t.state, to) {
		return
	}
	if t.state == swarm.TaskStateRunning {
		n.total.run.Add(-1)
	}
	if t.state = to; to == swarm.TaskStateRunning {
		n.total.run.Add(1)
	}
	if id != "" {
		n.pending[id] = to
		poke(n.reports)
	}
}

// flush delivers reports.
func (n *node) flush(ctx context.Context, addr string) error {
	poke(n.reports)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-n.reports:
		}
		n.mu.Lock()
		batch := n.pending
		n.pending = map[string]swarm.TaskState{}
		n.mu.Unlock()
		var r protocol.StatusReport
		for id, state := range batch {
			r.Updates = append(r.Updates, protocol.StatusUpdate{TaskID: id, Status: swarm.TaskStatus{
				State: state, Timestamp: time.Now().UTC(), Message: string(state),
				ContainerStatus: &swarm.ContainerStatus{ContainerID: id + id + id[:14], PID: 4242},
			}})
		}
		if len(batch) == 0 {
			continue
		}
		if err := n.client.Call(ctx, addr, protocol.PathStatus, r, nil); err != nil {
			n.mu.Lock()
			maps.Copy(batch, n.pending)
			n.pending = batch
			n.mu.Unlock()
			pause(ctx, again)
			poke(n.reports)
		}
	}
}

// ack acknowledges networks and answers heartbeats, as agents do.
func (n *node) ack(ctx context.Context, addr string) error {
	acks, err := n.client.Pour(ctx, addr, protocol.PathAcks)
	if err != nil {
		return err
	}
	defer acks.Close()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var told map[string]uint64
	for {
		n.mu.Lock()
		a := protocol.Ack{Networks: maps.Clone(n.networks)}
		n.mu.Unlock()
		if told != nil && maps.Equal(told, a.Networks) {
			a = protocol.Ack{Same: true}
		} else {
			told = a.Networks
		}
		if err := acks.Send(a); err != nil {
			return err
		}
		timer.Reset(protocol.Jittered(ackPeriod))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		case <-n.revised:
		}
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
