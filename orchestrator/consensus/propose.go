package consensus

import (
	"context"
	"errors"
	"time"

	"github.com/containerd/errdefs"
	"github.com/hashicorp/raft"

	"github.com/meshd/meshd/orchestrator/remote"
	"github.com/meshd/meshd/orchestrator/store"
)

const (
	// patience is how long a call waits for a leader when its context has no deadline.
	patience = 10 * time.Second
	// maxBatch bounds an encoded batch; it must fit a call's body as base64.
	maxBatch = 2 << 20
	// retryFirst and retryMost bound the pause between tries.
	retryFirst = 10 * time.Millisecond
	retryMost  = 200 * time.Millisecond
)

const noLeader = "The swarm does not have a leader. It's possible that too few managers are online. " +
	"Make sure more than half of the managers are online."

// errNotLeader: ask somebody else; nothing was done here.
func errNotLeader() error {
	return remote.Errorf(remote.ErrElsewhere, "this manager is not the leader")
}

func errStopped() error {
	return remote.Errorf(errdefs.ErrUnavailable, "this manager is shutting down")
}

// Propose implements store.Proposer. It waits for a leader until the context
// ends (ten seconds if it has no deadline); then the error is errdefs.ErrUnavailable.
func (n *Node) Propose(ctx context.Context, b store.Batch) (uint64, error) {
	id, entry, err := newEntry(b)
	if err != nil {
		return 0, err
	}
	ctx, cancel := patient(ctx)
	defer cancel()
	applied := n.fsm.await(id)
	defer n.fsm.forget(id)
	p := proposal{node: n, entry: entry, applied: applied}
	return p.run(ctx)
}

// AsLeader returns a proposer for what is decided in the present term of this
// node's leadership: it appends nothing once the term is over, at no other leader
// either. So all that it ever appended is in the picture that the next leader
// decides on, and no two of them fill the same gap.
func (n *Node) AsLeader() store.Proposer { return termProposer{n, n.readyTerm.Load()} }

type termProposer struct {
	node *Node
	term uint64
}

// Propose implements store.Proposer.
func (p termProposer) Propose(ctx context.Context, b store.Batch) (uint64, error) {
	_, entry, err := newEntry(b)
	if err != nil {
		return 0, err
	}
	if now := p.node.readyTerm.Load(); now == 0 || now != p.term {
		return 0, errNotLeader()
	}
	o, err := p.node.apply(ctx, entry)
	if err != nil {
		return 0, err
	}
	return o.result()
}

func newEntry(b store.Batch) (id proposalID, entry []byte, err error) {
	batch, err := b.Encode()
	if err != nil {
		return id, nil, err
	}
	if len(batch) > maxBatch {
		return id, nil, remote.Errorf(errdefs.ErrInvalidArgument, "the change takes %d bytes, at most %d fit one transaction", len(batch), maxBatch)
	}
	id, err = newProposalID()
	return id, encodeEntry(id, batch), err
}

// proposal is one Propose under way.
type proposal struct {
	node    *Node
	entry   []byte
	applied <-chan outcome
	// sent: a leader may have appended it.
	sent bool
}

func (p *proposal) run(ctx context.Context) (uint64, error) {
	pause := retryFirst
	for {
		o, err := p.try(ctx)
		if err == nil {
			return o.result()
		}
		if !retryable(err) && ctx.Err() == nil {
			return 0, err
		}
		t := time.NewTimer(pause)
		pause = min(2*pause, retryMost)
		select {
		case o := <-p.applied:
			t.Stop()
			return o.result()
		case <-ctx.Done():
			t.Stop()
			return 0, p.gaveUp(ctx)
		case <-p.node.stop:
			t.Stop()
			return 0, errStopped()
		case <-t.C:
		}
	}
}

// try gives the entry to the leader and waits for it to be applied here.
func (p *proposal) try(ctx context.Context) (outcome, error) {
	type answer struct {
		outcome outcome
		err     error
	}
	got := make(chan answer, 1)
	tctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if !p.node.spawn(func() {
		o, err := p.node.submit(tctx, p.entry)
		got <- answer{o, err}
	}) {
		return outcome{}, errStopped()
	}
	select {
	case o := <-p.applied:
		return o, nil
	case <-ctx.Done():
		p.sent = true
		return outcome{}, ctx.Err()
	case a := <-got:
		if a.err != nil {
			p.sent = p.sent || !surelyNot(a.err)
			return outcome{}, a.err
		}
		// A snapshot may have brought it, then only the leader knows the outcome.
		p.sent = true
		return a.outcome, p.node.fsm.wait(ctx, a.outcome.Index)
	}
}

// spawn runs fn in a goroutine that Close waits for; false when closed.
func (n *Node) spawn(fn func()) bool {
	n.callsMu.Lock()
	defer n.callsMu.Unlock()
	select {
	case <-n.stop:
		return false
	default:
	}
	n.calls.Go(fn)
	return true
}

// submit has the leader append an entry: this node or another.
func (n *Node) submit(ctx context.Context, entry []byte) (outcome, error) {
	if n.IsLeader() {
		return n.apply(ctx, entry)
	}
	var o outcome
	err := n.callLeader(ctx, pathPropose, proposeRequest{Entry: entry}, &o)
	return o, err
}

// apply appends an entry as leader.
func (n *Node) apply(ctx context.Context, entry []byte) (outcome, error) {
	timeout := patience
	if d, ok := ctx.Deadline(); ok {
		timeout = max(time.Until(d), time.Millisecond)
	}
	f := n.raft.Apply(entry, timeout)
	if err := f.Error(); err != nil {
		if err = classify(err); !retryable(err) {
			// The log was not written, or nobody knows: another manager leads soon.
			err = remote.Errorf(errdefs.ErrAborted, "%v", err)
		}
		return outcome{}, err
	}
	o, ok := f.Response().(outcome)
	if !ok {
		return outcome{}, errStopped()
	}
	return o, nil
}

// classify says what an error of raft means to who asked.
func classify(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress),
		errors.Is(err, raft.ErrEnqueueTimeout):
		return errNotLeader()
	case errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrAbortedByRestore):
		return remote.Errorf(errdefs.ErrAborted, "this manager lost leadership meanwhile")
	case errors.Is(err, raft.ErrRaftShutdown):
		return errStopped()
	}
	return err
}

// retryable: another try may find a leader. The store's refusals never come here.
func retryable(err error) bool {
	return errors.Is(err, remote.ErrElsewhere) || errdefs.IsAborted(err) || errdefs.IsUnavailable(err) ||
		errdefs.IsDeadlineExceeded(err) || errdefs.IsCanceled(err) || errdefs.IsNotImplemented(err)
}

// surelyNot: the leader has not appended the entry.
func surelyNot(err error) bool {
	return errors.Is(err, remote.ErrElsewhere) || errdefs.IsNotImplemented(err) || errors.Is(err, remote.ErrNotSent)
}

func (p *proposal) gaveUp(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	if p.sent {
		return remote.Errorf(errdefs.ErrUnavailable, "%s It is not known whether the change was made.", p.node.leaderless())
	}
	return remote.Errorf(errdefs.ErrUnavailable, "%s", p.node.leaderless())
}

// leaderless says that there is no leader, and why this manager cannot be it.
func (n *Node) leaderless() string {
	if err := n.Trouble(); err != nil {
		return noLeader + " " + err.Error() + "."
	}
	return noLeader
}

func patient(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, patience)
}

// onLeader has a step done by the leader, by local or by a call, again and
// again until one does it or the context ends. The step must bear repetition.
func (n *Node) onLeader(ctx context.Context, path string, in, out any, local func(context.Context) error) error {
	ctx, cancel := patient(ctx)
	defer cancel()
	pause := retryFirst
	var refused error // the last answer that was more than "not the leader"
	for {
		err := n.onceOnLeader(ctx, path, in, out, local)
		if err == nil || !retryable(err) {
			return err
		}
		if errdefs.IsAborted(err) {
			refused = err
		}
		t := time.NewTimer(pause)
		pause = min(2*pause, retryMost)
		select {
		case <-t.C:
		case <-n.stop:
			t.Stop()
			return errStopped()
		case <-ctx.Done():
			t.Stop()
			if errors.Is(ctx.Err(), context.Canceled) {
				return ctx.Err()
			}
			if refused != nil && n.hasLeader() {
				return refused
			}
			return remote.Errorf(errdefs.ErrUnavailable, "%s", n.leaderless())
		}
	}
}

func (n *Node) onceOnLeader(ctx context.Context, path string, in, out any, local func(context.Context) error) error {
	if n.IsLeader() {
		return local(ctx)
	}
	if path == pathTransfer || path == pathRemove || path == pathAdd {
		// These may themselves move the leader, who answers all the same.
		addr, err := n.otherLeader()
		if err != nil {
			return err
		}
		return n.cfg.Client.Call(ctx, addr, path, in, out)
	}
	return n.callLeader(ctx, path, in, out)
}

func (n *Node) hasLeader() bool {
	id, _ := n.Leader()
	return id != ""
}
