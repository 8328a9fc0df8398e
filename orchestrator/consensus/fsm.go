package consensus

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/meshd/meshd/orchestrator/store"
)

// fsm feeds committed entries to the store. Raft calls Apply, Snapshot and
// Restore from one goroutine.
type fsm struct {
	store *store.Store
	fatal func(error)
	stop  <-chan struct{}

	recent *recent // raft's goroutine only

	mu      sync.Mutex // guards what follows
	applied uint64     // index of the last entry that was applied
	moved   chan struct{}
	waiters map[proposalID]chan outcome
	failed  error
}

func newFSM(s *store.Store, fatal func(error), stop <-chan struct{}) *fsm {
	if fatal == nil {
		fatal = func(error) {}
	}
	return &fsm{store: s, fatal: fatal, stop: stop, recent: newRecent(), waiters: map[proposalID]chan outcome{}}
}

// Apply implements raft.FSM.
func (f *fsm) Apply(l *raft.Log) any {
	if f.failure() != nil {
		<-f.stop
		return nil
	}
	id, b, err := decodeEntry(l.Data)
	if err != nil {
		f.halt(fmt.Errorf("log entry %d: %w", l.Index, err))
		<-f.stop
		return nil
	}
	o, again := f.recent.byID[id]
	if !again {
		o = newOutcome(l.Index, f.store.Apply(l.Index, b))
		f.recent.add(id, o)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.advanceLocked(l.Index)
	if w := f.waiters[id]; w != nil {
		w <- o
		delete(f.waiters, id)
	}
	return o
}

// halt ends this replica: from here it would differ from the others.
func (f *fsm) halt(err error) {
	err = fmt.Errorf("consensus: this replica cannot go on: %w", err)
	f.mu.Lock()
	first := f.failed == nil
	if first {
		f.failed = err
	}
	f.mu.Unlock()
	if first {
		f.fatal(err)
	}
}

func (f *fsm) failure() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failed
}

func (f *fsm) advanceLocked(index uint64) {
	f.applied = index
	if f.moved != nil {
		close(f.moved)
		f.moved = nil
	}
}

// await registers for the outcome of a proposal.
func (f *fsm) await(id proposalID) <-chan outcome {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := make(chan outcome, 1)
	f.waiters[id] = c
	return c
}

func (f *fsm) forget(id proposalID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.waiters, id)
}

func (f *fsm) appliedIndex() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.applied
}

// wait returns when the entry at index was applied here.
func (f *fsm) wait(ctx context.Context, index uint64) error {
	for {
		f.mu.Lock()
		if f.applied >= index {
			f.mu.Unlock()
			return nil
		}
		if f.moved == nil {
			f.moved = make(chan struct{})
		}
		moved := f.moved
		f.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		case <-f.stop:
			return errStopped()
		}
	}
}

// Snapshot implements raft.FSM.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	if err := f.failure(); err != nil {
		return nil, err
	}
	return &snapshot{
		head:  snapshotHead{Format: snapshotFormat, Applied: f.appliedIndex(), Recent: f.recent.list()},
		write: f.store.Snapshot(),
	}, nil
}

// Restore implements raft.FSM.
func (f *fsm) Restore(rc io.ReadCloser) error {
	defer rc.Close()
	if err := f.restore(rc); err != nil {
		f.halt(err)
		return err
	}
	return nil
}

func (f *fsm) restore(r io.Reader) error {
	br := bufio.NewReader(r)
	line, err := br.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("read the snapshot's head: %w", err)
	}
	h, err := decodeHead(line)
	if err != nil {
		return err
	}
	if err := f.store.Restore(br); err != nil {
		return err
	}
	f.recent = newRecent()
	for _, r := range h.Recent {
		f.recent.add(r.ID, r.Outcome)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.advanceLocked(h.Applied)
	for id, w := range f.waiters {
		if o, ok := f.recent.byID[id]; ok {
			w <- o
			delete(f.waiters, id)
		}
	}
	return nil
}

type snapshot struct {
	head  snapshotHead
	write func(io.Writer) error
}

// Persist implements raft.FSMSnapshot.
func (s *snapshot) Persist(sink raft.SnapshotSink) error {
	w := bufio.NewWriterSize(sink, 64<<10)
	err := json.NewEncoder(w).Encode(s.head)
	if err == nil {
		err = s.write(w)
	}
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		sink.Cancel() // the first error says more
		return err
	}
	return sink.Close()
}

// Release implements raft.FSMSnapshot.
func (*snapshot) Release() {}
