package api

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/meshd/plan"
	"github.com/meshd/meshd/orchestrator/store"
)

// nodeView is the node as clients see it. Who leads is raft's to say, not the
// store's: a stored leader would be wrong exactly after one died.
func nodeView(n *store.Node, leader string) swarm.Node {
	out := n.Node
	out.Spec.Labels = orEmpty(out.Spec.Labels)
	if n.ManagerStatus != nil {
		m := *n.ManagerStatus
		m.Leader = n.ID == leader
		out.ManagerStatus = &m
	}
	return out
}

func (s *Server) nodeList(w http.ResponseWriter, r *http.Request, c Control) error {
	f, err := parseFilters(r, "id", "name", "label", "node.label", "role", "membership")
	if err != nil {
		return err
	}
	if err := f.oneOf("role", "manager", "worker"); err != nil {
		return err
	}
	if err := f.oneOf("membership", "accepted", "pending"); err != nil {
		return err
	}
	leader, _ := c.Leader()
	out := []swarm.Node{}
	c.Store().View(func(v *store.View) {
		for _, n := range v.Nodes() {
			if f.prefix("id", n.ID) && f.prefix("name", n.Hostname(), n.Spec.Name) && f.exact("role", string(n.Spec.Role)) &&
				f.exact("membership", "accepted") && f.labels("label", n.Description.Engine.Labels) && f.labels("node.label", n.Spec.Labels) {
				out = append(out, nodeView(n, leader))
			}
		}
	})
	reply(w, http.StatusOK, out)
	return nil
}

func (s *Server) nodeInspect(w http.ResponseWriter, r *http.Request, c Control) error {
	leader, _ := c.Leader()
	var out swarm.Node
	err := look(c.Store(), func(v *store.View) error {
		n, err := findNode(v, r.PathValue("id"))
		if err == nil {
			out = nodeView(n, leader)
		}
		return err
	})
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, out)
	return nil
}

// look reads the store with a function that may fail.
func look(st *store.Store, fn func(*store.View) error) (err error) {
	st.View(func(v *store.View) { err = fn(v) })
	return err
}

// blockTime is how long a removed node's certificate could still be valid.
const blockTime = 90 * 24 * time.Hour

// nodeRemove forgets a node. Its certificate is blocked until it has expired;
// the control loops replace its tasks.
func (s *Server) nodeRemove(w http.ResponseWriter, r *http.Request, c Control) error {
	force := isSet(r, "force")
	err := store.Transact(r.Context(), c.Store(), c, func(tx *store.Tx) error {
		n, err := findNode(tx.View, r.PathValue("id"))
		if err != nil {
			return err
		}
		if n.Spec.Role == swarm.NodeRoleManager || n.ManagerStatus != nil {
			return invalid("node %s is a cluster manager and is a member of the raft cluster. It must be demoted to worker before removal", n.ID)
		}
		if n.Status.State != swarm.NodeStateDown && !force {
			return invalid("node %s is not down and can't be removed", n.ID)
		}
		tx.Remove(n)
		if cl := tx.Cluster(); cl != nil {
			tx.Update(block(cl, n.ID, time.Now()))
		}
		return nil
	})
	if err != nil {
		return err
	}
	return done(w)
}

// block adds a node to the blocked ones and drops those whose time is over.
func block(cl *store.Cluster, id string, now time.Time) *store.Cluster {
	expiry := max(blockTime, cl.Spec.CAConfig.NodeCertExpiry) // it may have been longer before
	next := *cl
	next.BlockedNodes = map[string]time.Time{id: now.Add(expiry).UTC()}
	for k, t := range cl.BlockedNodes {
		if t.After(now) && k != id {
			next.BlockedNodes[k] = t
		}
	}
	return &next
}

func (s *Server) nodeUpdate(w http.ResponseWriter, r *http.Request, c Control) error {
	base, err := baseVersion(r)
	if err != nil {
		return err
	}
	var spec swarm.NodeSpec
	if err := readBody(w, r, &spec); err != nil {
		return err
	}
	if err := validateRole(spec.Role); err != nil {
		return err
	}
	if err := validateAvailability(spec.Availability); err != nil {
		return err
	}
	if err := plan.CheckNodeWeight(spec.Labels); err != nil {
		return invalid("%v", err)
	}
	if err := mayDemote(r.Context(), c, r.PathValue("id"), spec); err != nil {
		return err
	}
	err = store.TransactOnce(r.Context(), c.Store(), c, func(tx *store.Tx) error {
		n, err := findNode(tx.View, r.PathValue("id"))
		if err != nil {
			return err
		}
		if n.Version.Index != base {
			return store.ErrSequence
		}
		next := *n
		next.Spec = spec
		next.Spec.Labels = orEmpty(spec.Labels)
		if next.Spec.Availability == "" {
			next.Spec.Availability = n.Spec.Availability
		}
		if demoted(n.Spec, next.Spec) && managersBut(tx.View, n.ID) == 0 {
			return invalid("attempting to demote the last manager of the swarm")
		}
		tx.Update(&next)
		return nil
	})
	if err != nil {
		return err
	}
	return done(w)
}

// mayDemote refuses to take a manager away without which the others would have no
// quorum, and names those who do not answer. Raft has the last word later: two may be
// demoted at the same time.
func mayDemote(ctx context.Context, c Control, id string, next swarm.NodeSpec) error {
	concerned := false
	err := look(c.Store(), func(v *store.View) error {
		n, err := findNode(v, id)
		if err == nil {
			id, concerned = n.ID, demoted(n.Spec, next) && managersBut(v, n.ID) > 0
		}
		return err
	})
	if err != nil || !concerned {
		return err
	}
	rest, err := c.Without(ctx, id)
	if err != nil || rest.Quorum() {
		return err
	}
	silent := make([]string, len(rest.Silent))
	c.Store().View(func(v *store.View) {
		for i, id := range rest.Silent {
			silent[i] = id
			if n := v.Node(id); n != nil && n.Hostname() != "" {
				silent[i] = fmt.Sprintf("%s (%s)", n.Hostname(), id)
			}
		}
	})
	return refuse(http.StatusConflict, "without this manager the swarm would have no quorum: of the %d others that vote, %d do not answer: %s. "+
		"Bring them back, or demote those first that are lost", rest.Voters, len(silent), strings.Join(silent, ", "))
}

func demoted(old, next swarm.NodeSpec) bool {
	return old.Role == swarm.NodeRoleManager && next.Role == swarm.NodeRoleWorker
}

// managersBut counts the managers besides one node.
func managersBut(v *store.View, id string) int {
	n := 0
	for _, o := range v.Nodes() {
		if o.ID != id && o.Spec.Role == swarm.NodeRoleManager {
			n++
		}
	}
	return n
}
