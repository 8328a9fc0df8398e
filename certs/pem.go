package certs

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

const (
	blockCert    = "CERTIFICATE"
	blockKey     = "PRIVATE KEY"
	blockECKey   = "EC PRIVATE KEY" // as openssl writes it
	blockRequest = "CERTIFICATE REQUEST"
	// useHeader marks the certificates in a node's file that come after its own and
	// are no roots.
	useHeader, useChain = "Use", "chain"
	blockSealed         = "MESHD SEALED PRIVATE KEY"
)

// maxPEM bounds what is parsed; a certificate takes about 1 KiB.
const maxPEM = 64 << 10

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: blockCert, Bytes: der})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("certs: encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: blockKey, Bytes: der}), nil
}

// splitCerts divides a node's file into its certificate with those that lead to a
// root, and the roots.
func splitCerts(text []byte) (chain, roots []byte) {
	for {
		var b *pem.Block
		if b, text = pem.Decode(text); b == nil {
			return chain, roots
		}
		switch {
		case b.Type != blockCert:
		case len(chain) == 0 || b.Headers[useHeader] == useChain:
			chain = append(chain, encodeCert(b.Bytes)...)
		default:
			roots = append(roots, encodeCert(b.Bytes)...)
		}
	}
}

// markChain is the reverse of splitCerts for the chain.
func markChain(certs [][]byte) []byte {
	var out []byte
	for _, der := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: blockCert, Headers: map[string]string{useHeader: useChain}, Bytes: der})...)
	}
	return out
}

// parseCerts reads all certificates of a PEM text; at least one must be there.
func parseCerts(text []byte) ([]*x509.Certificate, error) {
	if len(text) > maxPEM {
		return nil, errors.New("certs: certificate text is too long")
	}
	var out []*x509.Certificate
	for {
		var b *pem.Block
		if b, text = pem.Decode(text); b == nil {
			break
		}
		if b.Type != blockCert {
			continue
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certs: parse certificate: %w", err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("certs: no certificate found")
	}
	return out, nil
}

func parseKey(text []byte) (*ecdsa.PrivateKey, error) {
	for len(text) <= maxPEM {
		var b *pem.Block
		if b, text = pem.Decode(text); b == nil {
			break
		}
		if b.Type == blockECKey {
			return x509.ParseECPrivateKey(b.Bytes)
		}
		if b.Type != blockKey {
			continue
		}
		k, err := x509.ParsePKCS8PrivateKey(b.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certs: parse key: %w", err)
		}
		key, ok := k.(*ecdsa.PrivateKey)
		if !ok {
			return nil, fmt.Errorf("certs: key is %T, want ECDSA", k)
		}
		return key, nil
	}
	return nil, errors.New("certs: no private key found")
}

// sealKey encrypts a private key with the vault's data key, if there is a vault.
func sealKey(keyPEM []byte, v *Vault) ([]byte, error) {
	if v == nil {
		return keyPEM, nil
	}
	sealed, err := Seal(v.AEAD(), keyPEM, []byte(blockSealed))
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: blockSealed, Bytes: sealed}), nil
}

// openKey is the private key in a node's file, encrypted or not.
func openKey(text []byte, v *Vault) ([]byte, error) {
	for rest := text; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			return nil, errors.New("certs: no private key found")
		}
		switch {
		case b.Type == blockKey:
			return pem.EncodeToMemory(b), nil
		case b.Type == blockSealed && v == nil:
			return nil, errors.New("certs: the private key is encrypted, and this manager's data key is not there")
		case b.Type == blockSealed:
			return Unseal(v.AEAD(), b.Bytes, []byte(blockSealed))
		}
	}
}

func parseRequest(text []byte) (*x509.CertificateRequest, error) {
	if len(text) > maxPEM {
		return nil, errors.New("certs: certificate request is too long")
	}
	b, _ := pem.Decode(text)
	if b == nil || b.Type != blockRequest {
		return nil, errors.New("certs: no certificate request found")
	}
	r, err := x509.ParseCertificateRequest(b.Bytes)
	if err != nil {
		return nil, fmt.Errorf("certs: parse certificate request: %w", err)
	}
	if err := r.CheckSignature(); err != nil {
		return nil, fmt.Errorf("certs: certificate request: %w", err)
	}
	return r, nil
}
