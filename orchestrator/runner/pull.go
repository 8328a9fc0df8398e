package runner

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/client"

	"github.com/meshd/meshd/orchestrator/agent"
)

// pulls lets tasks that miss the same image share one pull. It goes on while
// anybody waits for it; the last one to lose interest ends it.
type pulls struct {
	mu      sync.Mutex
	running map[string]*onePull
	silent  map[string]time.Time // registries that did not answer, and when
}

type onePull struct {
	waiting int
	cancel  context.CancelFunc
	done    chan struct{}
	err     error // valid when done is closed
}

func newPulls() *pulls { return &pulls{running: map[string]*onePull{}, silent: map[string]time.Time{}} }

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

// registryPatience is how long a registry may take to begin its answer about an
// image that the engine has anyway.
const registryPatience = 1500 * time.Millisecond

// silentFor is how long a registry that took longer is not asked again about
// images that the engine has: without a way out every start would wait for it.
const silentFor = 10 * time.Minute

// makeFrom makes the container of a plan, with its image. What a tag stands for
// is asked of its registry each time, as in Swarm; the image that the engine has
// serves if the registry has nothing to say, or says nothing. A digest stands for one image for ever.
func (r *Runner) makeFrom(ctx context.Context, p plan, auth string) (string, error) {
	image := p.Create.Config.Image
	if pinned(image) || r.pulls.isSilent(image) {
		// Asking for the image first would cost every start a round trip.
		if id, err := r.make(ctx, p); !errdefs.IsNotFound(err) {
			return id, err
		}
	}
	missing := r.pull(ctx, image, auth)
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	id, err := r.make(ctx, p)
	if missing != nil && errdefs.IsNotFound(err) {
		return id, missing
	}
	return id, err
}

// pinned says that an image is named by its content.
func pinned(image string) bool {
	ref, err := reference.ParseAnyReference(image)
	_, digested := ref.(reference.Digested)
	return err == nil && digested
}

// pull gets an image, or what its tag stands for by now, once for all tasks that
// want it at the same time.
func (r *Runner) pull(ctx context.Context, image, auth string) error {
	err := r.pulls.do(ctx, image+"\x00"+auth, func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		if pinned(image) && r.hasImage(ctx, image) {
			return nil // another task's pull got it meanwhile
		}
		impatient := time.AfterFunc(registryPatience, func() {
			if r.hasImage(ctx, image) {
				r.pulls.fellSilent(image)
				cancel()
			}
		})
		defer impatient.Stop()
		stream, err := r.api.ImagePull(ctx, image, client.ImagePullOptions{RegistryAuth: auth})
		if err != nil {
			return err
		}
		impatient.Stop() // it has begun: what there is comes, however long that takes
		return stream.Wait(ctx)
	})
	switch {
	case err == nil || ctx.Err() != nil:
		return err
	case engineAway(err):
		return plain(err)
	}
	return pullError(image, auth, err)
}

func (p *pulls) fellSilent(image string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent[registryOf(image)] = time.Now()
}

func (p *pulls) isSilent(image string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	at, known := p.silent[registryOf(image)]
	return known && time.Since(at) < silentFor
}

// registryOf is the host that an image comes from.
func registryOf(image string) string {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return image
	}
	return reference.Domain(named)
}

func (r *Runner) hasImage(ctx context.Context, image string) bool {
	_, err := r.api.ImageInspect(ctx, image)
	return err == nil
}

// pullError says what a task's image is missing for. Whatever is not a registry's
// answer may pass: it has the class agent.ErrImage.
func pullError(image, auth string, err error) error {
	text := "No such image: " + image + ": " + said(err)
	denied := errdefs.IsUnauthorized(err) || errdefs.IsPermissionDenied(err) || slices.ContainsFunc(denials, func(d string) bool { return strings.Contains(text, d) })
	if denied && auth == "" {
		text += " (--with-registry-auth passes credentials on)"
	}
	if denied || errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err) {
		return &engineError{text: text, class: err}
	}
	return &engineError{text: text, class: agent.ErrImage}
}

// denials are what engines say of registries that do not let them in, whatever the status.
var denials = []string{"no basic auth credentials", "unauthorized", "denied"}
