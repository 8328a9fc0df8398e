package dispatcher

import (
	"maps"
	"sync"
	"time"

	"github.com/meshd/meshd/orchestrator/store"
)

// ledger holds what nodes were heard of: when last, and which network revisions
// their kernels hold. On the leader it is the truth about leases; followers fill
// it for what they relay.
type ledger struct {
	// id tells this ledger from that of another leader, or of another life.
	id string
	// hold is how long beats of a node count for nothing after it was declared
	// down: relayed ones may have been under way since before.
	hold time.Duration

	mu    sync.Mutex
	nodes map[string]*entry
	// news is closed, and replaced, when an acknowledgement changed.
	news chan struct{}
}

type entry struct {
	seen  time.Time // last beat; zero if never
	grace time.Time // counts as seen then, for want of a beat
	deaf  time.Time // beats before are ignored
	acks  map[string]uint64

	freshBeat, freshAcks bool // not relayed yet
}

func newLedger(hold time.Duration) *ledger {
	return &ledger{id: store.NewID(), hold: hold, nodes: map[string]*entry{}, news: make(chan struct{})}
}

func (l *ledger) entryLocked(node string) *entry {
	e := l.nodes[node]
	if e == nil {
		e = &entry{}
		l.nodes[node] = e
	}
	return e
}

// beat notes that a node was heard. It says whether that is a change worth
// acting on at once: the node was silent for longer than lease.
func (l *ledger) beat(node string, now time.Time, lease time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entryLocked(node)
	if now.Before(e.deaf) {
		return false
	}
	was := e.seen
	e.seen, e.freshBeat = now, true
	return now.Sub(was) > lease
}

// ack notes what a node's kernel holds, and whether that is news.
func (l *ledger) ack(node string, networks map[string]uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entryLocked(node)
	e.freshAcks = true
	if maps.Equal(e.acks, networks) {
		return false
	}
	e.acks = maps.Clone(networks)
	close(l.news)
	l.news = make(chan struct{})
	return true
}

// changes returns a channel that is closed at the next new acknowledgement.
func (l *ledger) changes() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.news
}

func (l *ledger) acked(node, network string) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.nodes[node]; e != nil {
		return e.acks[network]
	}
	return 0
}

// down notes that a node was declared down: only later beats bring it back.
func (l *ledger) down(node string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entryLocked(node)
	e.seen, e.grace, e.deaf = time.Time{}, time.Time{}, now.Add(l.hold)
	e.freshBeat = false
}

func (l *ledger) forget(node string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.nodes, node)
}

// startGrace gives every node a fresh lease.
func (l *ledger) startGrace(nodes []string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range nodes {
		l.entryLocked(id).grace = now
	}
}

// heard says when a node last beat, and until when it may stay silent. A node
// met for the first time gets a lease from now on.
func (l *ledger) heard(node string, now time.Time) (beat, since time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entryLocked(node)
	if e.seen.IsZero() && e.grace.IsZero() {
		e.grace = now
	}
	since = e.grace
	if e.seen.After(since) {
		since = e.seen
	}
	return e.seen, since
}

// relayed is what a follower tells the leader.
type relayed struct {
	Beats []string                     `json:",omitempty"`
	Acks  map[string]map[string]uint64 `json:",omitempty"`
}

func (r relayed) empty() bool { return len(r.Beats)+len(r.Acks) == 0 }

// take returns what came in since it was last called.
func (l *ledger) take() relayed {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := relayed{Acks: map[string]map[string]uint64{}}
	for id, e := range l.nodes {
		if e.freshBeat {
			out.Beats = append(out.Beats, id)
		}
		if e.freshAcks {
			out.Acks[id] = e.acks // never modified, only replaced
		}
		e.freshBeat, e.freshAcks = false, false
	}
	return out
}

// tellAgain has the acknowledgements of nodes taken once more.
func (l *ledger) tellAgain(nodes []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range nodes {
		e := l.entryLocked(id)
		e.freshAcks = e.acks != nil
	}
}

// putBack undoes a take whose acknowledgements did not arrive. Beats are not
// repeated: they would be older than they look.
func (l *ledger) putBack(r relayed) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id := range r.Acks {
		l.entryLocked(id).freshAcks = true
	}
}
