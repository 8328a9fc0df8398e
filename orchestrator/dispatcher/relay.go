package dispatcher

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/containerd/errdefs"

	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/orchestrator/remote"
)

// Paths between managers.
const (
	pathRelay        = "/v1/relay"
	pathRelayDrained = "/v1/relay/drained"
)

// relay tells the leader who was heard.
func (d *Dispatcher) relay(ctx context.Context, t *term, leader string) {
	now := d.cfg.Clock()
	t.leading, t.last = false, now
	err := d.tell(ctx, t, leader)
	if d.reaches.Store(err == nil); err != nil {
		d.missing(ctx, &t.absence, now, err)
		return
	}
	t.absence = absence{}
}

// tell passes on what came in since it was last called.
func (d *Dispatcher) tell(ctx context.Context, t *term, leader string) error {
	if leader == "" {
		return errCutOff
	}
	r := d.ledger.take()
	if r.empty() && t.absence.since.IsZero() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, d.cfg.Lease/2)
	defer cancel()
	var reply relayReply
	if err := d.cfg.Caller.Call(ctx, leader, pathRelay, r, &reply); err != nil {
		d.ledger.putBack(r)
		return err
	}
	if reply.Ledger == "" || reply.Ledger != t.told {
		t.told = reply.Ledger
		var here []string // those that went to another manager acknowledge there
		d.each(func(s *session) { here = append(here, s.node) })
		d.ledger.tellAgain(here)
	}
	return nil
}

// relayReply names the ledger that took a relay in: a new one must be told all that
// is known. An earlier version's has no name, and is told all each time.
type relayReply struct{ Ledger string }

// handleRelay takes in what another manager heard.
func (d *Dispatcher) handleRelay(w http.ResponseWriter, r *http.Request) {
	var req relayed
	if err := remote.Read(r, &req); err != nil {
		remote.Fail(w, err)
		return
	}
	if _, _, me := d.cfg.Leader(); !me {
		remote.Fail(w, remote.Errorf(errdefs.ErrUnavailable, "this manager does not lead"))
		return
	}
	for _, node := range req.Beats {
		d.beat(node)
	}
	for node, acks := range req.Acks {
		d.ledger.ack(node, acks)
	}
	remote.Reply(w, relayReply{d.ledger.id})
}

// handleAck notes which revisions the caller's kernel holds.
func (d *Dispatcher) handleAck(w http.ResponseWriter, r *http.Request) {
	var req protocol.Ack
	if err := remote.Read(r, &req); err != nil {
		remote.Fail(w, err)
		return
	}
	d.acked(remote.Peer(r.Context()).NodeID, req)
	remote.Reply(w, struct{}{})
}

// handleAcks takes the acknowledgements of a node as long as its session stands.
func (d *Dispatcher) handleAcks(w http.ResponseWriter, r *http.Request) {
	node := remote.Peer(r.Context()).NodeID
	acks, err := remote.Take(w, r)
	if err == nil {
		defer acks.Close()
	}
	for err == nil && d.hasSession(node) {
		var a protocol.Ack
		if err = acks.Next(&a); err == nil {
			d.acked(node, a)
		}
	}
	d.cfg.Logger.Debug("no more acknowledgements", "node", node, "reason", err)
}

func (d *Dispatcher) acked(node string, a protocol.Ack) {
	d.beat(node)
	if a.Same || !d.ledger.ack(node, a.Networks) {
		return
	}
	if _, _, me := d.cfg.Leader(); !me {
		d.poke() // somebody may wait for it there
	}
}

// beat notes a sign of life of a node.
func (d *Dispatcher) beat(node string) {
	if d.ledger.beat(node, d.cfg.Clock(), d.cfg.Lease) {
		d.poke()
	}
}

// handleDrained answers when nobody sends new connections to the task any more.
func (d *Dispatcher) handleDrained(w http.ResponseWriter, r *http.Request) {
	var req protocol.DrainedRequest
	if err := remote.Read(r, &req); err != nil {
		remote.Fail(w, err)
		return
	}
	peer := remote.Peer(r.Context())
	d.beat(peer.NodeID)
	one := protocol.StatusReport{Updates: []protocol.StatusUpdate{{TaskID: req.TaskID}}}
	if err := d.checkOwner(peer.NodeID, one); err != nil {
		remote.Fail(w, err)
		return
	}
	reply, err := d.askDrained(r.Context(), req)
	if err != nil {
		remote.Fail(w, err)
		return
	}
	remote.Reply(w, reply)
}

// askDrained answers itself on the leader and asks it elsewhere.
func (d *Dispatcher) askDrained(ctx context.Context, req protocol.DrainedRequest) (protocol.DrainedReply, error) {
	_, addr, me := d.cfg.Leader()
	if me {
		return d.drained(ctx, req.TaskID)
	}
	var reply protocol.DrainedReply
	if addr == "" {
		return reply, remote.Errorf(errdefs.ErrUnavailable, "the swarm has no leader")
	}
	ctx, cancel := context.WithTimeout(ctx, d.cfg.DrainTimeout+time.Second)
	defer cancel()
	if err := d.cfg.Caller.Call(ctx, addr, pathRelayDrained, req, &reply); err != nil {
		return reply, fmt.Errorf("ask the leader: %w", err)
	}
	return reply, nil
}

// handleRelayDrained is handleDrained for a question that another manager passes on.
func (d *Dispatcher) handleRelayDrained(w http.ResponseWriter, r *http.Request) {
	var req protocol.DrainedRequest
	if err := remote.Read(r, &req); err != nil {
		remote.Fail(w, err)
		return
	}
	if _, _, me := d.cfg.Leader(); !me {
		remote.Fail(w, remote.Errorf(errdefs.ErrUnavailable, "this manager does not lead"))
		return
	}
	reply, err := d.drained(r.Context(), req.TaskID)
	if err != nil {
		remote.Fail(w, err)
		return
	}
	remote.Reply(w, reply)
}
