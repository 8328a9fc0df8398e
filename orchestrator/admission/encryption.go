package admission

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/control"
	"github.com/meshd/meshd/orchestrator/remote"
	"github.com/meshd/meshd/orchestrator/store"
)

// DefaultKeyLife is how long the nodes' WireGuard keys last.
const DefaultKeyLife = 24 * time.Hour

// keyRetry is the pause before a change of keys that is due is tried again, while the
// last one has not ended.
const keyRetry = time.Minute

// Encryption is the leader's loop that has the nodes change their WireGuard keys when
// those are old.
type Encryption struct {
	store    *store.Store
	proposer store.Proposer
	log      *slog.Logger
}

// NewEncryption returns the loop.
func NewEncryption(s *store.Store, p store.Proposer, log *slog.Logger) *Encryption {
	return &Encryption{store: s, proposer: p, log: log}
}

// Run works until the context ends.
func (e *Encryption) Run(ctx context.Context) error { return control.Run(ctx, e.store, e.log, e) }

// Reset implements control.Loop.
func (e *Encryption) Reset(*store.View) {}

// Observe implements control.Loop.
func (e *Encryption) Observe(store.Event) {}

// Round implements control.Loop.
func (e *Encryption) Round(ctx context.Context) (again time.Time, err error) {
	now := time.Now()
	due := func(c *store.Cluster) (at time.Time, first bool) {
		if c == nil {
			return time.Time{}, false // its founding is a change
		}
		if c.KeyEpochSince.IsZero() {
			return now, true
		}
		return c.KeyEpochSince.Add(cmp.Or(c.KeyLife, DefaultKeyLife)), false
	}
	var first, wait bool
	e.store.View(func(v *store.View) {
		again, first = due(v.Cluster())
		wait = v.Cluster() == nil || now.Before(again) && !first
	})
	if wait {
		return again, nil
	}
	err = store.Transact(ctx, e.store, e.proposer, func(tx *store.Tx) error {
		c := tx.Cluster()
		if c == nil {
			return nil
		}
		next := *c
		if at, first := due(c); first {
			next.KeyEpochSince = now.UTC() // of a swarm that begins, or was made by an earlier version
		} else if now.Before(at) || RotateKeys(&next, tx.Nodes(), now) != nil {
			return nil
		}
		tx.Update(&next)
		return nil
	})
	return now.Add(keyRetry), err
}

// RotateKeys has all nodes change their WireGuard keys. It refuses as long as some have
// not ended the last change: they would lose packets.
func RotateKeys(c *store.Cluster, nodes []*store.Node, now time.Time) error {
	var late []string
	for _, n := range nodes {
		done := len(n.Keys) == 0 || len(n.Keys) == 1 && n.Keys[0].Epoch == c.KeyEpoch
		if !done && n.Status.State != swarm.NodeStateDown {
			late = append(late, cmp.Or(n.Hostname(), n.ID))
		}
	}
	if len(late) > 0 {
		slices.Sort(late)
		return remote.Errorf(errdefs.ErrConflict, "the last change of the nodes' keys has not ended on %s: "+
			"meshctl net check says what it waits for; after an hour nobody is waited for", strings.Join(late, ", "))
	}
	c.KeyEpoch++
	c.KeyEpochSince = now.UTC()
	return nil
}
