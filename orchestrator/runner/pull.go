package runner

import (
	"context"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
)

// pulls lets tasks that miss the same image share one pull. It goes on while
// anybody waits for it; the last one to lose interest ends it.
type pulls struct {
	mu      sync.Mutex
	running map[string]*onePull
}

type onePull struct {
	waiting int
	cancel  context.CancelFunc
	done    chan struct{}
	err     error // valid when done is closed
}

func newPulls() *pulls { return &pulls{running: map[string]*onePull{}} }

// do runs fn, or joins a run for the same key.
func (p *pulls) do(ctx context.Context, key string, fn func(context.Context) error) error {
	p.mu.Lock()
	o := p.running[key]
	if o == nil {
		shared, cancel := context.WithCancel(context.WithoutCancel(ctx))
		o = &onePull{cancel: cancel, done: make(chan struct{})}
		p.running[key] = o
		go func() {
			defer close(o.done)
			o.err = fn(shared)
			p.forget(key, o)
		}()
	}
	o.waiting++
	p.mu.Unlock()

	var err error
	select {
	case <-o.done:
		err = o.err
	case <-ctx.Done():
		err = ctx.Err()
	}
	p.leave(key, o)
	return err
}

// leave ends a pull that nobody waits for any more.
func (p *pulls) leave(key string, o *onePull) {
	p.mu.Lock()
	o.waiting--
	last := o.waiting == 0
	if last && p.running[key] == o {
		delete(p.running, key) // whoever comes now begins anew
	}
	p.mu.Unlock()
	if last {
		o.cancel()
		<-o.done
	}
}

func (p *pulls) forget(key string, o *onePull) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running[key] == o {
		delete(p.running, key)
	}
}

// pull gets an image, once for all tasks that miss it.
func (r *Runner) pull(ctx context.Context, image, auth string) error {
	err := plain(r.pulls.do(ctx, image+"\x00"+auth, func(ctx context.Context) error {
		if _, err := r.api.ImageInspect(ctx, image); !errdefs.IsNotFound(err) {
			return err // nil: another task's pull got it meanwhile
		}
		stream, err := r.api.ImagePull(ctx, image, client.ImagePullOptions{RegistryAuth: auth})
		if err != nil {
			return err
		}
		return stream.Wait(ctx)
	}))
	if err == nil || ctx.Err() != nil || errdefs.IsUnavailable(err) {
		return err
	}
	return &engineError{text: "No such image: " + image + ": " + err.Error(), class: err}
}
