package runner

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
)

func TestPullsAreShared(t *testing.T) {
	p := newPulls()
	var runs atomic.Int32
	begun, finish := make(chan struct{}), make(chan struct{})
	fn := func(context.Context) error {
		if runs.Add(1) == 1 {
			close(begun)
		}
		<-finish
		return errors.New("sorry")
	}
	var wg sync.WaitGroup
	join := func() {
		wg.Go(func() {
			if err := p.do(t.Context(), "k", fn); err == nil || err.Error() != "sorry" {
				t.Errorf("got %v", err)
			}
		})
	}
	join()
	<-begun
	for range 5 {
		join()
	}
	waitFor(t, p, "k", 6)
	close(finish)
	wg.Wait()
	if runs.Load() != 1 || len(p.running) != 0 {
		t.Errorf("%d runs, %d left", runs.Load(), len(p.running))
	}
}

func TestLastWaiterEndsThePull(t *testing.T) {
	p := newPulls()
	ended := make(chan struct{})
	fn := func(ctx context.Context) error {
		<-ctx.Done()
		close(ended)
		return ctx.Err()
	}
	first, cancelFirst := context.WithCancel(t.Context())
	second, cancelSecond := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, ctx := range []context.Context{first, second} {
		wg.Go(func() {
			if err := p.do(ctx, "k", fn); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		})
	}
	waitFor(t, p, "k", 2)
	cancelFirst()
	waitFor(t, p, "k", 1)
	select {
	case <-ended:
		t.Error("ended while somebody waits")
	default:
	}
	cancelSecond()
	wg.Wait()
	<-ended
}

func waitFor(t *testing.T, p *pulls, key string, n int) {
	t.Helper()
	eventually(t, testLimit, "waiters", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.running[key] != nil && p.running[key].waiting == n
	})
}
