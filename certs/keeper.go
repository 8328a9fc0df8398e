package certs

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
	mu      sync.Mutex // serialises Replace and Keep
	dir     string
	vault   *Vault // encrypts the private key; nil: it is in the clear
	held    atomic.Pointer[held]
	blocked atomic.Pointer[func(nodeID string) bool]
}

// held is never modified.
type held struct {
	generation uint64
	key        *ecdsa.PrivateKey
	keyPEM     []byte
	chain      [][]byte // the certificate, and those that lead to roots of others
	issuer     *x509.Certificate
	id         Identity
	leaf       *x509.Certificate
	cert       tls.Certificate // the chain with the root, for those who know only its digest
	rootPEM    []byte
	roots      *x509.CertPool
}

// Load reads what Create or Replace wrote; the error is fs.ErrNotExist when
// the node has no certificate. The vault opens a private key that is encrypted; nil
// if this is no manager.
func Load(dir string, v *Vault) (*Keeper, error) {
	path := filepath.Join(dir, nodeFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("certs: read the node's certificate: %w", err)
	}
	keyPEM, err := openKey(text, v)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	chainPEM, rootPEM := splitCerts(text)
	h, err := newHeld(keyPEM, chainPEM, rootPEM)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	k := &Keeper{dir: dir, vault: v}
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
	if err := k.writeLocked(h); err != nil {
		return err
	}
	k.held.Store(h)
	return nil
}

// Keep has the private key encrypted on disk from now on; nil: in the clear.
func (k *Keeper) Keep(v *Vault) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.vault = v
	return k.writeLocked(k.held.Load())
}

func (k *Keeper) writeLocked(h *held) error {
	keyPEM, err := sealKey(h.keyPEM, k.vault)
	if err == nil {
		err = writeFile(k.dir, nodeFile, slices.Concat(keyPEM, markChain(h.chain), h.rootPEM))
	}
	if err != nil {
		return fmt.Errorf("certs: keep the node's certificate: %w", err)
	}
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

// Issuer returns subject and public key, DER, of who signed this node's certificate.
func (k *Keeper) Issuer() (subject, publicKey []byte) {
	c := k.held.Load().issuer
	return c.RawSubject, c.RawSubjectPublicKeyInfo
}

// Request asks for a renewed certificate. A node keeps its key, since its ID follows
// from it: with it, it proves who it is even when its certificate has expired.
func (k *Keeper) Request() (keyPEM, csrPEM []byte, err error) {
	h := k.held.Load()
	csrPEM, err = requestFor(h.key)
	return h.keyPEM, csrPEM, err
}

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
	h := &held{leaf: leaf, key: key, keyPEM: keyPEM, rootPEM: rootPEM, roots: x509.NewCertPool()}
	h.cert = tls.Certificate{PrivateKey: key, Leaf: leaf}
	for _, c := range certs {
		h.chain = append(h.chain, c.Raw)
	}
	h.cert.Certificate = slices.Clone(h.chain)
	for _, r := range roots {
		h.roots.AddCert(r)
		h.cert.Certificate = append(h.cert.Certificate, r.Raw)
	}
	// An expired certificate is no reason not to load: the node must come up to say so.
	if h.id, err = verifyChain(h.roots, certs, leaf.NotAfter); err != nil {
		return nil, err
	}
	i := slices.IndexFunc(slices.Concat(certs[1:], roots), func(c *x509.Certificate) bool { return leaf.CheckSignatureFrom(c) == nil })
	h.issuer = slices.Concat(certs[1:], roots)[i] // there is one, or the chain would not verify
	return h, nil
}
