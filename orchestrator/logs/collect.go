package logs

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/tasklife"
)

// Message is a line of a task, or the reason why it gives none.
type Message struct {
	Task *store.Task
	Line Line
	Err  error
}

// Collector joins the logs of tasks on many nodes.
type Collector struct {
	Store *store.Store
	// Nodes answer requests; the host is the node's ID.
	Nodes http.RoundTripper
	// Retry is the pause before a node that could not be reached is called again
	// while its logs are followed; default 3 s.
	Retry time.Duration
	// Silence is how long a node may say nothing at all; default 6 s, a little more
	// than it has for calling back.
	Silence time.Duration
}

var errSilent = errors.New("the node does not answer")

// Collect calls emit, one call at a time, with what the tasks wrote that choose
// names. It returns when all has been read, when ctx ends while following, or
// with emit's error.
func (c Collector) Collect(ctx context.Context, choose func(*store.View) []*store.Task, o Options, emit func(Message) error) error {
	if o.Follow {
		return c.follow(ctx, choose, o, emit)
	}
	var tasks []*store.Task
	c.Store.View(func(v *store.View) { tasks = readable(choose(v)) })
	return c.merge(ctx, tasks, o, emit)
}

// readable are the tasks that may have a container.
func readable(tasks []*store.Task) []*store.Task {
	return slices.DeleteFunc(slices.Clone(tasks), func(t *store.Task) bool {
		return t.NodeID == "" || tasklife.Before(t.Status.State, "starting") || t.Status.State == "rejected"
	})
}

// merge reads all tasks at once and emits their lines by time; what went wrong
// comes last.
func (c Collector) merge(ctx context.Context, tasks []*store.Task, o Options, emit func(Message) error) error {
	g, ctx := errgroup.WithContext(ctx)
	heads := make([]head, len(tasks))
	failed := make([]error, len(tasks))
	for i, t := range tasks {
		lines := make(chan Line, 64)
		heads[i] = head{task: t, lines: lines}
		g.Go(func() error {
			defer close(lines)
			failed[i] = c.read(ctx, t, o, func(l Line) error {
				select {
				case lines <- l:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			})
			return nil
		})
	}
	g.Go(func() error { return inOrder(ctx, heads, emit) })
	if err := g.Wait(); err != nil {
		return err
	}
	for i, t := range tasks {
		if failed[i] == nil {
			continue
		}
		if err := emit(Message{Task: t, Err: failed[i]}); err != nil {
			return err
		}
	}
	return nil
}

// head is a task's next line.
type head struct {
	task  *store.Task
	lines <-chan Line
	next  Line
	ready bool
}

// inOrder emits the earliest of the next lines until there are none.
func inOrder(ctx context.Context, heads []head, emit func(Message) error) error {
	for {
		var first *head
		for i := range heads {
			h := &heads[i]
			if !h.ready && h.lines != nil {
				h.next, h.ready = <-h.lines
				if !h.ready {
					h.lines = nil
				}
			}
			if h.ready && (first == nil || h.next.Time.Before(first.next.Time)) {
				first = h
			}
		}
		if first == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		first.ready = false
		if err := emit(Message{Task: first.task, Line: first.next}); err != nil {
			return err
		}
	}
}

// follow reads each task from the moment when it may have a container.
func (c Collector) follow(ctx context.Context, choose func(*store.View) []*store.Task, o Options, emit func(Message) error) error {
	g, ctx := errgroup.WithContext(ctx)
	var mu sync.Mutex
	one := func(m Message) error {
		mu.Lock()
		defer mu.Unlock()
		return emit(m)
	}
	g.Go(func() error {
		seen := map[string]bool{}
		now := o
		for ctx.Err() == nil {
			var tasks []*store.Task
			w := c.Store.Watch(func(v *store.View) { tasks = readable(choose(v)) })
			for _, t := range tasks {
				if !seen[t.ID] {
					seen[t.ID] = true
					opts := now
					g.Go(func() error { return c.followTask(ctx, t, opts, one) })
				}
			}
			now.Tail = -1 // of those that start from now on nothing was there to leave out
			wait(ctx, w, func(e store.Event) bool { return e.Object().Kind() == store.KindTask })
			w.Close()
		}
		return nil
	})
	err := g.Wait()
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// wait returns when a commit has such an event, or the watcher was cut off.
func wait(ctx context.Context, w *store.Watcher, such func(store.Event) bool) {
	for {
		select {
		case <-ctx.Done():
			return
		case commit, ok := <-w.C:
			if !ok || slices.ContainsFunc(commit.Events, such) {
				return
			}
		}
	}
}

// followTask reads until the task has ended, over absences of its node, which
// are told once each.
func (c Collector) followTask(ctx context.Context, t *store.Task, o Options, emit func(Message) error) error {
	told := false
	var failed error
	for {
		err := c.read(ctx, t, o, func(l Line) error {
			told, o.Tail, o.Since = false, -1, l.Time.Add(1)
			failed = emit(Message{Task: t, Line: l})
			return failed
		})
		if failed != nil || ctx.Err() != nil || !c.goesOn(t) {
			return failed
		}
		pause := cmp.Or(c.Retry, 3*time.Second)
		if err == nil { // the engine follows no container that does not run yet
			pause /= 10
		} else if !told {
			told = true
			if err := emit(Message{Task: t, Err: err}); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

func (c Collector) goesOn(t *store.Task) (yes bool) {
	c.Store.View(func(v *store.View) {
		now := v.Task(t.ID)
		yes = now != nil && !tasklife.Ended(now)
	})
	return yes
}

// read asks the task's node for its lines.
func (c Collector) read(ctx context.Context, t *store.Task, o Options, line func(Line) error) error {
	take := func(it item) error {
		if it.Line == nil {
			return nil
		}
		return line(*it.Line)
	}
	return patiently(ctx, cmp.Or(c.Silence, 6*time.Second), errSilent, take, func(ctx context.Context, got func(item) error) error {
		return c.items(ctx, t, o, got)
	})
}

// patiently has a source give what it has, and breaks it off with the error silent when
// it gives nothing for so long. Who takes something may be slow.
func patiently[T any](ctx context.Context, patience time.Duration, silent error, take func(T) error, give func(context.Context, func(T) error) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(patience, func() { cancel(silent) })
	defer watchdog.Stop()
	err := give(ctx, func(v T) error {
		watchdog.Stop()
		defer watchdog.Reset(patience)
		return take(v)
	})
	if err != nil && errors.Is(context.Cause(ctx), silent) {
		return silent
	}
	return err
}

// items gives what the task's node sends until there is no more.
func (c Collector) items(ctx context.Context, t *store.Task, o Options, got func(item) error) error {
	url := fmt.Sprintf("http://%s%s?%s", t.NodeID, strings.Replace(strings.TrimPrefix(pattern, "GET "), "{task}", t.ID, 1), o.query())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := c.Nodes.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10)) // what there is of it
		return fmt.Errorf("the node answers %s: %s", resp.Status, strings.TrimSpace(string(text)))
	}
	for dec := json.NewDecoder(resp.Body); ; {
		var it item
		err := dec.Decode(&it)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("the connection to the node broke: %w", err)
		case it.Error != "":
			return errors.New(it.Error)
		}
		if err := got(it); err != nil {
			return err
		}
	}
}
