package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// nodeFile holds key, certificate and root together, so that one rename
// replaces all three.
const nodeFile = "node.pem"

// Keeper holds a node's key, certificate and root, on disk and in memory.
// Connections made through its TLS configurations follow a replacement at once.
type Keeper struct {
	mu      sync.Mutex // serialises Replace
	dir     string
	held    atomic.Pointer[held]
	blocked atomic.Pointer[func(nodeID string) bool]
}

// held is never modified.
type held struct {
	generation uint64
	id         Identity
	leaf       *x509.Certificate
	cert       tls.Certificate // the chain with the root, for those who know only its digest
	rootPEM    []byte
	roots      *x509.CertPool
}

// Load reads what Create or Replace wrote; the error is fs.ErrNotExist when
// the node has no certificate.
func Load(dir string) (*Keeper, error) {
	path := filepath.Join(dir, nodeFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("certs: read the node's certificate: %w", err)
	}
	all, err := parseCerts(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var rootPEM []byte
	for _, c := range all[1:] {
		rootPEM = append(rootPEM, encodeCert(c.Raw)...)
	}
	h, err := newHeld(text, encodeCert(all[0].Raw), rootPEM)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	k := &Keeper{dir: dir}
	k.held.Store(h)
	return k, nil
}

// Create keeps a new node's key, certificate and root in dir, which is made if
// it is not there.
func Create(dir string, keyPEM, certPEM, rootPEM []byte) (*Keeper, error) {
	k := &Keeper{dir: dir}
	return k, k.Replace(keyPEM, certPEM, rootPEM)
}

// Replace takes a renewed certificate, another role or another root into use.
func (k *Keeper) Replace(keyPEM, certPEM, rootPEM []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	h, err := newHeld(keyPEM, certPEM, rootPEM)
	if err != nil {
		return err
	}
	if old := k.held.Load(); old != nil {
		h.generation = old.generation + 1
		if old.id.NodeID != h.id.NodeID || old.id.ClusterID != h.id.ClusterID {
			return fmt.Errorf("certs: the new certificate names node %s of cluster %s, this is %s of %s",
				h.id.NodeID, h.id.ClusterID, old.id.NodeID, old.id.ClusterID)
		}
	}
	text := append(append(append([]byte{}, keyPEM...), certPEM...), rootPEM...)
	if err := writeFile(k.dir, nodeFile, text); err != nil {
		return fmt.Errorf("certs: keep the node's certificate: %w", err)
	}
	k.held.Store(h)
	return nil
}

// Remove deletes key and certificate from disk, when the node leaves.
func (k *Keeper) Remove() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := os.Remove(filepath.Join(k.dir, nodeFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("certs: forget the node's certificate: %w", err)
	}
	return nil
}

// Identity is this node's own.
func (k *Keeper) Identity() Identity { return k.held.Load().id }

// RootPEM is the cluster's root as this node knows it.
func (k *Keeper) RootPEM() []byte { return k.held.Load().rootPEM }

// Generation counts the replacements; connections of an older one speak with
// an older certificate.
func (k *Keeper) Generation() uint64 { return k.held.Load().generation }

// NotAfter is when this node's certificate ends.
func (k *Keeper) NotAfter() time.Time { return k.held.Load().leaf.NotAfter }

// RenewAt is the certificate's half life.
func (k *Keeper) RenewAt() time.Time {
	c := k.held.Load().leaf
	issued := c.NotBefore.Add(skew)
	return issued.Add(c.NotAfter.Sub(issued) / 2)
}

// SetBlocked sets who is refused although their certificates have not expired.
// The function must not block.
func (k *Keeper) SetBlocked(blocked func(nodeID string) bool) { k.blocked.Store(&blocked) }

// Verify checks a presented chain: it leads to the cluster's root, names this
// cluster, has not expired.
func (k *Keeper) Verify(chain []*x509.Certificate) (Identity, error) {
	h := k.held.Load()
	id, err := verifyChain(h.roots, chain, time.Now())
	if err != nil {
		return Identity{}, err
	}
	if id.ClusterID != h.id.ClusterID {
		return Identity{}, fmt.Errorf("certs: node %s: %w", id.NodeID, ErrForeign)
	}
	return id, nil
}

// Admit checks what may change while a connection lives: that the certificate
// has not expired and that its node was not removed.
func (k *Keeper) Admit(c *x509.Certificate) (Identity, error) {
	id, err := IdentityOf(c)
	if err != nil {
		return Identity{}, err
	}
	if time.Now().After(c.NotAfter) {
		return Identity{}, fmt.Errorf("certs: the certificate of node %s expired at %s", id.NodeID, c.NotAfter.Format(time.RFC3339))
	}
	if blocked := k.blocked.Load(); blocked != nil && *blocked != nil && (*blocked)(id.NodeID) {
		return Identity{}, fmt.Errorf("certs: node %s: %w", id.NodeID, ErrBlocked)
	}
	return id, nil
}

func newHeld(keyPEM, certPEM, rootPEM []byte) (*held, error) {
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, err
	}
	certs, err := parseCerts(certPEM)
	if err != nil {
		return nil, err
	}
	roots, err := parseCerts(rootPEM)
	if err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	leaf := certs[0]
	if !key.PublicKey.Equal(leaf.PublicKey) {
		return nil, errors.New("certs: the node's key does not belong to its certificate")
	}
	h := &held{leaf: leaf, rootPEM: rootPEM, roots: x509.NewCertPool()}
	h.cert = tls.Certificate{PrivateKey: key, Leaf: leaf, Certificate: [][]byte{leaf.Raw}}
	for _, r := range roots {
		h.roots.AddCert(r)
		h.cert.Certificate = append(h.cert.Certificate, r.Raw)
	}
	// An expired certificate is no reason not to load: the node must come up to say so.
	h.id, err = verifyChain(h.roots, []*x509.Certificate{leaf}, leaf.NotAfter)
	return h, err
}
