package consensus

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/meshd/meshd/certs"
	"github.com/meshd/meshd/orchestrator/store"
)

// replica is a state machine that is told to stop already: a failure does not wait.
func replica() *fsm {
	stop := make(chan struct{})
	close(stop)
	return newFSM(store.New(), nil, stop)
}

// picture is all that a replica holds.
func (f *fsm) picture(t testing.TB) string {
	t.Helper()
	var b bytes.Buffer
	fmt.Fprintln(&b, f.recent.list())
	if err := f.store.Snapshot()(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func entry(t testing.TB, b store.Batch) []byte {
	t.Helper()
	body, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return encodeEntry(proposalID{1}, body)
}

// Any entry does the same on every replica: it is applied, refused without a change, or
// ends the replica, unchanged.
func FuzzEntry(f *testing.F) {
	b := createConfig("fuzz")
	f.Add(entry(f, b))
	b.Changes = append(b.Changes, b.Changes[0])
	f.Add(entry(f, b))
	for _, seed := range []string{
		"", `{}`, `null`, `{"Changes":[{}]}`, `{"Changes":[{"Action":"create","Kind":"task","Key":"t","Body":{"ID":"t"}}]}`,
		`{"Changes":[{"Action":"remove","Kind":"config","Key":"first"}]}`, `{"Changes":[{"Action":"update","Kind":"node","Key":"","Body":null}]}`,
		`{"Changes":[{"Action":"rename","Kind":"node","Key":"n","Body":{"ID":"n"}}]}`, `{"Changes":[{"Action":"remove","Kind":"moon","Key":"n"}]}`,
	} {
		f.Add(encodeEntry(proposalID{2}, []byte(seed)))
	}
	first := createConfig("first")
	f.Fuzz(func(t *testing.T, data []byte) {
		one, two := replica(), replica()
		for _, r := range []*fsm{one, two} {
			r.Apply(&raft.Log{Index: 1, Data: entry(t, first)})
		}
		var before bytes.Buffer
		if err := one.store.Snapshot()(&before); err != nil {
			t.Fatal(err)
		}
		o, applied := one.Apply(&raft.Log{Index: 2, Data: data}).(outcome)
		two.Apply(&raft.Log{Index: 2, Data: data})
		if one.picture(t) != two.picture(t) || (one.failure() == nil) != (two.failure() == nil) {
			t.Error("two replicas differ after the same entry")
		}
		if _, _, err := decodeEntry(data); (err != nil) != (one.failure() != nil) {
			t.Errorf("decoding: %v, applying: %v", err, one.failure())
		}
		var after bytes.Buffer
		if err := one.store.Snapshot()(&after); err != nil {
			t.Fatal(err)
		}
		if !applied && !bytes.Equal(before.Bytes(), after.Bytes()) {
			t.Error("an entry that cannot be read changed the state")
		}
		if applied && o.Code != "" && rows(before.Bytes()) != rows(after.Bytes()) {
			t.Error("an entry that was refused changed the state")
		}
	})
}

// rows is a snapshot without its head, which says the index.
func rows(snapshot []byte) string {
	_, rest, _ := bytes.Cut(snapshot, []byte("\n"))
	return string(rest)
}

// What can be restored is restored whole, and gives the same snapshot again; all else
// changes nothing.
func FuzzSnapshot(f *testing.F) {
	full := replica()
	full.Apply(&raft.Log{Index: 1, Data: entry(f, createConfig("fuzz"))})
	f.Add(persisted(f, full))
	f.Add(persisted(f, replica()))
	f.Add(persisted(f, full)[:100])
	f.Add([]byte("{\"Format\":1}\n{\"Format\":1,\"Index\":9,\"Objects\":1}\n{\"Kind\":\"task\",\"Body\":null}\n"))
	f.Add([]byte("{\"Format\":2}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := replica()
		r.Apply(&raft.Log{Index: 1, Data: entry(t, createConfig("kept"))})
		before := r.picture(t)
		if err := r.Restore(io.NopCloser(bytes.NewReader(data))); err != nil {
			if r.picture(t) != before {
				t.Errorf("a refused snapshot changed the state: %v", err)
			}
			return
		}
		again := replica()
		if err := again.Restore(io.NopCloser(bytes.NewReader(persisted(t, r)))); err != nil {
			t.Fatalf("its own snapshot cannot be restored: %v", err)
		}
		if again.picture(t) != r.picture(t) {
			t.Error("a snapshot of what was restored differs")
		}
	})
}

// sink keeps a snapshot in memory.
type sink struct{ bytes.Buffer }

// ID, Cancel and Close implement raft.SnapshotSink.
func (*sink) ID() string    { return "fuzz" }
func (*sink) Cancel() error { return nil }
func (*sink) Close() error  { return nil }

func persisted(t testing.TB, r *fsm) []byte {
	t.Helper()
	s, err := r.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	var out sink
	if err := s.Persist(&out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// A sealed snapshot that was changed in any way is never read to its end.
func FuzzSealedSnapshot(f *testing.F) {
	vault, err := certs.OpenVault(f.TempDir(), nil, true)
	if err != nil {
		f.Fatal(err)
	}
	var whole bytes.Buffer
	w, err := newSealWriter(vault.AEAD(), &whole)
	if err != nil {
		f.Fatal(err)
	}
	if _, err := w.Write(bytes.Repeat([]byte("0123456789"), 7000)); err != nil { // two chunks
		f.Fatal(err)
	}
	if err := w.finish(); err != nil {
		f.Fatal(err)
	}
	for _, at := range []int{0, prefixSize - 1, prefixSize, chunkSize, chunkSize + snapshotTag + prefixSize, whole.Len() - 1} {
		f.Add(uint32(at), byte(1), uint32(whole.Len()))
	}
	f.Add(uint32(0), byte(0), uint32(0))
	f.Add(uint32(0), byte(0), uint32(prefixSize+chunkSize+snapshotTag))
	f.Fuzz(func(t *testing.T, at uint32, flip byte, length uint32) {
		data := bytes.Clone(whole.Bytes())
		data[int(at)%len(data)] ^= flip
		data = data[:min(int(length), len(data))]
		same := bytes.Equal(data, whole.Bytes())
		r := newSealReader(vault.AEAD(), io.NopCloser(bytes.NewReader(data)))
		if _, err := io.Copy(io.Discard, r); (err == nil) != same {
			t.Errorf("byte %d changed by %d, %d of %d bytes: read with %v", at, flip, length, whole.Len(), err)
		}
	})
}
