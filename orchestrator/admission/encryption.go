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
	err = store.Transact(ctx, e.store, e.proposer, func(tx *store.Tx) error {
		again = time.Time{} // whatever changes the cluster brings the next round
		c := tx.Cluster()
		if c == nil {
			return nil
		}
		next, due := *c, c.KeyEpochSince.Add(cmp.Or(c.KeyLife, DefaultKeyLife))
		switch {
		case c.KeyEpochSince.IsZero(): // of a swarm that begins, or was made by an earlier version
			next.KeyEpochSince = now.UTC()
		case now.Before(due):
			again = due
			return nil
		case RotateKeys(&next, tx.Nodes(), now) != nil:
			again = now.Add(keyRetry)
			return nil
		}
		tx.Update(&next)
		return nil
	})
	return again, err
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
