package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// ServerTLS is the configuration of a server of this node. A client that
// presents no certificate is let in, for joining; who presents one must belong
// to the cluster. Roles are the routes' to check.
func (k *Keeper) ServerTLS(protos ...string) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             protos,
		ClientAuth:             tls.RequestClientCert,
		SessionTicketsDisabled: true, // a ticket would outlive a removed node's certificate
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return &k.held.Load().cert, nil
		},
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				return nil
			}
			_, err := k.Verify(cs.PeerCertificates)
			return err
		},
	}
}

// ClientTLS is the configuration for connections of this node to a manager.
// Names are not compared, since nodes are dialled by address: the certificate
// must be a manager's, of this cluster.
func (k *Keeper) ClientTLS(protos ...string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         protos,
		InsecureSkipVerify: true, // VerifyConnection does it, without names
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			h := k.held.Load()
			if time.Now().After(h.leaf.NotAfter) {
				return &tls.Certificate{}, nil // like a stranger, who may ask for a renewed one
			}
			return &h.cert, nil
		},
		VerifyConnection: func(cs tls.ConnectionState) error {
			id, err := k.Verify(cs.PeerCertificates)
			if err != nil {
				return err
			}
			if id.Role != RoleManager {
				return fmt.Errorf("certs: node %s is no manager: %w", id.NodeID, ErrRole)
			}
			return nil
		},
	}
}

// JoinTLS is the configuration of a machine that has only a token. The server
// must present its chain with the root that the token names; this is checked
// within the handshake, so that nothing reaches a stranger.
func JoinTLS(t Token, protos ...string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         protos,
		InsecureSkipVerify: true, // VerifyConnection does it, by digest
		VerifyConnection: func(cs tls.ConnectionState) error {
			return verifyDigest(cs.PeerCertificates, t.Digest)
		},
	}
}

func verifyDigest(chain []*x509.Certificate, digest string) error {
	if len(chain) < 2 {
		return errors.New("certs: it presents no cluster root; is it a swarm manager?")
	}
	for _, root := range chain[1:] {
		if digestDER(root.Raw) != digest {
			continue
		}
		roots := x509.NewCertPool()
		roots.AddCert(root)
		id, err := verifyChain(roots, chain, time.Now())
		if err != nil {
			return err
		}
		if id.Role != RoleManager {
			return fmt.Errorf("certs: node %s is no manager: %w", id.NodeID, ErrRole)
		}
		return nil
	}
	return fmt.Errorf("the join token belongs to another cluster than this manager: %w", ErrForeign)
}
