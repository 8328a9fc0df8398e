package admission

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/certs"
	"github.com/meshd/meshd/orchestrator/control"
	"github.com/meshd/meshd/orchestrator/remote"
	"github.com/meshd/meshd/orchestrator/store"
)

// A root is replaced in three steps, and no connection breaks on the way:
//
//	begin   the next root certifies nodes. What it signs comes with its own
//	        certificate cross-signed by the present root, which all trust.
//	renew   each node hears of it in its session, has its certificate renewed,
//	        and tells so (Desk.trust).
//	finish  when all have: the next root is the root (Roots, the leader's). Nodes
//	        take it as the one that they trust, and join tokens name it.

// MoveRoot gives the cluster another root if what a user asks of its CA differs from
// what it was: a new one, his own, or that of an external CA.
func MoveRoot(c *store.Cluster, asked swarm.CAConfig) error {
	c.Spec.CAConfig.SigningCACert, c.Spec.CAConfig.SigningCAKey = "", "" // the spec is shown to clients
	before := c.Spec.CAConfig.ForceRotate
	c.Spec.CAConfig.ForceRotate = asked.ForceRotate
	next := store.NextRoot{Cert: []byte(asked.SigningCACert), Key: []byte(asked.SigningCAKey)}
	switch {
	case asked.SigningCACert == "" && asked.SigningCAKey != "":
		return remote.Errorf(errdefs.ErrInvalidArgument, "rotating to a key needs the certificate that belongs to it, too")
	case asked.SigningCACert == "" && asked.ForceRotate == before:
		return nil
	case asked.SigningCACert == "":
		ca, err := certs.NewCA()
		if err != nil {
			return err
		}
		next = store.NextRoot{Cert: ca.CertPEM(), Key: ca.KeyPEM()}
	}
	ca, err := authority(next, asked.ExternalCAs)
	if err != nil {
		return err
	}
	return moveTo(c, ca)
}

// authority is the CA of a root; one without key must be an external CA's.
func authority(r store.NextRoot, external []*swarm.ExternalCA) (*certs.CA, error) {
	ca, err := certs.ParseCA(r.Cert, r.Key)
	if err != nil {
		return nil, remote.Errorf(errdefs.ErrInvalidArgument, "the root cannot be used: %v", err)
	}
	if !ca.HasKey() && externalFor(ca.CertPEM(), external) == nil {
		return nil, remote.Errorf(errdefs.ErrInvalidArgument, "the root has no key, and no external CA was named that signs for it")
	}
	if !ca.HasKey() {
		return ca, nil
	}
	if err := tryOut(ca); err != nil {
		return nil, remote.Errorf(errdefs.ErrInvalidArgument, "the root cannot certify nodes: %v", err)
	}
	return ca, nil
}

// tryOut certifies nobody, to see whether nodes would accept it.
func tryOut(ca *certs.CA) error {
	_, csr, err := certs.NewRequest()
	if err != nil {
		return err
	}
	nobody := certs.Identity{NodeID: "nobody", ClusterID: "none", Role: certs.RoleWorker}
	cert, err := ca.Sign(csr, nobody, 0)
	if err != nil {
		return err
	}
	return certs.CheckCert(cert, csr, ca.CertPEM(), nobody)
}

func moveTo(c *store.Cluster, next *certs.CA) error {
	old, err := certs.ParseCA(c.RootCert, c.RootKey)
	if err != nil {
		return err
	}
	switch {
	case bytes.Equal(next.CertPEM(), c.RootCert):
		c.NextRoot = nil // back to where it was, and perhaps with its key
		c.RootKey = next.KeyPEM()
	case !old.HasKey():
		return remote.Errorf(errdefs.ErrFailedPrecondition,
			"the key of the present root is not here, and without it nobody would trust the next one; give it first: swarm ca --rotate --ca-cert PRESENT --ca-key KEY")
	default:
		cross, err := old.CrossSign(next)
		if err != nil {
			return remote.Errorf(errdefs.ErrFailedPrecondition, "%v", err)
		}
		c.NextRoot = &store.NextRoot{Cert: next.CertPEM(), Key: next.KeyPEM()}
		c.Cross = cross
	}
	c.TLSInfo, c.RootRotationInProgress = tlsInfo(next), c.NextRoot != nil
	return nil
}

// chain is what leads from a certificate of the signing root to the roots that nodes
// may know.
func chain(c *store.Cluster) []byte {
	if c.Cross == nil {
		return nil
	}
	return append(bytes.Clone(c.Cross), c.SigningRoot().Cert...)
}

// certify signs for a node: its certificate and what leads to a root.
func (d *Desk) certify(ctx context.Context, c *store.Cluster, csr []byte, id certs.Identity) ([]byte, error) {
	root := c.SigningRoot()
	ca, err := certs.ParseCA(root.Cert, root.Key)
	if err != nil {
		return nil, err
	}
	var cert []byte
	if ca.HasKey() {
		cert, err = ca.Sign(csr, id, c.Spec.CAConfig.NodeCertExpiry)
	} else {
		cert, err = signExternally(ctx, externalFor(root.Cert, c.Spec.CAConfig.ExternalCAs), csr, id)
	}
	if err != nil {
		return nil, err
	}
	return append(cert, chain(c)...), nil
}

// Trust is what a node holds: who signed its certificate, and which root it trusts.
type Trust = swarm.TLSInfo

// trust notes what a node holds.
func (d *Desk) trust(ctx context.Context, in Trust) (any, error) {
	id := remote.Peer(ctx).NodeID
	return nil, store.Transact(ctx, d.cfg.Store, d.cfg.Raft, func(tx *store.Tx) error {
		n := tx.Node(id)
		if n == nil || sameTrust(n.Description.TLSInfo, in) {
			return nil
		}
		next := *n
		next.Description.TLSInfo = in
		tx.Update(&next)
		return nil
	})
}

func sameTrust(a, b Trust) bool {
	return a.TrustRoot == b.TrustRoot && bytes.Equal(a.CertIssuerPublicKey, b.CertIssuerPublicKey) &&
		bytes.Equal(a.CertIssuerSubject, b.CertIssuerSubject)
}

// Roots is the leader's loop that makes the next root the root, once all nodes have
// certificates of it.
type Roots struct {
	store    *store.Store
	proposer store.Proposer
	log      *slog.Logger
}

// NewRoots returns the loop.
func NewRoots(s *store.Store, p store.Proposer, log *slog.Logger) *Roots {
	return &Roots{store: s, proposer: p, log: log}
}

// Run works until the context ends.
func (r *Roots) Run(ctx context.Context) error { return control.Run(ctx, r.store, r.log, r) }

// Reset implements control.Loop.
func (r *Roots) Reset(*store.View) {}

// Observe implements control.Loop.
func (r *Roots) Observe(store.Event) {}

// Round implements control.Loop.
func (r *Roots) Round(ctx context.Context) (time.Time, error) {
	due := false
	r.store.View(func(v *store.View) { due = moved(v) })
	if !due {
		return time.Time{}, nil
	}
	err := store.Transact(ctx, r.store, r.proposer, func(tx *store.Tx) error {
		if !moved(tx.View) {
			return nil
		}
		next := *tx.Cluster()
		next.RootCert, next.RootKey = next.NextRoot.Cert, next.NextRoot.Key
		next.NextRoot, next.RootRotationInProgress = nil, false
		rotated, err := RotateTokens(&next, true, true)
		if err != nil {
			return err
		}
		tx.Update(rotated)
		return nil
	})
	if err != nil {
		return time.Time{}, fmt.Errorf("finish the rotation of the root: %w", err)
	}
	r.log.Info("the swarm has another root certificate; join tokens have changed with it")
	return time.Time{}, nil
}

// moved says that every node has a certificate of the next root.
func moved(v *store.View) bool {
	c := v.Cluster()
	if c == nil || c.NextRoot == nil {
		return false
	}
	for _, n := range v.Nodes() {
		if !bytes.Equal(n.Description.TLSInfo.CertIssuerPublicKey, c.TLSInfo.CertIssuerPublicKey) {
			return false
		}
	}
	return true
}
