package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/admission"
	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/overlay/ipam"
)

// clusterView is the cluster as clients may see it: join tokens yes, CA keys no.
func clusterView(c *store.Cluster) swarm.Swarm {
	out := c.Swarm
	out.Spec.Labels = orEmpty(out.Spec.Labels)
	if len(out.DefaultAddrPool) == 0 { // see ipam.DefaultPools
		out.DefaultAddrPool, out.SubnetSize = []netip.Prefix{ipam.DefaultRange()}, ipam.DefaultSize
	}
	out.Spec.CAConfig.SigningCACert, out.Spec.CAConfig.SigningCAKey = "", ""
	return out
}

func (s *Server) swarmInspect(w http.ResponseWriter, _ *http.Request, c Control) error {
	var out swarm.Swarm
	c.Store().View(func(v *store.View) {
		if cl := v.Cluster(); cl != nil {
			out = clusterView(cl)
		}
	})
	reply(w, http.StatusOK, out)
	return nil
}

func (s *Server) swarmInit(w http.ResponseWriter, r *http.Request) error {
	var req swarm.InitRequest
	if err := readBody(w, r, &req); err != nil {
		return err
	}
	if st := s.node.Status().State; partOfSwarm(st) && !req.ForceNewCluster {
		return refuse(http.StatusServiceUnavailable, textActive)
	}
	if err := validateInit(req); err != nil {
		return err
	}
	id, err := s.node.Init(r.Context(), req)
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, id)
	return nil
}

func partOfSwarm(st swarm.LocalNodeState) bool {
	return st != swarm.LocalNodeStateInactive && st != ""
}

// joinTime is how long a client waits for its node to enter a swarm.
const joinTime = 20 * time.Second

const textJoinTime = `Timeout was reached before node joined. The attempt to join the swarm will continue in the background. Use the "docker info" command to see the current swarm status of your node.`

func (s *Server) swarmJoin(w http.ResponseWriter, r *http.Request) error {
	var req swarm.JoinRequest
	if err := readBody(w, r, &req); err != nil {
		return err
	}
	if partOfSwarm(s.node.Status().State) {
		return refuse(http.StatusServiceUnavailable, textActive)
	}
	if err := validateJoin(req); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), joinTime)
	defer cancel()
	if err := s.node.Join(ctx, req); err != nil {
		if errors.Is(err, context.DeadlineExceeded) && partOfSwarm(s.node.Status().State) {
			return refuse(http.StatusServiceUnavailable, textJoinTime)
		}
		return err
	}
	return done(w)
}

// done is Docker's answer to a change that has nothing to tell.
func done(w http.ResponseWriter) error {
	w.WriteHeader(http.StatusOK)
	return nil
}

func (s *Server) swarmLeave(w http.ResponseWriter, r *http.Request) error {
	if !partOfSwarm(s.node.Status().State) {
		return refuse(http.StatusServiceUnavailable, textNoSwarm)
	}
	force := isSet(r, "force")
	c, manager := s.node.Manager()
	if manager && !force {
		// Without a leader there is no quorum to keep: what the store says serves.
		_ = barrier(r.Context(), c)
		if text := leaveWarning(c.Store()); text != "" {
			return refuse(http.StatusServiceUnavailable, "%s", text)
		}
	}
	err := s.node.Leave(r.Context(), force)
	switch {
	case err == nil:
		return done(w)
	case manager && errdefs.IsFailedPrecondition(err): // the leader knows it better than the store
		return refuse(http.StatusServiceUnavailable, "%s%v", textManager, err)
	}
	return err
}

const textManager = "You are attempting to leave the swarm on a node that is participating as a manager. "

// leaveWarning tells a manager what its leaving would cost the swarm: all, or the
// quorum. Empty: the other managers go on without it.
func leaveWarning(st *store.Store) string {
	const (
		last = "Removing the last manager erases all current state of the swarm. Use `--force` to ignore this message."
		tail = "The only way to restore a swarm that has lost consensus is to reinitialize it with `--force-new-cluster`. Use `--force` to suppress this message."
	)
	managers, reachable := 0, 0
	st.View(func(v *store.View) {
		for _, n := range v.Nodes() {
			if n.Spec.Role == swarm.NodeRoleManager {
				managers++
				if n.ManagerStatus == nil || n.ManagerStatus.Reachability != swarm.ReachabilityUnreachable {
					reachable++
				}
			}
		}
	})
	switch {
	case managers <= 1:
		return textManager + last
	case reachable-1 < managers/2+1:
		return textManager + fmt.Sprintf("Removing this node leaves %d managers out of %d. Without a Raft quorum your swarm will be inaccessible. ", reachable-1, managers) + tail
	}
	return ""
}

func (s *Server) swarmUpdate(w http.ResponseWriter, r *http.Request, c Control) error {
	base, err := baseVersion(r)
	if err != nil {
		return err
	}
	var spec swarm.Spec
	if err := readBody(w, r, &spec); err != nil {
		return err
	}
	if err := validateSwarmSpec(spec); err != nil {
		return err
	}
	rotate := map[string]bool{}
	for _, what := range []string{"rotateManagerUnlockKey", "rotateWorkerToken", "rotateManagerToken"} {
		if rotate[what], err = flag(r, what); err != nil {
			return err
		}
	}
	err = store.TransactOnce(r.Context(), c.Store(), c, func(tx *store.Tx) error {
		old := tx.Cluster()
		if old == nil || old.Version.Index != base {
			return store.ErrSequence
		}
		next := *old
		next.Spec = mergeSwarmSpec(old.Spec, spec)
		next.Spec.CAConfig.ForceRotate = old.Spec.CAConfig.ForceRotate
		if err := admission.MoveRoot(&next, spec.CAConfig); err != nil {
			return err
		}
		admission.SetLock(&next, rotate["rotateManagerUnlockKey"])
		if rotate["rotateWorkerToken"] {
			next.JoinTokens.Worker = rotateToken(old.JoinTokens.Worker)
		}
		if rotate["rotateManagerToken"] {
			next.JoinTokens.Manager = rotateToken(old.JoinTokens.Manager)
		}
		tx.Update(&next)
		return nil
	})
	if err != nil {
		return err
	}
	return done(w)
}

// rotateToken gives a join token (SWMTKN-1-<CA digest>-<secret>) a new secret;
// the CA, and so the digest, stays. The secret has the form and the 128 bits of
// an object's ID.
func rotateToken(token string) string {
	return token[:strings.LastIndex(token, "-")+1] + store.NewID()
}

// mergeSwarmSpec keeps what a client may leave out because it never sees it or
// because zero stands for "as it is".
func mergeSwarmSpec(old, spec swarm.Spec) swarm.Spec {
	spec.Name = old.Name
	spec.Labels = orEmpty(spec.Labels)
	if spec.Raft.ElectionTick == 0 {
		spec.Raft.ElectionTick = old.Raft.ElectionTick
	}
	if spec.Raft.HeartbeatTick == 0 {
		spec.Raft.HeartbeatTick = old.Raft.HeartbeatTick
	}
	if spec.CAConfig.NodeCertExpiry == 0 {
		spec.CAConfig.NodeCertExpiry = old.CAConfig.NodeCertExpiry
	}
	if spec.Dispatcher.HeartbeatPeriod == 0 {
		spec.Dispatcher.HeartbeatPeriod = old.Dispatcher.HeartbeatPeriod
	}
	if spec.Orchestration.TaskHistoryRetentionLimit == nil {
		spec.Orchestration.TaskHistoryRetentionLimit = old.Orchestration.TaskHistoryRetentionLimit
	}
	return spec
}

func (s *Server) swarmUnlockKey(w http.ResponseWriter, _ *http.Request, c Control) error {
	var out swarm.UnlockKeyResponse
	c.Store().View(func(v *store.View) {
		if cl := v.Cluster(); cl != nil {
			out.UnlockKey = cl.UnlockKey
		}
	})
	reply(w, http.StatusOK, out)
	return nil
}

func (s *Server) swarmUnlock(w http.ResponseWriter, r *http.Request) error {
	var req swarm.UnlockRequest
	if err := readBody(w, r, &req); err != nil {
		return err
	}
	switch s.node.Status().State {
	case swarm.LocalNodeStateLocked:
	case swarm.LocalNodeStateActive, swarm.LocalNodeStatePending, swarm.LocalNodeStateError:
		return refuse(http.StatusConflict, "swarm is not locked")
	default:
		return refuse(http.StatusServiceUnavailable, textInactive)
	}
	if err := s.node.Unlock(r.Context(), req.UnlockKey); err != nil {
		return err
	}
	return done(w)
}
