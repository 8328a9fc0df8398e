package runner

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"
)

// event is what a watch tells its reader.
type event int

const (
	eventNone      event = iota
	eventLook            // something may have been missed: inspect
	eventHealthy         // the health check passes
	eventUnhealthy       // the health check gave up
	eventDied            // the process ended
)

// watch collects what happened to one container until somebody asks.
type watch struct {
	wake chan struct{}

	mu     sync.Mutex
	look   bool
	health event
	died   bool
	code   int
	told   bool // unhealthy was returned once
}

// next waits for the next event. An end stays; health is told once.
func (w *watch) next(ctx context.Context) (event, error) {
	for {
		if e := w.take(); e != eventNone {
			return e, nil
		}
		select {
		case <-ctx.Done():
			return eventNone, ctx.Err()
		case <-w.wake:
		}
	}
}

func (w *watch) take() event {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.died:
		return eventDied
	case w.look:
		w.look = false
		return eventLook
	case w.health == eventUnhealthy && w.told:
		w.health = eventNone
	case w.health != eventNone:
		e := w.health
		w.health, w.told = eventNone, e == eventUnhealthy
		return e
	}
	return eventNone
}

// tellUnhealthy says whether this is the first time.
func (w *watch) tellUnhealthy() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	first := !w.told
	w.told = true
	return first
}

func (w *watch) exitCode() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.code
}

func (w *watch) set(change func(*watch)) {
	w.mu.Lock()
	change(w)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// hub hands the engine's events to the watches, by container ID.
type hub struct {
	mu      sync.Mutex
	watches map[string]*watch
}

func newHub() *hub { return &hub{watches: map[string]*watch{}} }

// watch returns the container's watch. A new one begins with a look if the
// container's past is not known.
func (h *hub) watch(id string, look bool) *watch {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := h.watches[id]
	if w == nil {
		w = &watch{wake: make(chan struct{}, 1), look: look}
		h.watches[id] = w
	}
	return w
}

func (h *hub) forget(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.watches, id)
}

// gap tells all watches that events may have been missed.
func (h *hub) gap() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, w := range h.watches {
		w.set(func(w *watch) { w.look = true })
	}
}

func (h *hub) dispatch(m events.Message) {
	h.mu.Lock()
	w := h.watches[m.Actor.ID]
	h.mu.Unlock()
	if w == nil {
		return
	}
	switch {
	case m.Action == events.ActionDie:
		code, err := strconv.Atoi(m.Actor.Attributes["exitCode"])
		if err != nil {
			code = exitUnknown
		}
		w.set(func(w *watch) { w.died, w.code = true, code })
	case m.Action == events.ActionDestroy:
		w.set(func(w *watch) { w.look = true })
	case m.Action == events.ActionHealthStatusHealthy:
		w.set(func(w *watch) { w.health, w.told = eventHealthy, false })
	case m.Action == events.ActionHealthStatusUnhealthy:
		w.set(func(w *watch) { w.health = eventUnhealthy })
	case strings.HasPrefix(string(m.Action), string(events.ActionHealthStatus)):
		w.set(func(w *watch) { w.look = true })
	}
}

// follow keeps one event stream open.
func (r *Runner) follow(ctx context.Context) error {
	const first, longest = 50 * time.Millisecond, 2 * time.Second
	delay := first
	for {
		// The engine answers before it subscribes; asking from a moment earlier on
		// closes that gap. What comes twice does no harm.
		since := time.Now().Add(-time.Second)
		stream := r.api.Events(ctx, client.EventsListOptions{
			Since: strconv.FormatInt(since.Unix(), 10),
			Filters: ours().Add("type", string(events.ContainerEventType)).
				Add("event", string(events.ActionDie), string(events.ActionDestroy), string(events.ActionHealthStatus)),
		})
		err := r.drainEvents(stream, func() { delay = first })
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r.log.Warn("the engine's event stream broke", "error", plain(err), "retry", delay)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(delay):
		}
		delay = min(2*delay, longest)
	}
}

// drainEvents dispatches until the stream ends.
func (r *Runner) drainEvents(stream client.EventsResult, connected func()) error {
	select {
	case err := <-stream.Err: // not connected
		return err
	default:
	}
	connected()
	r.hub.gap()
	for {
		select {
		case m := <-stream.Messages:
			r.hub.dispatch(m)
		case err := <-stream.Err:
			return err
		}
	}
}
