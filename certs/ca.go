package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"
)

const (
	// DefaultLife is how long a node's certificate holds, as in Swarm.
	DefaultLife = 90 * 24 * time.Hour
	// rootLife is that of the cluster's root.
	rootLife = 20 * 365 * 24 * time.Hour
	// skew is how far back certificates begin, for clocks that are behind.
	skew = time.Hour
)

// CA is the cluster's certificate authority.
type CA struct {
	cert    *x509.Certificate
	key     *ecdsa.PrivateKey
	certPEM []byte
	keyPEM  []byte
}

// NewCA makes a self-signed root.
func NewCA() (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("certs: make root key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "swarm-ca"},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(rootLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLen:            1, // its successor, cross-signed
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("certs: sign root: %w", err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	return ParseCA(encodeCert(der), keyPEM)
}

// ParseCA reads a root and its key. Without key it signs nothing.
func ParseCA(certPEM, keyPEM []byte) (*CA, error) {
	certs, err := parseCerts(certPEM)
	if err != nil {
		return nil, err
	}
	if !certs[0].IsCA {
		return nil, errors.New("certs: the root certificate is not a CA's")
	}
	certPEM = encodeCert(certs[0].Raw)
	if len(keyPEM) == 0 {
		return &CA{cert: certs[0], certPEM: certPEM}, nil
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, err
	}
	if !key.PublicKey.Equal(certs[0].PublicKey) {
		return nil, errors.New("certs: the root's key does not belong to its certificate")
	}
	return &CA{cert: certs[0], key: key, certPEM: certPEM, keyPEM: keyPEM}, nil
}

// HasKey says that this CA can sign.
func (c *CA) HasKey() bool { return c.key != nil }

// CertPEM is the root certificate.
func (c *CA) CertPEM() []byte { return c.certPEM }

// KeyPEM is the root's key; it never leaves the managers.
func (c *CA) KeyPEM() []byte { return c.keyPEM }

// Issuer returns the root's subject and public key, DER, as swarm.TLSInfo shows them.
func (c *CA) Issuer() (subject, publicKey []byte) {
	return c.cert.RawSubject, c.cert.RawSubjectPublicKeyInfo
}

// CrossSign certifies the next root's key, so that those who know only this root
// trust what the next one signs.
func (c *CA) CrossSign(next *CA) ([]byte, error) {
	if c.cert.MaxPathLenZero {
		return nil, errors.New("certs: the present root certificate allows no other authority below it (path length 0), so its successor cannot be cross-signed")
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	end := next.cert.NotAfter
	if c.cert.NotAfter.Before(end) {
		end = c.cert.NotAfter
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		RawSubject:            next.cert.RawSubject,
		SubjectKeyId:          next.cert.SubjectKeyId,
		NotBefore:             time.Now().Add(-skew),
		NotAfter:              end,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true, // a node cannot become a CA
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.cert, next.cert.PublicKey, c.key)
	if err != nil {
		return nil, fmt.Errorf("certs: cross-sign the next root: %w", err)
	}
	return encodeCert(der), nil
}

// Sign makes a certificate for the public key of a request. All that it says
// comes from id, nothing from the request. A zero life means DefaultLife.
func (c *CA) Sign(csrPEM []byte, id Identity, life time.Duration) ([]byte, error) {
	req, err := parseRequest(csrPEM)
	if err != nil {
		return nil, err
	}
	if life <= 0 {
		life = DefaultLife
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject: pkix.Name{
			CommonName:         id.NodeID,
			Organization:       []string{id.ClusterID},
			OrganizationalUnit: []string{string(id.Role)},
		},
		DNSNames:              []string{id.NodeID, string(id.Role)},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(life),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.cert, req.PublicKey, c.key)
	if err != nil {
		return nil, fmt.Errorf("certs: sign certificate of %s: %w", id.NodeID, err)
	}
	return encodeCert(der), nil
}

// NewRequest makes a node's key and the request to have it certified.
func NewRequest() (keyPEM, csrPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("certs: make node key: %w", err)
	}
	if csrPEM, err = requestFor(key); err != nil {
		return nil, nil, err
	}
	keyPEM, err = encodeKey(key)
	return keyPEM, csrPEM, err
}

func requestFor(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("certs: make certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: blockRequest, Bytes: der}), nil
}

// NodeID derives a new node's ID from the public key of its first request, so
// that a join that is repeated because its answer was lost makes no second node.
func NodeID(csrPEM []byte) (string, error) {
	req, err := parseRequest(csrPEM)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(req.RawSubjectPublicKeyInfo)
	return base36(sum[:16], 25), nil
}

func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("certs: make serial number: %w", err)
	}
	return n, nil
}
