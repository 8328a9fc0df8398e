package consensus

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/hashicorp/raft"
)

// What is damaged on disk must be noticed before raft builds on it: raft falls back to
// an older snapshot when the newest cannot be read, bbolt to an older transaction when
// the newest's page is broken, and both lose what was acknowledged; or they panic.

// repair is what to do about a damaged file.
const repair = "if the other managers have a quorum, take this one out (docker swarm leave --force here, docker node rm there) and let it join again; " +
	"else bring the directory back from a copy"

// damaged names a file that cannot be used.
func damaged(path string, err error) error {
	return fmt.Errorf("consensus: %s is damaged: %w; %s", path, err, repair)
}

// errPanic marks a panic of bbolt's, which means a broken file.
var errPanic = errors.New("it cannot be read")

// guarded runs fn and makes its panics errors, those about pages of a mapped file that
// are not there included.
func guarded(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", errPanic, r)
		}
	}()
	return fn()
}

// A bbolt file begins with two meta pages, of which commits write one after the other.
const (
	boltMagic      = 0xED0CDAED
	boltMetaOffset = 16 // after the page's header
	boltMetaSummed = 56 // bytes under the checksum, which follows them
)

// checkMeta checks both meta pages of a bbolt file. A crash does not break one: it is
// written in one piece of a disk's sector.
func checkMeta(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Size() == 0 { // bbolt makes it
		return err
	}
	for page := range 2 {
		raw := make([]byte, boltMetaSummed+8)
		at := int64(page*os.Getpagesize() + boltMetaOffset)
		if _, err := f.ReadAt(raw, at); err != nil {
			return damaged(path, fmt.Errorf("meta page %d: %w", page, noEOF(err)))
		}
		sum := fnv.New64a()
		sum.Write(raw[:boltMetaSummed]) // never fails (hash.Hash)
		if binary.NativeEndian.Uint32(raw) != boltMagic || binary.NativeEndian.Uint64(raw[boltMetaSummed:]) != sum.Sum64() {
			return damaged(path, fmt.Errorf("the checksum of meta page %d is wrong", page))
		}
	}
	return nil
}

// checkLogs reads all entries.
func checkLogs(path string, logs raft.LogStore) error {
	err := guarded(func() error {
		first, err := logs.FirstIndex()
		if err != nil {
			return err
		}
		last, err := logs.LastIndex()
		for i := first; err == nil && i != 0 && i <= last; i++ {
			err = logs.GetLog(i, &raft.Log{})
		}
		return err
	})
	if err != nil {
		return damaged(path, err)
	}
	return nil
}

// checkSnapshots removes what a crash left half written or half removed, reads the
// descriptions of all others, and the newest, which raft is about to restore.
func checkSnapshots(dir string, s raft.SnapshotStore) error {
	const unfinished = ".tmp"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	list, err := s.List()
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		err := checkDescription(path)
		switch {
		case strings.HasSuffix(e.Name(), unfinished),
			// An old one loses its description first.
			errors.Is(err, fs.ErrNotExist) && len(list) > 0 && indexOf(e.Name()) < list[0].Index:
			err = os.RemoveAll(path)
		}
		if err != nil {
			return err
		}
	}
	if len(list) == 0 {
		return nil
	}
	_, r, err := s.Open(list[0].ID)
	if err == nil {
		_, err = io.Copy(io.Discard, r)
		err = errors.Join(err, r.Close())
	}
	if err != nil {
		return damaged(filepath.Join(dir, list[0].ID, "state.bin"), err)
	}
	return nil
}

// indexOf is the log index of a snapshot, by its directory's name: term-index-time.
func indexOf(name string) (index uint64) {
	var term uint64
	if _, err := fmt.Sscanf(name, "%d-%d-", &term, &index); err != nil {
		return math.MaxUint64
	}
	return index
}

// checkDescription reads a snapshot's description, without which raft would not see it.
func checkDescription(snapshot string) error {
	path := filepath.Join(snapshot, "meta.json")
	var m raft.SnapshotMeta
	raw, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(raw, &m)
	}
	if err == nil && indexOf(filepath.Base(snapshot)) != m.Index {
		err = fmt.Errorf("it is of entry %d", m.Index)
	}
	if err != nil {
		return damaged(path, err)
	}
	return nil
}
