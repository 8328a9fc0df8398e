package runner

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/meshd/meshd/orchestrator/agent"
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

func TestPinned(t *testing.T) {
	const digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for image, want := range map[string]bool{
		"web": false, "web:1": false, "host:5000/a/web:1": false, "Not An Image": false,
		"web@" + digest: true, "host:5000/a/web:1@" + digest: true, digest: true,
	} {
		if got := pinned(image); got != want {
			t.Errorf("pinned(%q) = %v", image, got)
		}
	}
}

func TestSilentRegistryIsLeftAlone(t *testing.T) {
	p := newPulls()
	p.fellSilent("host:5000/a/web:1")
	for image, want := range map[string]bool{"host:5000/b": true, "host:5001/a/web:1": false, "web": false, "Not An Image": false} {
		if got := p.isSilent(image); got != want {
			t.Errorf("%s: %v", image, got)
		}
	}
	p.silent["host:5000"] = time.Now().Add(-silentFor)
	if p.isSilent("host:5000/b") {
		t.Error("it is never asked again")
	}
}

// What a registry answers is final; what keeps it from answering may pass.
func TestPullErrors(t *testing.T) {
	for _, tt := range []struct {
		err   error
		auth  string
		again bool
		want  string
	}{
		{errors.New("Error response from daemon: dial tcp: connection refused"), "", true, "No such image: web:1: dial tcp: connection refused"},
		{errors.New("received unexpected HTTP status: 503 Service Unavailable"), "", true, "No such image: web:1: received unexpected HTTP status: 503 Service Unavailable"},
		{fmt.Errorf("manifest for web:1 not found: %w", errdefs.ErrNotFound), "", false, "No such image: web:1: manifest for web:1 not found: not found"},
		{errors.New("Head \"x\": no basic auth credentials"), "", false, "No such image: web:1: Head \"x\": no basic auth credentials (--with-registry-auth passes credentials on)"},
		{errors.New("unauthorized: authentication required"), "given", false, "No such image: web:1: unauthorized: authentication required"},
	} {
		err := pullError("web:1", tt.auth, tt.err)
		if err.Error() != tt.want || errors.Is(err, agent.ErrImage) != tt.again {
			t.Errorf("%v becomes %q, again %v", tt.err, err, errors.Is(err, agent.ErrImage))
		}
	}
}

func waitFor(t *testing.T, p *pulls, key string, n int) {
	t.Helper()
	eventually(t, testLimit, "waiters", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.running[key] != nil && p.running[key].waiting == n
	})
}
