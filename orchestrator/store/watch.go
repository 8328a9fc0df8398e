package store

import "time"

// Event is one applied change: Old is nil on Create, New on Remove.
type Event struct {
	Action Action
	Old    Object
	New    Object
}

// Object returns the object the event is about, in its newest form.
func (e Event) Object() Object {
	if e.New != nil {
		return e.New
	}
	return e.Old
}

// Commit is all that one batch changed.
type Commit struct {
	Index uint64
	// Time is when the batch was made, by the clock of the manager that made it.
	Time   time.Time
	Events []Event
}

// watchBuffer is how many commits a watcher may lag before it is cut off.
const watchBuffer = 4096

// Watcher receives commits in order on C. When C is closed before Close was
// called, the watcher lagged or the state was replaced: read a view anew.
type Watcher struct {
	C     <-chan Commit
	c     chan Commit
	store *Store
}

// Close ends the watch.
func (w *Watcher) Close() {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	w.store.endLocked(w)
}

// Watch calls fn with the current state and returns a watcher that receives
// every commit after exactly that state. fn may be nil.
func (s *Store) Watch(fn func(*View)) *Watcher {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := make(chan Commit, watchBuffer)
	w := &Watcher{C: c, c: c, store: s}
	s.watchers[w] = struct{}{}
	if fn != nil {
		fn(&s.view)
	}
	return w
}

func (s *Store) notifyLocked(c Commit) {
	for w := range s.watchers {
		select {
		case w.c <- c:
		default:
			s.endLocked(w)
		}
	}
}

func (s *Store) cutLocked() {
	for w := range s.watchers {
		s.endLocked(w)
	}
}

func (s *Store) endLocked(w *Watcher) {
	if _, ok := s.watchers[w]; ok {
		delete(s.watchers, w)
		close(w.c)
	}
}
