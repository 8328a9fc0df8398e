// Package storetest is a store without raft, for tests of what reads and writes
// it: batches are applied at once, in the order in which they are proposed.
package storetest

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/meshd/meshd/orchestrator/store"
)

// Proposer applies batches to its store.
type Proposer struct {
	mu    sync.Mutex
	store *store.Store
	index uint64
	// refuse, if set, is asked before each batch.
	refuse func(store.Batch) error
}

// New returns an empty store and its proposer.
func New() (*store.Store, *Proposer) {
	s := store.New()
	return s, &Proposer{store: s}
}

// Propose implements store.Proposer.
func (p *Proposer) Propose(ctx context.Context, b store.Batch) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refuse != nil {
		if err := p.refuse(b); err != nil {
			return 0, err
		}
	}
	// Through the wire form, as raft does: what does not survive it shows here.
	data, err := b.Encode()
	if err != nil {
		return 0, err
	}
	if b, err = store.DecodeBatch(data); err != nil {
		return 0, err
	}
	p.index++
	return p.index, p.store.Apply(p.index, b)
}

// Refuse has fn decide about every batch from now on; its error goes to the
// proposer and the batch is dropped. nil lets all pass again.
func (p *Proposer) Refuse(fn func(store.Batch) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = fn
}

// Do runs one transaction and fails the test if it is refused.
func Do(t testing.TB, s *store.Store, p store.Proposer, fn func(*store.Tx)) {
	t.Helper()
	err := store.Transact(context.Background(), s, p, func(tx *store.Tx) error {
		fn(tx)
		return nil
	})
	if err != nil {
		t.Fatalf("transaction: %v", err)
	}
}

// Create adds objects.
func Create(t testing.TB, s *store.Store, p store.Proposer, objects ...store.Object) {
	t.Helper()
	Do(t, s, p, func(tx *store.Tx) {
		for _, o := range objects {
			tx.Create(o)
		}
	})
}

// Until waits until the state satisfies ok, and fails the test after 10 seconds.
func Until(t testing.TB, s *store.Store, what string, ok func(*store.View) bool) {
	t.Helper()
	held := false
	w := s.Watch(func(v *store.View) { held = ok(v) })
	defer w.Close()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	for !held {
		select {
		case <-w.C:
			s.View(func(v *store.View) { held = ok(v) })
		case <-deadline.C:
			t.Fatalf("timed out waiting until %s", what)
		}
	}
}
