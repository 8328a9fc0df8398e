package admission

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/certs"
	"github.com/meshd/meshd/orchestrator/consensus"
	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/orchestrator/remote"
	"github.com/meshd/meshd/orchestrator/store"
)

// Raft is what admission needs of this manager's raft; *consensus.Node is one.
type Raft interface {
	store.Proposer
	// Barrier returns when the store holds every write acknowledged before.
	Barrier(ctx context.Context) error
	Members() []consensus.Member
	// AddVoter makes a manager that answers at addr a voter, or a learner for now.
	AddVoter(ctx context.Context, id, addr string) error
	// Remove takes a manager out; one that is no member is no error.
	Remove(ctx context.Context, id string) error
	// Without is what would be left without a manager.
	Without(ctx context.Context, id string) (consensus.Rest, error)
}

// Config of a Desk.
type Config struct {
	Store  *store.Store
	Raft   Raft
	Client *remote.Client // unused yet; a desk may have to call another's
	Logger *slog.Logger
}

// Desk answers machines that want in, nodes that want a new certificate, and
// those that leave. Every manager has one.
type Desk struct{ cfg Config }

// New returns a desk.
func New(cfg Config) *Desk {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Desk{cfg: cfg}
}

// The calls.
const (
	pathJoin     = "/v1/join"
	pathRaftJoin = "/v1/raft/join"
	pathLeave    = "/v1/leave"
	pathRenew    = "/v1/renew"
	pathTrust    = "/v1/trust"
)

var errToken = errors.New("A valid join token is necessary to join this cluster") //nolint:staticcheck // Docker's text

// Register routes the desk's calls on a server, and has the server refuse
// removed nodes.
func (d *Desk) Register(s *remote.Server) {
	s.Refuse(d.Blocked)
	handle(s, pathJoin, d.join)
	handle(s, pathRaftJoin, d.raftJoin, certs.RoleManager)
	handle(s, pathLeave, d.leave, certs.RoleManager, certs.RoleWorker)
	handle(s, pathRenew, d.renew) // also of nodes whose certificates have expired
	handle(s, pathTrust, d.trust, certs.RoleManager, certs.RoleWorker)
}

func handle[In any](s *remote.Server, path string, fn func(context.Context, In) (any, error), roles ...certs.Role) {
	s.Handle(path, func(w http.ResponseWriter, r *http.Request) {
		var in In
		err := remote.Read(r, &in)
		var out any
		if err == nil {
			out, err = fn(r.Context(), in)
		}
		if err != nil {
			remote.Fail(w, err)
			return
		}
		remote.Reply(w, out)
	}, roles...)
}

// Blocked says whether a node was removed from the cluster.
func (d *Desk) Blocked(nodeID string) bool {
	blocked := false
	d.cfg.Store.View(func(v *store.View) {
		if c := v.Cluster(); c != nil {
			_, blocked = c.BlockedNodes[nodeID]
		}
	})
	return blocked
}

// cluster reads the cluster as it is now, not as this manager last heard.
func (d *Desk) cluster(ctx context.Context) (*store.Cluster, error) {
	if err := d.cfg.Raft.Barrier(ctx); err != nil {
		return nil, err
	}
	var c *store.Cluster
	d.cfg.Store.View(func(v *store.View) { c = v.Cluster() })
	if c == nil {
		return nil, remote.Errorf(errdefs.ErrUnavailable, "this manager's swarm is not founded yet")
	}
	return c, nil
}

func (d *Desk) node(id string) *store.Node {
	var n *store.Node
	d.cfg.Store.View(func(v *store.View) { n = v.Node(id) })
	return n
}

func (d *Desk) isMember(id string) bool {
	for _, m := range d.cfg.Raft.Members() {
		if m.ID == id {
			return true
		}
	}
	return false
}

func (d *Desk) join(ctx context.Context, in joinRequest) (any, error) {
	c, err := d.cluster(ctx)
	if err != nil {
		return nil, err
	}
	role, err := roleOf(c, in.Token)
	if err != nil {
		d.cfg.Logger.Warn("a machine was refused to join", "hostname", in.Description.Hostname, "address", in.Addr, "error", err)
		return nil, err
	}
	id, err := certs.NodeID(in.CSR)
	if err != nil {
		return nil, remote.Errorf(errdefs.ErrInvalidArgument, "%v", err)
	}
	n := newNode(id, role, in.Candidate, c.TLSInfo)
	err = store.Transact(ctx, d.cfg.Store, d.cfg.Raft, func(tx *store.Tx) error {
		if _, removed := tx.Cluster().BlockedNodes[id]; removed {
			return remote.Removed(id)
		}
		switch old := tx.Node(id); {
		case old == nil:
			tx.Create(n)
		case old.Spec.Role != role:
			return remote.Errorf(errdefs.ErrConflict, "node %s is a %s already", id, old.Spec.Role)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	cert, err := d.certify(ctx, c, in.CSR, certs.Identity{NodeID: id, ClusterID: c.ID, Role: CertRole(role)})
	if err != nil {
		return nil, err
	}
	d.cfg.Logger.Info("a node joined", "node", id, "role", role, "hostname", in.Description.Hostname, "address", in.Addr)
	return joinReply{
		NodeID: id, ClusterID: c.ID, CertPEM: cert, RootPEM: c.RootCert,
		Managers: d.managers(), DataPathPort: uint16(c.DataPathPort), Networks: d.networks(),
	}, nil
}

// networks are what a machine has to know of those that there are to see whether they
// suit it.
func (d *Desk) networks() []protocol.Network {
	var out []protocol.Network
	d.cfg.Store.View(func(v *store.View) {
		for _, n := range v.Networks() {
			if n.IPAMOptions == nil {
				continue
			}
			network := protocol.Network{ID: n.ID, Name: n.Spec.Name}
			for _, c := range n.IPAMOptions.Configs {
				network.Subnets = append(network.Subnets, protocol.Subnet{Prefix: c.Subnet})
			}
			out = append(out, network)
		}
	})
	return out
}

// roleOf is the role that a token opens. Both are compared, so that the time
// says nothing.
func roleOf(c *store.Cluster, text string) (swarm.NodeRole, error) {
	refused := remote.Errorf(errdefs.ErrPermissionDenied, "%v", errToken)
	given, err := certs.ParseToken(text)
	if err != nil {
		return "", refused
	}
	worker, err := certs.ParseToken(c.JoinTokens.Worker)
	if err != nil {
		return "", err
	}
	manager, err := certs.ParseToken(c.JoinTokens.Manager)
	if err != nil {
		return "", err
	}
	isWorker, isManager := given.Equal(worker), given.Equal(manager)
	switch {
	case isManager:
		return swarm.NodeRoleManager, nil
	case isWorker:
		return swarm.NodeRoleWorker, nil
	}
	return "", refused
}

// CertRole is what a certificate says of a node with this role.
func CertRole(r swarm.NodeRole) certs.Role {
	if r == swarm.NodeRoleManager {
		return certs.RoleManager
	}
	return certs.RoleWorker
}

func (d *Desk) managers() []swarm.Peer {
	var out []swarm.Peer
	for _, m := range d.cfg.Raft.Members() {
		out = append(out, swarm.Peer{NodeID: m.ID, Addr: m.Addr})
	}
	return out
}

func (d *Desk) raftJoin(ctx context.Context, in raftJoinRequest) (any, error) {
	id := remote.Peer(ctx).NodeID
	if _, err := d.cluster(ctx); err != nil {
		return nil, err
	}
	n := d.node(id)
	if n == nil || n.Spec.Role != swarm.NodeRoleManager {
		return nil, remote.Errorf(errdefs.ErrPermissionDenied, "node %s is no manager of this swarm", id)
	}
	if err := d.cfg.Raft.AddVoter(ctx, id, in.Addr); err != nil {
		return nil, err
	}
	return nil, d.update(ctx, id, func(n *store.Node) {
		n.ManagerStatus = &swarm.ManagerStatus{Reachability: swarm.ReachabilityReachable, Addr: in.Addr}
	})
}

// update changes a node that may be gone meanwhile.
func (d *Desk) update(ctx context.Context, id string, change func(*store.Node)) error {
	return store.Transact(ctx, d.cfg.Store, d.cfg.Raft, func(tx *store.Tx) error {
		if n := tx.Node(id); n != nil {
			next := *n
			change(&next)
			tx.Update(&next)
		}
		return nil
	})
}

// renew certifies a node anew. One whose certificate has expired presents none: that
// it has the key which its ID comes from proves who it is.
func (d *Desk) renew(ctx context.Context, in renewRequest) (any, error) {
	id := remote.Peer(ctx)
	if id.NodeID == "" {
		var err error
		if id.NodeID, err = certs.NodeID(in.CSR); err != nil {
			return nil, remote.Errorf(errdefs.ErrInvalidArgument, "%v", err)
		}
	}
	return d.renewFor(ctx, id, in.CSR)
}

func (d *Desk) renewFor(ctx context.Context, id certs.Identity, csr []byte) (out renewReply, err error) {
	c, err := d.cluster(ctx)
	if err != nil {
		return out, err
	}
	n := d.node(id.NodeID)
	if n == nil {
		return out, remote.Removed(id.NodeID)
	}
	role := CertRole(n.Spec.Role)
	if role == certs.RoleWorker && id.Role != certs.RoleWorker && d.isMember(id.NodeID) {
		return out, remote.Errorf(errdefs.ErrUnavailable, "node %s is being demoted; try again", id.NodeID)
	}
	cert, err := d.certify(ctx, c, csr, certs.Identity{NodeID: id.NodeID, ClusterID: c.ID, Role: role})
	return renewReply{CertPEM: cert, RootPEM: c.RootCert}, err
}

// Renew is for this manager's own certificate: without connection, which an expired
// one would not allow.
func (d *Desk) Renew(ctx context.Context, k *certs.Keeper) error {
	key, csr, err := k.Request()
	if err != nil {
		return err
	}
	r, err := d.renewFor(ctx, k.Identity(), csr)
	if err != nil {
		return err
	}
	return k.Replace(key, r.CertPEM, r.RootPEM)
}

// leave sees a node off. The store is changed before raft: afterwards this very
// manager may be out of raft and see no commit any more.
func (d *Desk) leave(ctx context.Context, in leaveRequest) (any, error) {
	id := remote.Peer(ctx).NodeID
	member := d.isMember(id)
	if member && !in.Force {
		rest, err := d.cfg.Raft.Without(ctx, id)
		if err != nil {
			return nil, err
		}
		if !rest.Quorum() {
			return nil, remote.Errorf(errdefs.ErrFailedPrecondition,
				"Removing this node would leave the swarm without a Raft quorum, and so inaccessible. Use `--force` to ignore this message.")
		}
	}
	err := d.update(ctx, id, func(n *store.Node) {
		n.Spec.Role, n.ManagerStatus = swarm.NodeRoleWorker, nil
		n.Status.State, n.Status.Message = swarm.NodeStateDown, "the node left the swarm"
	})
	if err != nil {
		return nil, err
	}
	if !member || len(d.cfg.Raft.Members()) == 1 {
		return nil, nil // the last manager takes the state with it
	}
	d.cfg.Logger.Info("a manager leaves", "node", id)
	return nil, d.cfg.Raft.Remove(ctx, id)
}
