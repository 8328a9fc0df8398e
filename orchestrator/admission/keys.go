package admission

import (
	"context"
	"crypto/rand"
	"log/slog"
	"time"

	"github.com/meshd/meshd/orchestrator/control"
	"github.com/meshd/meshd/orchestrator/store"
)

// gossipKeySize is the length of a key of the nodes' gossip in bytes (AES-256).
const gossipKeySize = 32

// Rotation says how old keys of the nodes' gossip get.
type Rotation struct {
	// Life is how long a key is in use; default 12 h.
	Life time.Duration
	// Overlap is how long a new key is known before it is used, and how long an
	// old one is known after; default 10 min. A node that no manager reached for so
	// long is out of gossip until one does; managers have given it up long before.
	Overlap time.Duration
}

// next returns the keys as they should be now and when to look again; changed is
// false when they are so. Each step is one commit, so that all nodes take the same
// steps in the same order:
//
//	[old*] -> [new, old*] -> [new*, old] -> [new*]     * encrypts
func (r Rotation) next(keys []store.GossipKey, now time.Time) (next []store.GossipKey, again time.Time, changed bool) {
	if len(keys) == 0 {
		return []store.GossipKey{newGossipKey(now, true)}, now.Add(r.Life), true
	}
	newest := keys[0]
	switch due := newest.Since.Add(r.Overlap); {
	case (!newest.InUse || len(keys) > 1) && now.Before(due):
		return keys, due, false
	case !newest.InUse:
		newest.InUse, newest.Since = true, now
		return append([]store.GossipKey{newest}, keys[1:]...), now.Add(r.Overlap), true
	case len(keys) > 1:
		return keys[:1:1], newest.Since.Add(r.Life), true
	}
	if due := newest.Since.Add(r.Life); now.Before(due) {
		return keys, due, false
	}
	return append([]store.GossipKey{newGossipKey(now, false)}, keys...), now.Add(r.Overlap), true
}

func newGossipKey(now time.Time, use bool) store.GossipKey {
	k := store.GossipKey{Key: make([]byte, gossipKeySize), Since: now.UTC(), InUse: use}
	rand.Read(k.Key) // never fails (crypto/rand)
	return k
}

// Keys is the leader's loop that renews the keys of the nodes' gossip: when they
// are old, and when a node was removed that knows them.
type Keys struct {
	store    *store.Store
	proposer store.Proposer
	rotation Rotation
	log      *slog.Logger
	// leaked: a removed node knows the key in use.
	leaked bool
}

// NewKeys returns the loop; a zero Rotation means its defaults.
func NewKeys(s *store.Store, p store.Proposer, r Rotation, log *slog.Logger) *Keys {
	if r.Life == 0 {
		r.Life = 12 * time.Hour
	}
	if r.Overlap == 0 {
		r.Overlap = 10 * time.Minute
	}
	return &Keys{store: s, proposer: p, rotation: r, log: log}
}

// Run works until the context ends.
func (k *Keys) Run(ctx context.Context) error { return control.Run(ctx, k.store, k.log, k) }

// Reset implements control.Loop.
func (k *Keys) Reset(*store.View) {}

// Observe implements control.Loop.
func (k *Keys) Observe(e store.Event) {
	_, node := e.Old.(*store.Node)
	k.leaked = k.leaked || node && e.New == nil
}

// Round implements control.Loop.
func (k *Keys) Round(ctx context.Context) (again time.Time, err error) {
	changed := false
	rotation := k.rotation
	k.store.View(func(v *store.View) {
		c := v.Cluster()
		if c == nil {
			return
		}
		if settled := len(c.GossipKeys) == 1; k.leaked && settled {
			rotation.Life = 0
		}
		_, again, changed = rotation.next(c.GossipKeys, time.Now())
	})
	if !changed {
		return again, nil // of a cluster that is not founded yet: a commit will tell
	}
	err = store.Transact(ctx, k.store, k.proposer, func(tx *store.Tx) error {
		c := tx.Cluster()
		if c == nil {
			return nil
		}
		keys, at, changed := rotation.next(c.GossipKeys, time.Now())
		if again = at; !changed {
			return nil
		}
		next := *c
		next.GossipKeys = keys
		tx.Update(&next)
		return nil
	})
	if err == nil {
		k.leaked = k.leaked && rotation.Life != 0
		k.log.Debug("the keys of the nodes' gossip took a step", "next", again)
	}
	return again, err
}
