package consensus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	boltdb "github.com/hashicorp/raft-boltdb/v2"

	"github.com/meshd/meshd/certs"
)

// trouble is why the disk does not take what raft writes; it is over with the next write
// that succeeds. A leader that cannot write steps down, and another one takes over.
type trouble struct {
	path string
	log  *slog.Logger

	mu  sync.Mutex
	err error
}

// note tells of the outcome of a write, and returns it.
func (t *trouble) note(err error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case err != nil && t.err == nil:
		t.log.Error("this manager cannot write to its disk; it takes part again when it can", "file", t.path, "error", err)
	case err == nil && t.err != nil:
		t.log.Info("this manager can write to its disk again", "file", t.path)
	}
	t.err = err
	return err
}

func (t *trouble) now() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err == nil {
		return nil
	}
	return fmt.Errorf("this manager cannot write to %s: %w", t.path, t.err)
}

// Trouble is why this manager cannot write what it has to, nil if it can.
func (n *Node) Trouble() error { return n.disk.trouble.now() }

// stableStore keeps raft's term and vote, sealed like entries: bbolt would not notice a
// changed bit, and a manager that forgets its vote may vote twice.
type stableStore struct {
	raft.StableStore
	disk *disk
	// stop ends the wait for the disk; nil: errors are returned.
	stop <-chan struct{}
}

func stableAAD(key []byte) []byte { return append([]byte("meshd stable value 1 "), key...) }

// Get implements raft.StableStore.
func (s *stableStore) Get(key []byte) ([]byte, error) {
	sealed, err := s.StableStore.Get(key)
	if err != nil || len(sealed) == 0 {
		return nil, err // raft knows the store's own "not found"
	}
	value, err := certs.Unseal(s.disk.aead, sealed, stableAAD(key))
	if err != nil {
		return nil, damaged(s.disk.path, fmt.Errorf("raft's value %q: %w", key, err))
	}
	return value, nil
}

// Set implements raft.StableStore. Raft panics when its term cannot be kept, so this
// waits for the disk. Until then this manager neither votes nor follows nor leads; the
// others go on without it.
func (s *stableStore) Set(key, value []byte) error {
	sealed, err := certs.Seal(s.disk.aead, value, stableAAD(key))
	if err != nil {
		return err
	}
	const retryDisk = 500 * time.Millisecond
	for {
		if err := s.disk.trouble.note(s.StableStore.Set(key, sealed)); err == nil || s.stop == nil {
			return err
		}
		select {
		case <-time.After(retryDisk):
		case <-s.stop:
			// To return would have raft act on what is not kept, or panic. All that it
			// runs in this goroutine is deferred, so it ends in order.
			runtime.Goexit()
		}
	}
}

// GetUint64 implements raft.StableStore.
func (s *stableStore) GetUint64(key []byte) (uint64, error) {
	value, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	const size = 8
	if len(value) != size {
		return 0, damaged(s.disk.path, fmt.Errorf("raft's value %q has %d bytes", key, len(value)))
	}
	return binary.BigEndian.Uint64(value), nil
}

// SetUint64 implements raft.StableStore. A value that is kept already costs no write:
// raft sets its term when it starts, also on a full disk.
func (s *stableStore) SetUint64(key []byte, value uint64) error {
	if now, err := s.GetUint64(key); err == nil && now == value {
		return nil
	}
	return s.Set(key, binary.BigEndian.AppendUint64(nil, value))
}

// check reads what raft is about to read.
func (s *stableStore) check() error {
	for _, key := range []string{"CurrentTerm", "LastVoteTerm", "LastVoteCand"} { // raft's names
		if _, err := s.Get([]byte(key)); err != nil && !errors.Is(err, boltdb.ErrKeyNotFound) {
			return err
		}
	}
	return nil
}
