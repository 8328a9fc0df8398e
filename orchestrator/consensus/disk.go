package consensus

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	boltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"

	"github.com/meshd/meshd/certs"
)

// logFile holds raft's log and its votes.
const logFile = "raft.db"

const (
	// cachedLogs are the newest entries, kept in memory for followers and Barrier.
	cachedLogs = 512
	// lockTimeout is how long another process may hold the log.
	lockTimeout = 3 * time.Second
)

// disk is all that raft keeps.
type disk struct {
	path      string // of the log
	bolt      *boltdb.BoltStore
	aead      cipher.AEAD
	logs      raft.LogStore
	stable    raft.StableStore
	snapshots raft.SnapshotStore
	trouble   trouble
}

// openDisk opens what raft keeps and checks it. stop ends waits for a disk that takes no
// writes; nil: they are errors.
func openDisk(cfg Config, logger hclog.Logger, stop <-chan struct{}) (*disk, error) {
	dir := cfg.Dir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("consensus: %w", err)
	}
	vault, err := cfg.vault()
	if err != nil {
		return nil, fmt.Errorf("consensus: %w", err)
	}
	d := &disk{path: filepath.Join(dir, logFile), aead: vault.AEAD()}
	d.trouble.path, d.trouble.log = d.path, cfg.Logger
	if err := d.openLog(cfg, stop); err != nil {
		return nil, err
	}
	files, err := raft.NewFileSnapshotStoreWithLogger(dir, keepSnapshots, logger)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("consensus: open snapshots: %w", err), d.Close())
	}
	d.snapshots = &sealedSnapshots{files: files, aead: d.aead}
	if err := checkSnapshots(filepath.Join(dir, "snapshots"), d.snapshots); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// openLog opens log and votes.
func (d *disk) openLog(cfg Config, stop <-chan struct{}) error {
	if err := checkMeta(d.path); err != nil {
		return err
	}
	err := guarded(func() (err error) {
		d.bolt, err = boltdb.New(boltdb.Options{
			Path:                    d.path,
			BoltOptions:             &bbolt.Options{Timeout: lockTimeout, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType},
			MsgpackUseNewTimeFormat: true,
		})
		return err
	})
	if errors.Is(err, errPanic) {
		return damaged(d.path, err)
	}
	if err != nil {
		return fmt.Errorf("consensus: open %s: %w", d.path, err)
	}
	stable := &stableStore{StableStore: d.bolt, disk: d, stop: stop}
	sealed := &sealedLogs{LogStore: d.bolt, disk: d}
	if cfg.faults != nil {
		sealed.LogStore = cfg.faults(d.bolt)
	}
	d.stable = stable
	if err = guarded(stable.check); err == nil {
		err = checkLogs(d.path, sealed)
	}
	if err == nil {
		d.logs, err = raft.NewLogCache(cachedLogs, sealed)
	}
	if err != nil {
		return errors.Join(err, d.Close())
	}
	return nil
}

// vault is the one given, else the one beside the log, which must be there if the
// log is: with another key the data would be lost.
func (c Config) vault() (*certs.Vault, error) {
	if c.Vault != nil {
		return c.Vault, nil
	}
	_, err := os.Stat(filepath.Join(c.Dir, logFile))
	return certs.OpenVault(c.Dir, nil, errors.Is(err, os.ErrNotExist))
}

func (d *disk) Close() error { return d.bolt.Close() }

// sealedLogs encrypts what entries carry. Index, term and type stay readable
// for the store below, and are authenticated.
type sealedLogs struct {
	raft.LogStore
	disk *disk
}

// The two fields of an entry that are sealed.
const (
	fieldData = iota
	fieldExtensions
)

func logAAD(l *raft.Log, field byte) []byte {
	aad := binary.BigEndian.AppendUint64(nil, l.Index)
	aad = binary.BigEndian.AppendUint64(aad, l.Term)
	return append(aad, byte(l.Type), field)
}

// StoreLog implements raft.LogStore.
func (s *sealedLogs) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore.
func (s *sealedLogs) StoreLogs(logs []*raft.Log) error {
	out := make([]*raft.Log, len(logs))
	for i, l := range logs {
		c := *l
		var err error
		if c.Data, err = certs.Seal(s.disk.aead, l.Data, logAAD(l, fieldData)); err != nil {
			return err
		}
		if len(l.Extensions) > 0 {
			if c.Extensions, err = certs.Seal(s.disk.aead, l.Extensions, logAAD(l, fieldExtensions)); err != nil {
				return err
			}
		}
		out[i] = &c
	}
	return s.disk.trouble.note(s.LogStore.StoreLogs(out))
}

// GetLog implements raft.LogStore.
func (s *sealedLogs) GetLog(index uint64, l *raft.Log) error {
	if err := s.LogStore.GetLog(index, l); err != nil {
		return err
	}
	if l.Index != index {
		return fmt.Errorf("consensus: at log index %d stands entry %d", index, l.Index)
	}
	var err error
	if l.Data, err = certs.Unseal(s.disk.aead, l.Data, logAAD(l, fieldData)); err != nil {
		return fmt.Errorf("consensus: log entry %d: %w", index, err)
	}
	if len(l.Extensions) > 0 {
		if l.Extensions, err = certs.Unseal(s.disk.aead, l.Extensions, logAAD(l, fieldExtensions)); err != nil {
			return fmt.Errorf("consensus: log entry %d: %w", index, err)
		}
	}
	return nil
}
