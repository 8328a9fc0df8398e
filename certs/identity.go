package certs

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// Role is what a node's certificate allows it to do: the certificate's OU.
type Role string

// The roles.
const (
	RoleManager Role = "swarm-manager"
	RoleWorker  Role = "swarm-worker"
)

// Identity is whom a certificate names: CN, O and OU.
type Identity struct {
	NodeID    string
	ClusterID string
	Role      Role
}

// Errors of verification.
var (
	// ErrForeign: the other side belongs to another cluster.
	ErrForeign = errors.New("it belongs to another cluster")
	// ErrBlocked: the other side's node was removed from the cluster.
	ErrBlocked = errors.New("the node was removed from the swarm")
	// ErrRole: the other side's certificate has not the role that is needed.
	ErrRole = errors.New("the certificate's role does not allow this")
)

// IdentityOf reads whom a node certificate names.
func IdentityOf(c *x509.Certificate) (Identity, error) {
	s := c.Subject
	if s.CommonName == "" || len(s.Organization) != 1 || len(s.OrganizationalUnit) != 1 {
		return Identity{}, fmt.Errorf("certs: subject %q names no node", s)
	}
	id := Identity{NodeID: s.CommonName, ClusterID: s.Organization[0], Role: Role(s.OrganizationalUnit[0])}
	if id.Role != RoleManager && id.Role != RoleWorker {
		return Identity{}, fmt.Errorf("certs: unknown role %q", id.Role)
	}
	return id, nil
}

// verifyChain checks that the first certificate leads to one of the roots, and
// returns whom it names.
func verifyChain(roots *x509.CertPool, chain []*x509.Certificate, now time.Time) (Identity, error) {
	if len(chain) == 0 {
		return Identity{}, errors.New("certs: no certificate presented")
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots:       roots,
		CurrentTime: now,
		KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	})
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &unknown):
		return Identity{}, fmt.Errorf("certs: certificate of %s: %w", chain[0].Subject.CommonName, ErrForeign)
	case err != nil:
		return Identity{}, fmt.Errorf("certs: certificate of %s: %w", chain[0].Subject.CommonName, err)
	}
	return IdentityOf(chain[0])
}
