// Package certstest gives tests nodes with real certificates.
package certstest

import (
	"testing"

	"github.com/meshd/meshd/certs"
)

// Cluster is the cluster of every node made here.
const Cluster = "c"

// Keeper gives a node its certificate, of the usual length, and keeps it in dir.
func Keeper(t testing.TB, ca *certs.CA, dir, node string, role certs.Role) *certs.Keeper {
	t.Helper()
	key, csr, err := certs.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Sign(csr, certs.Identity{NodeID: node, ClusterID: Cluster, Role: role}, 0)
	if err != nil {
		t.Fatal(err)
	}
	k, err := certs.Create(dir, key, cert, ca.CertPEM())
	if err != nil {
		t.Fatal(err)
	}
	return k
}
