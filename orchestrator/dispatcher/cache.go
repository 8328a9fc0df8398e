package dispatcher

import (
	"maps"
	"sync"
	"time"

	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/orchestrator/store"
)

// cache holds the parts of pictures that sessions share, so that a change is
// built once and not once per session. What a commit touched is built when it is
// first asked for after it. That happens inside a view, so entries are never
// older than another's; the lock order is store, cache.
type cache struct {
	// turn keeps sessions from looking while a commit is taken in, so that feeds and
	// marks of sessions are always at the same one. It comes before mu.
	turn sync.RWMutex

	mu sync.Mutex
	// done is the newest commit taken in: what is cached is true up to it.
	done   uint64
	feeds  map[string]*feed
	roster *roster
	// publishers are services that have, or had, published ports.
	publishers map[string]bool
	// left says at which index tasks stopped being offered.
	left map[string]uint64
	// serving says at which index tasks that serve began to.
	serving map[string]uint64
	// clock is the time of revisions.
	clock func() time.Time
}

func newCache(clock func() time.Time) *cache {
	return &cache{clock: clock, feeds: map[string]*feed{}, roster: newRoster(), publishers: map[string]bool{}, left: map[string]uint64{}, serving: map[string]uint64{}}
}

// reset starts over from a view. What left before stays known.
func (c *cache) reset(index uint64, services []*store.Service) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done, c.roster.all = index, true
	clear(c.feeds)
	for _, s := range services {
		if len(published(s)) > 0 {
			c.publishers[s.ID] = true
		}
	}
}

// apply takes in a commit and notes what it touched.
func (c *cache) apply(commit store.Commit, t *touched) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range commit.Events {
		if s, ok := e.New.(*store.Service); ok && len(published(s)) > 0 {
			c.publishers[s.ID] = true
		}
		t.add(e)
	}
	publishes := func(id string) bool { return c.publishers[id] }
	for id, f := range c.feeds {
		if there, defined := t.defined[id]; defined && !there {
			delete(c.feeds, id)
			continue
		}
		t.mark(f, commit.Index, c.clock(), publishes)
	}
	maps.Copy(c.roster.stale, t.members)
	c.roster.all = c.roster.all || t.keys
	for _, id := range t.serving {
		c.serving[id] = commit.Index
	}
	for _, id := range t.left {
		c.left[id] = commit.Index
		delete(c.serving, id)
	}
	for _, id := range t.forgotten {
		delete(c.left, id)
		delete(c.serving, id)
	}
	c.done = commit.Index
}

func (c *cache) processed() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.done
}

// roll adds to a message what changed of the nodes since a position, and returns
// the one where they are now.
func (c *cache) roll(v *store.View, position uint64, m *protocol.Message) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.roster.refresh(v)
	c.roster.since(position, m)
	return c.roster.position
}

// leftAt says at which index a task stopped being offered; false if it did not,
// or did so before this manager watched.
func (c *cache) leftAt(task string) (uint64, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, ok := c.left[task]
	return i, ok
}

// servesSince says at which index a task began to serve; false if it does not, or
// began before this manager watched.
func (c *cache) servesSince(task string) (uint64, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, ok := c.serving[task]
	return i, ok
}

func (c *cache) publishes(service string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.publishers[service]
}
