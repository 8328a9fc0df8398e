package consensus

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
)

// Whatever is damaged on the disk of a manager, it says which file that is and what to
// do, and does not start with less than it has acknowledged.
func TestDamagedFilesAreNamed(t *testing.T) {
	whole := writtenDir(t)
	must(t, opens(whole))
	for name, tc := range map[string]struct {
		file string // a pattern
		harm func(t *testing.T, path string)
	}{
		"a bit of a log entry":              {"raft.db", flipEntry},
		"a bit of the term":                 {"raft.db", flipTerm},
		"a bit of the first meta page":      {"raft.db", flipAt(20)},
		"a bit of the second meta page":     {"raft.db", flipAt(os.Getpagesize() + 60)},
		"a log that is cut short":           {"raft.db", cut(3)},
		"a log that is cut off":             {"raft.db", cut(1000)},
		"a bit of the newest snapshot":      {"snapshots/*/state.bin", flipAt(100)},
		"a snapshot that is cut short":      {"snapshots/*/state.bin", cut(2)},
		"a snapshot's description, emptied": {"snapshots/*/meta.json", cut(1 << 30)},
		"another snapshot's description":    {"snapshots/*/meta.json", replace(`"Index":`, `"Index":1`)},
		"a key that is cut short":           {"raft.key", cut(2)},
		"a snapshot's description is gone":  {"snapshots/*/meta.json", func(t *testing.T, path string) { must(t, os.Remove(path)) }},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "raft")
			must(t, os.CopyFS(dir, os.DirFS(whole)))
			paths, err := filepath.Glob(filepath.Join(dir, tc.file))
			must(t, err)
			newest := slices.MaxFunc(paths, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
			tc.harm(t, newest)
			err = opens(dir)
			if err == nil || !strings.Contains(err.Error(), newest) {
				t.Fatalf("with %s: %v, want an error that names %s", name, err, newest)
			}
			if tc.file != "raft.key" && !strings.Contains(err.Error(), "swarm leave --force") {
				t.Errorf("nothing says what to do: %v", err)
			}
		})
	}
}

// What a crash left half written is no damage.
func TestUnfinishedSnapshotIsRemoved(t *testing.T) {
	dir := writtenDir(t)
	unfinished := filepath.Join(dir, "snapshots", "2-99-1700000000000.tmp")
	must(t, os.MkdirAll(unfinished, 0o700))
	must(t, os.WriteFile(filepath.Join(unfinished, "state.bin"), []byte("half"), 0o600))
	must(t, opens(dir))
	if _, err := os.Stat(unfinished); !os.IsNotExist(err) {
		t.Errorf("the unfinished snapshot is still there: %v", err)
	}
}

// writtenDir is the directory of a manager that has ended: a log, two snapshots.
func writtenDir(t *testing.T) string {
	c := newCluster(t, 1)
	p := c.peers[0]
	for i := range 20 {
		_, err := p.Propose(ctx(t), createConfig(fmt.Sprintf("c-%d", i)))
		must(t, err)
		if i == 5 || i == 12 {
			must(t, p.Snapshot())
		}
	}
	p.down()
	return p.dir
}

// opens reads all that is on a manager's disk.
func opens(dir string) error {
	d, err := openDisk(Config{Dir: dir, Logger: discard()}, bridge(discard()), nil)
	if err != nil {
		return err
	}
	return d.Close()
}

func change(t *testing.T, path string, fn func([]byte) []byte) {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path, fn(data), 0o600))
}

func flipAt(offset int) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		change(t, path, func(data []byte) []byte {
			data[offset] ^= 4
			return data
		})
	}
}

func cut(divisor int) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		change(t, path, func(data []byte) []byte { return data[:len(data)/divisor] })
	}
}

func replace(old, next string) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		change(t, path, func(data []byte) []byte {
			if !bytes.Contains(data, []byte(old)) {
				t.Fatalf("%s holds no %s", path, old)
			}
			return bytes.Replace(data, []byte(old), []byte(next), 1)
		})
	}
}

// flipValue changes a bit of what the file has under a key.
func flipValue(t *testing.T, path, bucket string, pick func(*bbolt.Cursor) (key, value []byte)) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true})
	must(t, err)
	var value []byte
	must(t, db.View(func(tx *bbolt.Tx) error {
		_, v := pick(tx.Bucket([]byte(bucket)).Cursor())
		value = bytes.Clone(v)
		return nil
	}))
	must(t, db.Close())
	found := 0
	change(t, path, func(data []byte) []byte {
		// Pages that are not used any more have older copies.
		for at := 0; ; at += len(value) {
			i := bytes.Index(data[at:], value)
			if i < 0 {
				return data
			}
			at += i
			data[at+len(value)/2] ^= 1
			found++
		}
	})
	if found == 0 {
		t.Fatalf("%s does not hold the value", path)
	}
}

func flipEntry(t *testing.T, path string) {
	flipValue(t, path, "logs", func(c *bbolt.Cursor) ([]byte, []byte) { return c.Last() })
}

func flipTerm(t *testing.T, path string) {
	flipValue(t, path, "conf", func(c *bbolt.Cursor) ([]byte, []byte) { return c.Seek([]byte("CurrentTerm")) })
}

// A value of raft's that nobody sealed is refused, too.
func TestStableValues(t *testing.T) {
	below := raft.NewInmemStore()
	d, err := openDisk(Config{Dir: t.TempDir(), Logger: discard()}, bridge(discard()), nil)
	must(t, err)
	defer d.Close()
	s := &stableStore{StableStore: below, disk: d}
	must(t, s.SetUint64([]byte("CurrentTerm"), 7))
	if v, err := s.GetUint64([]byte("CurrentTerm")); err != nil || v != 7 {
		t.Errorf("read %d, %v", v, err)
	}
	sealed, err := below.Get([]byte("CurrentTerm"))
	must(t, err)
	must(t, below.Set([]byte("LastVoteTerm"), sealed)) // moved
	if v, err := s.GetUint64([]byte("LastVoteTerm")); err == nil {
		t.Errorf("a value at another's place was read: %d", v)
	}
}
