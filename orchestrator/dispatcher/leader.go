package dispatcher

import (
	"context"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
)

// term is what the beats loop remembers between its ticks.
type term struct {
	leading bool
	last    time.Time // of the last tick
	// told is the ledger that knows all acknowledgements up to the last relay.
	told    string
	absence absence
}

// beats judges leases on the leader and relays beats to it elsewhere, at most once
// per Coalesce.
func (d *Dispatcher) beats(ctx context.Context) error {
	tick := time.NewTicker(d.cfg.Relay)
	defer tick.Stop()
	var t term
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-d.nudge:
		}
		leader, addr, me := d.cfg.Leader()
		switch {
		case me && leader == "": // not settled: judging now would call nobody leader
		case me:
			d.lead(ctx, &t, leader, addr)
		default:
			d.relay(ctx, &t, addr)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(d.cfg.Coalesce):
		}
	}
}

// lead is one look at all leases.
func (d *Dispatcher) lead(ctx context.Context, t *term, leader, addr string) {
	now := d.cfg.Clock()
	d.ledger.take()
	// Beats that arrived while this process did not run were not counted: before
	// blaming others for a silence, blame oneself.
	if !t.leading || now.Sub(t.last) > d.cfg.Lease/2 {
		d.ledger.startGrace(d.nodeIDs(), now)
	}
	t.leading, t.last, t.absence, t.told = true, now, absence{}, ""
	d.reaches.Store(true)

	j := judge{now: now, lease: d.cfg.Lease, heard: d.ledger.heard, leader: leader, addr: addr, spared: d.spared(ctx, now)}
	if d.cfg.Members != nil {
		j.members = d.cfg.Members()
	}
	ctx, cancel := context.WithTimeout(ctx, d.cfg.Lease)
	defer cancel()
	err := store.Transact(ctx, d.cfg.Store, d.cfg.Proposer, func(tx *store.Tx) error {
		for _, n := range tx.Nodes() {
			if next := j.node(n); next != nil {
				tx.Update(next)
			}
		}
		return nil
	})
	if err != nil && ctx.Err() == nil {
		d.cfg.Logger.Warn("cannot store the state of nodes", "error", err)
	}
	// The time a slow quorum took is not a silence of the nodes, nor of ours.
	t.last = d.cfg.Clock()
}

func (d *Dispatcher) nodeIDs() []string {
	var out []string
	d.cfg.Store.View(func(v *store.View) {
		for _, n := range v.Nodes() {
			out = append(out, n.ID)
		}
	})
	return out
}

// judge decides on the state of nodes at one moment.
type judge struct {
	now   time.Time
	lease time.Duration
	// heard says when a node last beat (zero: never) and from when its lease counts.
	heard func(node string, now time.Time) (beat, since time.Time)
	// leader and addr are the leader's; members the managers' addresses, empty if unknown.
	leader, addr string
	members      map[string]string
	// spared nodes are silent, but not lost.
	spared map[string]bool
}

// node returns the node as it should be, nil if it is so: then it costs next to nothing.
func (j judge) node(n *store.Node) *store.Node {
	status := j.status(n)
	manager := j.manager(n, status.State)
	if status == n.Status && sameManager(manager, n.ManagerStatus) {
		return nil
	}
	next := *n
	next.Status, next.ManagerStatus = status, manager
	return &next
}

func (j judge) status(n *store.Node) swarm.NodeStatus {
	next := n.Status
	beat, since := j.heard(n.ID, j.now)
	switch {
	case n.Stopping && n.Status.State == swarm.NodeStateDown:
		// It stays so until a new session says otherwise.
	case !beat.IsZero() && j.now.Sub(beat) <= j.lease && n.Stopping:
		next.State, next.Message = swarm.NodeStateDisconnected, stoppingMessage
	case !beat.IsZero() && j.now.Sub(beat) <= j.lease:
		if n.Status.State != swarm.NodeStateReady {
			next.State, next.Message = swarm.NodeStateReady, ""
		}
	case n.Status.State != swarm.NodeStateDown && j.now.Sub(since) > j.lease && !j.spared[n.ID]:
		next.State, next.Message = swarm.NodeStateDown, "heartbeat failure"
		if n.Stopping {
			next.Message = stoppedMessage
		}
	}
	return next
}

// manager is what a node in this state has as a manager's status, nil if it is none.
func (j judge) manager(n *store.Node, state swarm.NodeState) *swarm.ManagerStatus {
	addr, member := j.members[n.ID]
	if !member && n.ID != j.leader && (n.ManagerStatus == nil || len(j.members) > 0) {
		return nil
	}
	var out swarm.ManagerStatus
	if n.ManagerStatus != nil {
		out = *n.ManagerStatus
	}
	if addr != "" {
		out.Addr = addr
	}
	out.Leader = n.ID == j.leader
	if out.Leader && j.addr != "" {
		out.Addr = j.addr
	}
	switch {
	case out.Leader || state == swarm.NodeStateReady:
		out.Reachability = swarm.ReachabilityReachable
	case state == swarm.NodeStateDown:
		out.Reachability = swarm.ReachabilityUnreachable
	case out.Reachability == "":
		out.Reachability = swarm.ReachabilityUnknown
	}
	return &out
}

func sameManager(a, b *swarm.ManagerStatus) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}
