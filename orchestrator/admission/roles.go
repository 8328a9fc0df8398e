package admission

import (
	"context"
	"log/slog"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/consensus"
	"github.com/meshd/meshd/orchestrator/control"
	"github.com/meshd/meshd/orchestrator/store"
)

// Roles is the leader's loop that takes managers that were demoted, or whose
// nodes were removed, out of raft, and gives new ones their vote that were late to
// catch up. It is never the one to cost the quorum: what it may not do yet, it tries
// again. A manager that is dead stays one until somebody demotes it, as in Swarm.
type Roles struct {
	store *store.Store
	raft  Raft
	log   *slog.Logger
}

// NewRoles returns the loop.
func NewRoles(s *store.Store, r Raft, log *slog.Logger) *Roles {
	return &Roles{store: s, raft: r, log: log}
}

// Name implements the leader's component.
func (r *Roles) Name() string { return "roles" }

// Run works until the context ends.
func (r *Roles) Run(ctx context.Context) error { return control.Run(ctx, r.store, r.log, r) }

// Reset implements control.Loop.
func (r *Roles) Reset(*store.View) {}

// Observe implements control.Loop.
func (r *Roles) Observe(store.Event) {}

const (
	// rolesEvery is how often members are compared with nodes when nothing changes,
	// since raft's members change without a commit of the store; learnersEvery while
	// there are learners.
	rolesEvery    = 10 * time.Second
	learnersEvery = time.Second
)

// Round implements control.Loop.
func (r *Roles) Round(ctx context.Context) (time.Time, error) {
	again := time.Now().Add(rolesEvery)
	gone, learners := r.compare()
	for _, m := range learners {
		again = time.Now().Add(learnersEvery)
		if err := r.raft.AddVoter(ctx, m.ID, m.Addr); err != nil {
			r.log.Warn("a new manager has no vote yet", "node", m.ID, "error", err)
		}
	}
	for _, m := range gone {
		rest, err := r.raft.Without(ctx, m.ID)
		if err != nil {
			return again, err
		}
		if m.Voter && !rest.Quorum() {
			r.log.Warn("a demoted manager stays in raft: without it there would be no quorum", "node", m.ID, "silent", rest.Silent)
			continue
		}
		if err := r.raft.Remove(ctx, m.ID); err != nil {
			return again, err
		}
		r.log.Info("a manager is no manager any more", "node", m.ID)
	}
	return again, nil
}

// compare finds the members of raft that are no managers any more, and the managers
// that have no vote yet.
func (r *Roles) compare() (gone, learners []consensus.Member) {
	r.store.View(func(v *store.View) {
		if v.Cluster() == nil {
			return // the first node is a member before it is in the store
		}
		for _, m := range r.raft.Members() {
			switch n := v.Node(m.ID); {
			case n == nil || n.Spec.Role == swarm.NodeRoleWorker:
				gone = append(gone, m)
			case !m.Voter:
				learners = append(learners, m)
			}
		}
	})
	return gone, learners
}

// Recover adapts the store after consensus.ForceNewCluster: this node is the
// only manager; the former others are blocked, since their rafts believe in
// another cluster. They come back by leaving and joining.
func Recover(ctx context.Context, s *store.Store, p store.Proposer, self string) error {
	return store.Transact(ctx, s, p, func(tx *store.Tx) error {
		c := tx.Cluster()
		if c == nil {
			return nil
		}
		next := *c
		next.BlockedNodes = map[string]time.Time{}
		for id, t := range c.BlockedNodes {
			next.BlockedNodes[id] = t
		}
		for _, n := range tx.Nodes() {
			if n.ID == self || (n.Spec.Role != swarm.NodeRoleManager && n.ManagerStatus == nil) {
				continue
			}
			lost := *n
			lost.Spec.Role, lost.ManagerStatus = swarm.NodeRoleWorker, nil
			lost.Status.State, lost.Status.Message = swarm.NodeStateDown, "the swarm was recovered without this manager"
			tx.Update(&lost)
			next.BlockedNodes[n.ID] = time.Now().Add(c.Spec.CAConfig.NodeCertExpiry).UTC()
		}
		tx.Update(&next)
		return nil
	})
}
