package leader

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// part is a component that counts how many of it run.
func part(name string, running *atomic.Int32, die <-chan error) Component {
	return Component{Name: name, Run: func(ctx context.Context) error {
		running.Add(1)
		defer running.Add(-1)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-die:
			return err
		}
	}}
}

func TestTermEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running atomic.Int32
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			done <- Term(ctx, []Component{part("a", &running, nil), part("b", &running, nil)})
		}()
		synctest.Wait()
		if running.Load() != 2 {
			t.Fatalf("%d components run", running.Load())
		}
		cancel()
		if err := <-done; err != nil || running.Load() != 0 {
			t.Fatalf("%v, %d components left", err, running.Load())
		}
	})
}

func TestTermEndsWithAnyComponent(t *testing.T) {
	broken := errors.New("broken")
	for _, tc := range []struct {
		give, want error
	}{{broken, broken}, {nil, ErrEnded}} {
		var running atomic.Int32
		die := make(chan error, 1)
		die <- tc.give
		err := Term(t.Context(), []Component{part("a", &running, nil), part("weak", &running, die), part("c", &running, nil)})
		if !errors.Is(err, tc.want) || !strings.HasPrefix(err.Error(), "weak: ") || running.Load() != 0 {
			t.Errorf("%v, %d components left", err, running.Load())
		}
	}
}

func TestTermWithoutComponentsLasts(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Term(ctx, nil); err != nil {
		t.Error(err)
	}
}

func TestRunFollowsLeadership(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running, barriers atomic.Int32
		die := make(chan error)
		changes := make(chan bool)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			done <- Run(ctx, Config{
				Changes: changes,
				Ready: func(context.Context) error {
					if barriers.Add(1) == 1 {
						return errors.New("lost it again")
					}
					return nil
				},
				Components: func() []Component { return []Component{part("a", &running, die)} },
				Log:        slog.New(slog.DiscardHandler),
			})
		}()
		expect := func(what string, n int32) {
			t.Helper()
			synctest.Wait()
			if running.Load() != n {
				t.Fatalf("%s: %d components run, want %d", what, running.Load(), n)
			}
		}
		expect("at start", 0)
		changes <- true
		expect("elected, but the barrier failed", 0)
		<-time.After(2 * time.Second)
		expect("elected", 1)
		changes <- true
		expect("told again", 1)
		die <- errors.New("broken")
		expect("after it died", 0)
		<-time.After(2 * time.Second)
		expect("started again", 1)
		changes <- false
		expect("lost", 0)
		changes <- false
		changes <- true
		expect("elected again", 1)
		cancel()
		if err := <-done; err != nil || running.Load() != 0 {
			t.Fatalf("%v, %d components left", err, running.Load())
		}
	})
}
