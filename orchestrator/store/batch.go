package store

import (
	"context"
	"errors"
	"time"
)

// Action says what a change does to its object. The values travel in the raft log.
type Action string

// The actions.
const (
	Create Action = "create"
	Update Action = "update"
	Remove Action = "remove"
)

// Errors that a batch can be refused with. They are the same on every replica.
var (
	// ErrSequence: the object changed since it was read, or is gone.
	ErrSequence = errors.New("update out of sequence")
	// ErrExists: an object with this ID exists.
	ErrExists = errors.New("object exists")
	// ErrNameConflict: another object of the kind has this name.
	ErrNameConflict = errors.New("name conflicts with an existing object")
)

// Change is one step of a batch. Update and Remove are refused unless the
// stored object still has version Base.
type Change struct {
	Action Action
	Kind   Kind
	Key    string
	Base   uint64 `json:",omitempty"`
	Object Object `json:"-"`

	// old is what an Update replaces, where that is known.
	old Object
	// patch stands for the Object of an Update that came through the log.
	patch *patch
}

// Batch is applied whole or not at all.
type Batch struct {
	// Time stamps CreatedAt and UpdatedAt, so that replicas agree on them.
	Time    time.Time
	Changes []Change
}

// Proposer replicates a batch and returns once this node's store has applied
// it, with the raft index it got. A refusal by Apply comes back as its error.
type Proposer interface {
	Propose(ctx context.Context, b Batch) (index uint64, err error)
}

// Tx collects changes against a view.
type Tx struct {
	*View
	changes []Change
}

// Create adds a new object.
func (t *Tx) Create(o Object) {
	t.changes = append(t.changes, Change{Action: Create, Kind: o.Kind(), Key: o.Key(), Object: o})
}

// Update replaces the object; o must be a changed copy of what was read, its
// Meta untouched, since Meta.Version is the base the change is checked against.
func (t *Tx) Update(o Object) {
	t.changes = append(t.changes, Change{Action: Update, Kind: o.Kind(), Key: o.Key(), Base: Version(o), Object: o, old: t.lookup(o.Kind(), o.Key())})
}

// Remove deletes the object as it was read.
func (t *Tx) Remove(o Object) {
	t.changes = append(t.changes, Change{Action: Remove, Kind: o.Kind(), Key: o.Key(), Base: Version(o)})
}

// Len is the number of changes collected so far.
func (t *Tx) Len() int { return len(t.changes) }

// maxAttempts bounds the retries of Transact; by then the caller's picture of
// the world is so contended that it should look again.
const maxAttempts = 20

// Transact runs fn against the current state and proposes what it collected,
// again and again while others change the same objects underneath. fn may run
// several times and must only collect. Its error ends the transaction unproposed.
func Transact(ctx context.Context, s *Store, p Proposer, fn func(*Tx) error) error {
	var err error
	for range maxAttempts {
		if err = TransactOnce(ctx, s, p, fn); !errors.Is(err, ErrSequence) {
			return err
		}
	}
	return err
}

// TransactOnce is Transact without the retry: stale versions are the caller's to see.
func TransactOnce(ctx context.Context, s *Store, p Proposer, fn func(*Tx) error) error {
	tx := &Tx{}
	var err error
	s.View(func(v *View) {
		tx.View = v
		err = fn(tx)
		tx.View = nil
	})
	if err != nil || len(tx.changes) == 0 {
		return err
	}
	_, err = p.Propose(ctx, Batch{Time: time.Now().UTC(), Changes: tx.changes})
	return err
}
