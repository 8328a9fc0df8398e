package journal

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/moby/moby/api/types/events"

	"github.com/meshd/meshd/orchestrator/store"
)

// kept is how many events a journal keeps; Docker keeps 256.
const kept = 2048

// Entry is an event with the raft index of the commit that it is part of.
type Entry struct {
	Index uint64
	events.Message
}

// Journal keeps the newest events of one replica.
type Journal struct {
	store *store.Store
	watch *store.Watcher
	// known are the objects that events are about, as of the last commit: what a
	// snapshot from another manager has changed shows by them.
	known map[string]store.Object

	mu      sync.Mutex
	entries []Entry
	index   uint64        // of the newest commit that was looked at
	grown   chan struct{} // closed when index has grown
}

// New returns a journal of all changes from now on; they wait until it runs.
func New(s *store.Store) *Journal {
	j := &Journal{store: s, known: map[string]store.Object{}, grown: make(chan struct{})}
	j.watch = s.Watch(func(v *store.View) {
		for _, o := range subjects(v) {
			j.known[name(o)] = o
		}
		j.index = v.Changed()
	})
	return j
}

// Run writes the journal until ctx ends.
func (j *Journal) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			j.watch.Close()
			return nil
		case commit, open := <-j.watch.C:
			if open {
				j.note(commit)
			} else {
				j.catchUp()
			}
		}
	}
}

// After returns the events behind a raft index that are kept, the index up to which
// the journal goes, and a channel that is closed when it goes further.
func (j *Journal) After(index uint64) (entries []Entry, upTo uint64, more <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	from, _ := slices.BinarySearchFunc(j.entries, index, func(e Entry, index uint64) int {
		if e.Index <= index {
			return -1
		}
		return 1
	})
	return slices.Clone(j.entries[from:]), j.index, j.grown
}

// UpTo waits until the journal has all commits up to a raft index.
func (j *Journal) UpTo(ctx context.Context, index uint64) error {
	for {
		_, upTo, more := j.After(index)
		if upTo >= index {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-more:
		}
	}
}

// note appends what a commit has changed.
func (j *Journal) note(c store.Commit) {
	var entries []Entry
	for _, e := range c.Events {
		o := e.Object()
		m, ok := message(e, c.Time)
		if !ok {
			continue
		}
		if j.known[name(o)] = o; e.Action == store.Remove {
			delete(j.known, name(o))
		}
		entries = append(entries, Entry{c.Index, m})
	}
	j.add(entries, c.Index)
}

// catchUp finds what has changed while the journal was cut off: by a snapshot of
// another manager, or because it had lagged. A snapshot that the replica begins with
// is no news.
func (j *Journal) catchUp() {
	var lost []store.Event
	var index uint64
	j.watch = j.store.Watch(func(v *store.View) {
		now := map[string]store.Object{}
		for _, o := range subjects(v) {
			now[name(o)] = o
			switch old := j.known[name(o)]; {
			case old == nil:
				lost = append(lost, store.Event{Action: store.Create, New: o})
			case store.Version(old) != store.Version(o):
				lost = append(lost, store.Event{Action: store.Update, Old: old, New: o})
			}
		}
		for id, o := range j.known {
			if now[id] == nil {
				lost = append(lost, store.Event{Action: store.Remove, Old: o})
			}
		}
		j.known, index = now, v.Changed()
	})
	if j.index == 0 {
		lost = nil
	}
	var entries []Entry
	for _, e := range lost {
		if m, ok := message(e, time.Now()); ok {
			entries = append(entries, Entry{index, m})
		}
	}
	slices.SortFunc(entries, func(a, b Entry) int { return cmp.Compare(a.TimeNano, b.TimeNano) })
	j.add(entries, index)
}

func (j *Journal) add(entries []Entry, index uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.entries = append(j.entries, entries...)
	if n := len(j.entries) - kept; n > 0 {
		j.entries = slices.Clone(j.entries[n:])
	}
	j.index = index
	close(j.grown)
	j.grown = make(chan struct{})
}

// subjects are the objects that there are events about.
func subjects(v *store.View) []store.Object {
	var out []store.Object
	out = appendAll(out, v.Nodes())
	out = appendAll(out, v.Services())
	out = appendAll(out, v.Networks())
	out = appendAll(out, v.Secrets())
	return appendAll(out, v.Configs())
}

func appendAll[T store.Object](out []store.Object, all []T) []store.Object {
	for _, o := range all {
		out = append(out, o)
	}
	return out
}

// name is unique among all objects.
func name(o store.Object) string { return string(o.Kind()) + "/" + o.Key() }
