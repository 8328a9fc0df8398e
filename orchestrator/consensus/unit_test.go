package consensus

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/meshd/meshd/certs"
	"github.com/meshd/meshd/orchestrator/store"
)

func TestSealedSnapshotRoundTrip(t *testing.T) {
	vault, err := certs.OpenVault(t.TempDir(), nil, true)
	must(t, err)
	for _, size := range []int{0, 1, chunkSize - 1, chunkSize, chunkSize + 1, 3 * chunkSize, 3*chunkSize + 7} {
		want := make([]byte, size)
		for i := range want {
			want[i] = byte(rand.Int())
		}
		var file bytes.Buffer
		w, err := newSealWriter(vault.AEAD(), &file)
		must(t, err)
		for rest := want; len(rest) > 0; { // in uneven steps
			n := min(len(rest), 40000)
			_, err := w.Write(rest[:n])
			must(t, err)
			rest = rest[n:]
		}
		must(t, w.finish())
		read := func(sealed []byte) ([]byte, error) {
			return io.ReadAll(newSealReader(vault.AEAD(), io.NopCloser(bytes.NewReader(sealed))))
		}
		got, err := read(file.Bytes())
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Fatalf("size %d: read something else", size)
		}
		if n := plainSize(int64(file.Len())); n != int64(size) {
			t.Errorf("plain size of %d is computed as %d", size, n)
		}
		for _, cut := range []int{1, snapshotTag, chunkSize + snapshotTag} {
			if cut <= file.Len() {
				if _, err := read(file.Bytes()[:file.Len()-cut]); err == nil {
					t.Errorf("size %d: %d bytes cut off went unnoticed", size, cut)
				}
			}
		}
		broken := bytes.Clone(file.Bytes())
		broken[len(broken)/2] ^= 1
		if _, err := read(broken); err == nil {
			t.Errorf("size %d: a changed bit went unnoticed", size)
		}
	}
}

func TestSealedLogs(t *testing.T) {
	vault, err := certs.OpenVault(t.TempDir(), nil, true)
	must(t, err)
	below := raft.NewInmemStore()
	s := &sealedLogs{LogStore: below, disk: &disk{aead: vault.AEAD()}}
	in := &raft.Log{Index: 3, Term: 2, Type: raft.LogCommand, Data: []byte(marker), Extensions: []byte("x")}
	must(t, s.StoreLog(in))
	if string(in.Data) != marker {
		t.Error("storing changed the caller's entry")
	}
	var raw, out raft.Log
	must(t, below.GetLog(3, &raw))
	if bytes.Contains(raw.Data, []byte(marker)) {
		t.Error("the entry is stored in the clear")
	}
	must(t, s.GetLog(3, &out))
	if string(out.Data) != marker || string(out.Extensions) != "x" {
		t.Errorf("read %q, %q", out.Data, out.Extensions)
	}
	raw.Index = 4 // an entry that was moved
	must(t, below.StoreLog(&raw))
	if err := s.GetLog(4, &out); err == nil {
		t.Error("an entry at another's place was accepted")
	}
}

func TestMissingKeyIsNotReplaced(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, logFile), nil, 0o600))
	if _, err := openDisk(Config{Dir: dir}, nil, nil); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), dir) {
		t.Errorf("a missing key: %v", err)
	}
}

func TestProposalAppliesOnce(t *testing.T) {
	f := replica()
	batch, err := createConfig("once").Encode()
	must(t, err)
	id, err := newProposalID()
	must(t, err)
	first := f.Apply(&raft.Log{Index: 5, Data: encodeEntry(id, batch)}).(outcome)
	again := f.Apply(&raft.Log{Index: 6, Data: encodeEntry(id, batch)}).(outcome)
	if first != again || first.Code != "" || count(f.store) != 1 {
		t.Errorf("first %+v, again %+v", first, again)
	}
	// The memory is part of the snapshot.
	g := replica()
	must(t, g.Restore(io.NopCloser(bytes.NewReader(persisted(t, f)))))
	if got := g.Apply(&raft.Log{Index: 7, Data: encodeEntry(id, batch)}).(outcome); got != first || count(g.store) != 1 {
		t.Errorf("after a restore: %+v", got)
	}
}

func TestRecentForgetsTheOldest(t *testing.T) {
	r := newRecent()
	id := func(i int) proposalID { return proposalID{byte(i), byte(i >> 8)} }
	for i := range memory + 10 {
		r.add(id(i), outcome{Index: uint64(i)})
	}
	list := r.list()
	if len(list) != memory || len(r.byID) != memory || list[0].Outcome.Index != 10 || list[memory-1].Outcome.Index != memory+9 {
		t.Errorf("%d remembered, first %+v", len(list), list[0])
	}
}

func TestGarbageHalts(t *testing.T) {
	stop := make(chan struct{})
	told := make(chan error, 2)
	f := newFSM(store.New(), func(err error) { told <- err }, stop)
	done := make(chan struct{})
	go func() {
		f.Apply(&raft.Log{Index: 1, Data: []byte("garbage")})
		f.Apply(&raft.Log{Index: 2, Data: []byte("garbage")})
		close(done)
	}()
	if err := <-told; !strings.Contains(err.Error(), "log entry 1") {
		t.Error(err)
	}
	select {
	case <-done:
		t.Error("the replica went on")
	case <-time.After(20 * time.Millisecond):
	}
	close(stop)
	<-done
	if len(told) != 0 {
		t.Error("told twice")
	}
	if err := f.Restore(io.NopCloser(strings.NewReader("{}\n"))); err == nil {
		t.Error("a snapshot of an unknown format was restored")
	}
}
