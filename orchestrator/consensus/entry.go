package consensus

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/meshd/meshd/orchestrator/store"
)

// proposalID makes a proposal recognisable when it comes twice.
type proposalID [16]byte

// entryFormat is the first byte of every log entry.
const entryFormat = 1

func newProposalID() (id proposalID, err error) {
	_, err = rand.Read(id[:])
	return id, err
}

func encodeEntry(id proposalID, batch []byte) []byte {
	out := make([]byte, 0, 1+len(id)+len(batch))
	out = append(out, entryFormat)
	out = append(out, id[:]...)
	return append(out, batch...)
}

func decodeEntry(data []byte) (id proposalID, b store.Batch, err error) {
	if len(data) < 1+len(id) || data[0] != entryFormat {
		return id, b, errors.New("the log entry has a format that this version does not know")
	}
	copy(id[:], data[1:])
	b, err = store.DecodeBatch(data[1+len(id):])
	return id, b, err
}

// outcome is what became of a proposal; the same on every replica.
type outcome struct {
	Index uint64
	// Code is empty when the batch was applied, else why it was refused.
	Code string `json:",omitempty"`
	Text string `json:",omitempty"`
}

const refusedOther = "refused"

// sentinels ties the store's refusals to their names in the log; these must not change.
func sentinels() map[string]error {
	return map[string]error{
		"sequence":      store.ErrSequence,
		"exists":        store.ErrExists,
		"name-conflict": store.ErrNameConflict,
	}
}

func newOutcome(index uint64, err error) outcome {
	o := outcome{Index: index}
	if err == nil {
		return o
	}
	o.Code, o.Text = refusedOther, err.Error()
	for code, s := range sentinels() {
		if errors.Is(err, s) {
			o.Code = code
		}
	}
	return o
}

// result is what Propose returns.
func (o outcome) result() (uint64, error) {
	if o.Code == "" {
		return o.Index, nil
	}
	return o.Index, &refusal{text: o.Text, class: sentinels()[o.Code]}
}

// refusal is an error of store.Apply, perhaps of another node's.
type refusal struct {
	text  string
	class error
}

func (r *refusal) Error() string { return r.text }
func (r *refusal) Unwrap() error { return r.class }

// memory is how many proposals are remembered: more than can be under way
// within the deadline of one.
const memory = 4096

// recent remembers the outcomes of the last proposals.
type recent struct {
	ring []remembered
	next int
	byID map[proposalID]outcome
}

type remembered struct {
	ID      proposalID
	Outcome outcome
}

func newRecent() *recent { return &recent{byID: map[proposalID]outcome{}} }

func (r *recent) add(id proposalID, o outcome) {
	if len(r.ring) < memory {
		r.ring = append(r.ring, remembered{id, o})
	} else {
		delete(r.byID, r.ring[r.next].ID)
		r.ring[r.next] = remembered{id, o}
		r.next = (r.next + 1) % memory
	}
	r.byID[id] = o
}

// list returns them oldest first.
func (r *recent) list() []remembered {
	out := make([]remembered, 0, len(r.ring))
	out = append(out, r.ring[r.next:]...)
	return append(out, r.ring[:r.next]...)
}

// snapshotHead is the first line of a snapshot; the store's follows.
type snapshotHead struct {
	Format  int
	Applied uint64
	Recent  []remembered
}

const snapshotFormat = 1

func decodeHead(line []byte) (snapshotHead, error) {
	var h snapshotHead
	if err := json.Unmarshal(line, &h); err != nil {
		return h, fmt.Errorf("read the snapshot's head: %w", err)
	}
	if h.Format != snapshotFormat {
		return h, fmt.Errorf("the snapshot has format %d, this version reads %d", h.Format, snapshotFormat)
	}
	return h, nil
}
