// Package control is the frame that all control loops of the orchestrator run
// in: read the whole state once, then follow its changes, decide, propose.
//
// A loop never decides on half a picture: every commit that is waiting is taken
// in before a round. A proposer returns after its own store applied the batch,
// so a round always knows the outcome of the rounds before it.
//
// When the watcher is cut off (the loop lagged, or a snapshot was restored) the
// loop starts over from the state. When a round fails it is repeated, soon if
// others changed the objects underneath, with growing pauses otherwise: the
// loop's term ends by its context when this node does not lead any more.
//
// | goroutine | owns               | ends                 |
// |-----------|--------------------|----------------------|
// | Run       | the Loop's memory  | when ctx is done     |
package control

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/meshd/meshd/orchestrator/store"
)

// MaxBatch is how many changes a loop puts into one batch, more or less: raft
// replicates such a batch in milliseconds, and a conflict costs little.
const MaxBatch = 500

// Loop is what differs between control loops. Its methods are called by one
// goroutine.
type Loop interface {
	// Reset forgets all and reads the state. The store is locked: only read.
	Reset(v *store.View)
	// Observe takes a change into account.
	Observe(e store.Event)
	// Round decides and proposes. It returns when it must run again though
	// nothing changes; the zero time means never.
	Round(ctx context.Context) (again time.Time, err error)
}

const (
	firstPause = 20 * time.Millisecond
	maxPause   = 2 * time.Second
)

// Run runs the loop until ctx is done and returns nil then.
func Run(ctx context.Context, s *store.Store, log *slog.Logger, l Loop) error {
	for ctx.Err() == nil {
		w := s.Watch(l.Reset)
		follow(ctx, w, log, l)
		w.Close()
	}
	return nil
}

// follow runs rounds until ctx is done or the watcher was cut off.
func follow(ctx context.Context, w *store.Watcher, log *slog.Logger, l Loop) {
	pause := firstPause
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case c, ok := <-w.C:
			if !ok || !drain(w, l, c) {
				return
			}
		case <-timer.C:
			if !drain(w, l, store.Commit{}) {
				return
			}
		}
		again, err := l.Round(ctx)
		switch {
		case err == nil:
			pause = firstPause
			rearm(timer, again)
		case ctx.Err() != nil:
			return
		default:
			if !errors.Is(err, store.ErrSequence) {
				log.Warn("round failed, trying again", "error", err, "in", pause)
			}
			rearm(timer, time.Now().Add(pause))
			pause = min(2*pause, maxPause)
		}
	}
}

// drain observes the commit and all that wait behind it; false if the watcher
// was cut off.
func drain(w *store.Watcher, l Loop, c store.Commit) bool {
	for {
		for _, e := range c.Events {
			l.Observe(e)
		}
		select {
		case next, ok := <-w.C:
			if !ok {
				return false
			}
			c = next
		default:
			return true
		}
	}
}

func rearm(timer *time.Timer, at time.Time) {
	timer.Stop()
	if !at.IsZero() {
		timer.Reset(max(time.Until(at), 0))
	}
}

// Earlier is the earlier of two times, of which the zero one means never.
func Earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
