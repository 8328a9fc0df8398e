package certs

import (
	"crypto"
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

// verifyChain checks that the first certificate leads to one of the roots, perhaps
// by way of the others, and returns whom it names.
func verifyChain(roots *x509.CertPool, chain []*x509.Certificate, now time.Time) (Identity, error) {
	if len(chain) == 0 {
		return Identity{}, errors.New("certs: no certificate presented")
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between,
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

// SameCert says that two PEM texts begin with the same certificate.
func SameCert(a, b []byte) bool {
	x, err := parseCerts(a)
	if err != nil {
		return false
	}
	y, err := parseCerts(b)
	return err == nil && x[0].Equal(y[0])
}

// CheckCert checks a certificate that another signed: it is of the root, for the
// request's key, and says what it should.
func CheckCert(certPEM, csrPEM, rootPEM []byte, want Identity) error {
	chain, err := parseCerts(certPEM)
	if err != nil {
		return err
	}
	req, err := parseRequest(csrPEM)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(rootPEM)
	id, err := verifyChain(roots, chain, time.Now())
	if err != nil {
		return err
	}
	key, ok := chain[0].PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if id != want || !ok || !key.Equal(req.PublicKey) {
		return fmt.Errorf("certs: asked for a certificate of %+v, got one of %+v, or for another key", want, id)
	}
	return nil
}
