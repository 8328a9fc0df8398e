package admission

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/certs"
	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/orchestrator/remote"
)

// Candidate is a machine that wants to join.
type Candidate struct {
	Token        string
	Description  swarm.NodeDescription
	Availability swarm.NodeAvailability
	// Addr is host:port of its control port, as other nodes would dial it.
	Addr string
	// DataAddr is where peers send overlay traffic to.
	DataAddr netip.Addr
}

// Joined is a new node's identity and what it needs to begin.
type Joined struct {
	NodeID       string
	ClusterID    string
	KeyPEM       []byte
	CertPEM      []byte
	RootPEM      []byte
	Managers     []swarm.Peer
	DataPathPort uint16
	// Networks are the names and ranges of those that there are, which no other way
	// of the machine should lead to.
	Networks []protocol.Network
}

type joinRequest struct {
	Candidate
	CSR []byte
}

type joinReply struct {
	NodeID       string
	ClusterID    string
	CertPEM      []byte
	RootPEM      []byte
	Managers     []swarm.Peer
	DataPathPort uint16
	Networks     []protocol.Network
}

type raftJoinRequest struct{ Addr string }

type leaveRequest struct{ Force bool }

type renewRequest struct{ CSR []byte }

type renewReply struct{ CertPEM, RootPEM []byte }

// Join asks the manager at addr to let this machine in. Nothing is sent before
// the manager has shown the root that the token names: a token of another
// cluster is certs.ErrForeign (and errdefs.ErrInvalidArgument), a wrong or
// rotated one errdefs.ErrPermissionDenied.
func Join(ctx context.Context, addr string, token certs.Token, c Candidate) (Joined, error) {
	key, csr, err := certs.NewRequest()
	if err != nil {
		return Joined{}, err
	}
	client := remote.NewJoinClient(token)
	defer client.Close()
	c.Token = token.String()
	var r joinReply
	if err := client.Call(ctx, addr, pathJoin, joinRequest{Candidate: c, CSR: csr}, &r); err != nil {
		return Joined{}, err
	}
	// What came must be of the root that the token names, too.
	if digest, err := certs.Digest(r.RootPEM); err != nil || digest != token.Digest {
		return Joined{}, fmt.Errorf("manager %s sent another root than it showed: %w", addr, certs.ErrForeign)
	}
	return Joined{
		NodeID: r.NodeID, ClusterID: r.ClusterID, KeyPEM: key, CertPEM: r.CertPEM, RootPEM: r.RootPEM,
		Managers: r.Managers, DataPathPort: r.DataPathPort, Networks: r.Networks,
	}, nil
}

// JoinRaft makes this manager a voter. Its control port and its raft must be
// up: the leader dials back to advertise (host:port) before it counts on it.
func JoinRaft(ctx context.Context, client *remote.Client, addr, advertise string) error {
	return client.Call(ctx, addr, pathRaftJoin, raftJoinRequest{Addr: advertise}, nil)
}

// Leave tells the manager at addr that this node goes. A manager is taken out of
// raft; without force this is refused if the others would have no quorum
// (errdefs.ErrFailedPrecondition).
func Leave(ctx context.Context, client *remote.Client, addr string, force bool) error {
	return client.Call(ctx, addr, pathLeave, leaveRequest{Force: force}, nil)
}

// Renew gets a certificate from the manager at addr, with the role that the node has
// by now, and takes it into use.
func Renew(ctx context.Context, client *remote.Client, addr string, k *certs.Keeper) error {
	key, csr, err := k.Request()
	if err != nil {
		return err
	}
	var r renewReply
	if err := client.Call(ctx, addr, pathRenew, renewRequest{CSR: csr}, &r); err != nil {
		return err
	}
	if err := k.Replace(key, r.CertPEM, r.RootPEM); err != nil {
		return fmt.Errorf("take the renewed certificate into use: %w", err)
	}
	return nil
}

// TellTrust tells the manager at addr what this node's certificate and root are.
func TellTrust(ctx context.Context, client *remote.Client, addr string, k *certs.Keeper) error {
	subject, key := k.Issuer()
	return client.Call(ctx, addr, pathTrust, Trust{TrustRoot: string(k.RootPEM()), CertIssuerSubject: subject, CertIssuerPublicKey: key}, nil)
}
