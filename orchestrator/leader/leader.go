// Package leader runs what only the leader of the managers may run.
//
// A term begins when this node is elected and the state it has is complete (the
// barrier), and ends when it is not the leader any more. All parts of a term start
// and end together: if one dies the others end too, and the term begins anew after
// a pause, from the stored state, which is all that the parts build on. Nothing of
// a term is left when Term has returned.
//
// | goroutine        | owns                  | ends                                |
// |------------------|-----------------------|-------------------------------------|
// | Run              | which term is on      | when its ctx is done                |
// | term (one)       | the components' ctx   | leadership lost, or a component died|
// | one per component| what it does          | with the term                       |
package leader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Component is a part of the leader's work.
type Component struct {
	Name string
	// Run works until ctx is done and has ended its own goroutines when it returns.
	// Returning earlier, with an error or not, ends the term.
	Run func(ctx context.Context) error
}

// ErrEnded: a component returned although its term was not over.
var ErrEnded = errors.New("ended by itself")

// Term runs the components until ctx is done or one of them returns; then it ends
// and joins the others. It returns nil if ctx was done first, else why the first
// component ended.
func Term(ctx context.Context, components []Component) error {
	term, end := context.WithCancelCause(ctx)
	defer end(nil)
	var wg sync.WaitGroup
	for _, c := range components {
		wg.Go(func() {
			err := c.Run(term)
			if err == nil {
				err = ErrEnded
			}
			end(fmt.Errorf("%s: %w", c.Name, err)) // only the first cause is kept
		})
	}
	<-term.Done()
	cause := context.Cause(term)
	wg.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return cause
}

// Config is what Run works with.
type Config struct {
	// Changes says whether this node leads, whenever that changed. The last value
	// counts. Run reads it all the time.
	Changes <-chan bool
	// Ready returns when the store has all that was acknowledged before the term.
	// nil means it always has.
	Ready func(ctx context.Context) error
	// Components makes the parts of a new term.
	Components func() []Component
	// Pause between a term that died and the next attempt; a second if zero.
	Pause time.Duration
	Log   *slog.Logger
}

// Run runs terms while this node leads, until ctx is done.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Pause == 0 {
		cfg.Pause = time.Second
	}
	stop := func() {}
	defer func() { stop() }()
	leading := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case leads, ok := <-cfg.Changes:
			if !ok {
				return errors.New("leader: no more news of who leads")
			}
			if leading { // the same again: it was lost and won before anybody looked
				stop()
				stop = func() {}
				cfg.Log.Info("this node's term as the leader is over")
			}
			if leading = leads; leading {
				cfg.Log.Info("this node leads the swarm now")
				stop = start(ctx, cfg)
			}
		}
	}
}

// start runs terms in a goroutine; the returned function ends and joins it.
func start(ctx context.Context, cfg Config) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			err := attempt(ctx, cfg)
			if ctx.Err() != nil {
				return
			}
			cfg.Log.Error("the leader's work stopped, starting it again", "error", err, "in", cfg.Pause)
			select {
			case <-ctx.Done():
			case <-time.After(cfg.Pause):
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

func attempt(ctx context.Context, cfg Config) error {
	if cfg.Ready != nil {
		if err := cfg.Ready(ctx); err != nil {
			return fmt.Errorf("wait for the state to be complete: %w", err)
		}
	}
	return Term(ctx, cfg.Components())
}
