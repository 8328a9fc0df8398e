package dispatcher

import (
	"context"
	"maps"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"github.com/meshd/meshd/orchestrator/remote"
)

// A manager that cannot tell the leader who was heard does its nodes no good: they
// would count as dead. But to send them elsewhere helps only if it is better there,
// and it is dear: each session begins with the whole picture. Managers that starve lose
// their leader; if all sessions ended for that, their return would starve them the
// more. So the others are asked first: while no manager reaches a leader, sessions stay
// where they are, and go on when there is one again. Those that do end are ended over
// a lease, not all at once.

// pathReaches is the question between managers.
const pathReaches = "/v1/relay/reaches"

// reachesReply says whether a manager leads, or reaches the leader.
type reachesReply struct{ Reaches bool }

// maxPatience bounds, in leases, the time between two attempts to send the
// sessions elsewhere.
const maxPatience = 16

// absence is how long the leader has been out of reach.
type absence struct {
	since time.Time // zero: it is not
	// patience is how long to bear that before the sessions are sent elsewhere.
	patience time.Duration
	// share is how many of them to end with each look; zero: they stay.
	share int
}

// missing is one more look at an absent leader.
func (d *Dispatcher) missing(ctx context.Context, a *absence, now time.Time, cause error) {
	if a.since.IsZero() {
		*a = absence{since: now, patience: d.cfg.Lease}
		return
	}
	over := now.Sub(a.since) - a.patience
	if over <= 0 {
		return
	}
	if a.share == 0 {
		if !d.betterElsewhere(ctx) {
			a.since = now
			return
		}
		d.cfg.Logger.Warn("this manager cannot reach the leader; sending its nodes elsewhere", "error", cause)
		a.share = 1 + int(time.Duration(d.count())*d.cfg.Relay/d.cfg.Lease)
	}
	if over < d.cfg.Lease {
		d.shed(a.share)
		return
	}
	d.shed(d.count())
	*a = absence{since: now, patience: min(2*a.patience, maxPatience*d.cfg.Lease)}
}

// shed ends some of the sessions.
func (d *Dispatcher) shed(count int) {
	d.each(func(s *session) {
		if count > 0 {
			s.end(errCutOff)
			count--
		}
	})
}

// betterElsewhere asks the other managers whether they reach the leader. If none of them
// answers it is this one that is cut off, and any that its nodes find is better.
func (d *Dispatcher) betterElsewhere(ctx context.Context) bool {
	if d.cfg.Members == nil {
		return true
	}
	others := maps.Clone(d.cfg.Members())
	delete(others, d.cfg.NodeID)
	ctx, cancel := context.WithTimeout(ctx, d.cfg.Lease/2)
	defer cancel()
	var answers, reaching atomic.Int64
	var asked sync.WaitGroup
	for _, addr := range others {
		asked.Go(func() {
			var reply reachesReply
			err := d.cfg.Caller.Call(ctx, addr, pathReaches, struct{}{}, &reply)
			if err == nil {
				answers.Add(1)
			}
			if reply.Reaches || errdefs.IsNotImplemented(err) { // of an earlier version: perhaps
				reaching.Add(1)
			}
		})
	}
	asked.Wait()
	return reaching.Load() > 0 || answers.Load() == 0 && len(others) > 0
}

// handleReaches tells another manager whether nodes are better off here.
func (d *Dispatcher) handleReaches(w http.ResponseWriter, _ *http.Request) {
	remote.Reply(w, reachesReply{d.reaches.Load()})
}
