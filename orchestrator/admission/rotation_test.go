package admission

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/certs"
	"github.com/meshd/meshd/orchestrator/remote"
	"github.com/meshd/meshd/orchestrator/store"
)

// member is a worker with its way to a manager.
type member struct {
	keeper *certs.Keeper
	client *remote.Client
}

func join(t *testing.T, h *host, token string) (member, error) {
	t.Helper()
	j, err := Join(ctx(t), h.addr, parse(t, token), Candidate{})
	if err != nil {
		return member{}, err
	}
	k, err := certs.Create(t.TempDir(), j.KeyPEM, j.CertPEM, j.RootPEM)
	must(t, err)
	m := member{keeper: k, client: remote.NewClient(k)}
	t.Cleanup(m.client.Close)
	return m, nil
}

// renew does what a node does when it hears of another root.
func (m member) renew(t *testing.T, h *host) {
	t.Helper()
	must(t, Renew(ctx(t), m.client, h.addr, m.keeper))
	must(t, TellTrust(ctx(t), m.client, h.addr, m.keeper))
}

// ask changes the cluster's CA as the API does.
func (h *host) ask(t *testing.T, ca swarm.CAConfig) error {
	t.Helper()
	return store.Transact(ctx(t), h.store, h.raft, func(tx *store.Tx) error {
		next := *tx.Cluster()
		next.Spec.CAConfig.ExternalCAs = ca.ExternalCAs
		if err := MoveRoot(&next, ca); err != nil {
			return err
		}
		tx.Update(&next)
		return nil
	})
}

// round lets the leader's loop have a look.
func (h *host) round(t *testing.T) {
	t.Helper()
	_, err := NewRoots(h.store, h.raft, slog.New(slog.DiscardHandler)).Round(ctx(t))
	must(t, err)
}

func TestRootRotation(t *testing.T) {
	h := found(t)
	old := h.cluster()
	self := member{h.keeper, h.client}
	w, err := join(t, h, old.JoinTokens.Worker)
	must(t, err)
	must(t, h.ask(t, swarm.CAConfig{}))
	if h.cluster().NextRoot != nil {
		t.Fatal("a rotation began that nobody asked for")
	}
	must(t, h.ask(t, swarm.CAConfig{ForceRotate: 1}))
	c := h.cluster()
	if !c.RootRotationInProgress || c.TLSInfo.TrustRoot == string(old.RootCert) || !bytes.Equal(c.RootCert, old.RootCert) {
		t.Fatalf("a rotation that began: %+v", c.TLSInfo)
	}

	// The manager serves by the next root, while the worker knows the old one only.
	self.renew(t, h)
	must(t, TellTrust(ctx(t), w.client, h.addr, w.keeper))
	late, err := join(t, h, old.JoinTokens.Worker) // the tokens still name the old one
	must(t, err)
	h.round(t)
	if h.cluster().NextRoot == nil {
		t.Fatal("the rotation ended before the worker had its certificate")
	}
	w.renew(t, h)
	must(t, TellTrust(ctx(t), late.client, h.addr, late.keeper))
	h.round(t)
	c = h.cluster()
	if c.NextRoot != nil || c.RootRotationInProgress || string(c.RootCert) != c.TLSInfo.TrustRoot {
		t.Fatalf("the rotation did not end: %+v", c.TLSInfo)
	}

	// Those who have not heard of the end are still understood, and the other way round.
	must(t, TellTrust(ctx(t), w.client, h.addr, w.keeper))
	self.renew(t, h)
	must(t, TellTrust(ctx(t), w.client, h.addr, w.keeper))
	w.renew(t, h)
	if !bytes.Equal(w.keeper.RootPEM(), c.RootCert) || h.node(w.keeper.Identity().NodeID).Description.TLSInfo.TrustRoot != string(c.RootCert) {
		t.Error("the worker does not trust the new root")
	}
	if _, err := join(t, h, c.JoinTokens.Worker); err != nil {
		t.Errorf("join by the new token: %v", err)
	}
	if _, err := join(t, h, old.JoinTokens.Worker); err == nil {
		t.Error("a token that names the former root lets machines in")
	}
}

func TestRootsThatCannotBe(t *testing.T) {
	h := found(t)
	mine, err := certs.NewCA()
	must(t, err)
	other, err := certs.NewCA()
	must(t, err)
	for name, tc := range map[string]struct {
		ca   swarm.CAConfig
		want string
	}{
		"key alone":   {swarm.CAConfig{SigningCAKey: string(mine.KeyPEM())}, "certificate that belongs to it"},
		"no key":      {swarm.CAConfig{SigningCACert: string(mine.CertPEM())}, "no external CA"},
		"other's key": {swarm.CAConfig{SigningCACert: string(mine.CertPEM()), SigningCAKey: string(other.KeyPEM())}, "does not belong"},
		"a node's":    {swarm.CAConfig{SigningCACert: string(nodeCert(t, mine)), SigningCAKey: string(mine.KeyPEM())}, "not a CA's"},
		"text":        {swarm.CAConfig{SigningCACert: "x", SigningCAKey: "y"}, "no certificate found"},
	} {
		if err := h.ask(t, tc.ca); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if c := h.cluster(); c.NextRoot != nil || c.Spec.CAConfig.ForceRotate != 0 {
		t.Error("a refused root changed the cluster")
	}
	must(t, h.ask(t, swarm.CAConfig{SigningCACert: string(mine.CertPEM()), SigningCAKey: string(mine.KeyPEM())}))
	if c := h.cluster(); c.TLSInfo.TrustRoot != string(mine.CertPEM()) || c.Spec.CAConfig.SigningCAKey != "" {
		t.Errorf("a root of the user's own: %+v", c.Spec.CAConfig)
	}
}

func nodeCert(t *testing.T, ca *certs.CA) []byte {
	t.Helper()
	_, csr, err := certs.NewRequest()
	must(t, err)
	cert, err := ca.Sign(csr, certs.Identity{NodeID: "n", ClusterID: "c", Role: certs.RoleWorker}, 0)
	must(t, err)
	return cert
}

// A node that was off for longer than its certificate's life proves by its key who it is.
func TestExpiredNodeComesBack(t *testing.T) {
	h := found(t)
	c := h.cluster()
	j, err := Join(ctx(t), h.addr, parse(t, c.JoinTokens.Worker), Candidate{})
	must(t, err)
	ca, err := certs.ParseCA(c.RootCert, c.RootKey)
	must(t, err)
	fresh, err := certs.Create(t.TempDir(), j.KeyPEM, j.CertPEM, j.RootPEM)
	must(t, err)
	_, csr, err := fresh.Request()
	must(t, err)
	expired, err := ca.Sign(csr, fresh.Identity(), time.Nanosecond)
	must(t, err)
	k, err := certs.Create(t.TempDir(), j.KeyPEM, expired, j.RootPEM)
	must(t, err)
	w := member{k, remote.NewClient(k)}
	defer w.client.Close()
	if err := TellTrust(ctx(t), w.client, h.addr, k); !errdefs.IsUnauthorized(err) {
		t.Errorf("with an expired certificate: %v", err)
	}
	w.renew(t, h)
	if k.Identity() != fresh.Identity() || time.Until(k.NotAfter()) < time.Hour {
		t.Errorf("renewed: %+v until %v", k.Identity(), k.NotAfter())
	}

	// A stranger's key, and that of a node that was removed, open nothing.
	must(t, store.Transact(ctx(t), h.store, h.raft, func(tx *store.Tx) error {
		tx.Remove(tx.Node(j.NodeID))
		return nil
	}))
	must(t, k.Replace(j.KeyPEM, expired, j.RootPEM))
	if err := Renew(ctx(t), w.client, h.addr, k); !errors.Is(err, certs.ErrBlocked) {
		t.Errorf("a node that was removed: %v", err)
	}
}

// cfssl is a test double of its signing API: it certifies whom the request's subject names.
func cfssl(t *testing.T, ca *certs.CA, as func(certs.Identity) certs.Identity) *swarm.ExternalCA {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in cfsslRequest
		var out cfsslReply
		err := json.NewDecoder(r.Body).Decode(&in)
		if err == nil && r.URL.Path == "/api/v1/cfssl/sign" && len(in.Subject.Names) == 1 {
			id := as(certs.Identity{NodeID: in.Subject.CN, ClusterID: in.Subject.Names[0].O, Role: certs.Role(in.Subject.Names[0].OU)})
			var cert []byte
			if cert, err = ca.Sign([]byte(in.Request), id, 0); err == nil {
				out.Success, out.Result.Certificate = true, string(cert)
			}
		}
		if err := json.NewEncoder(w).Encode(out); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(s.Close)
	return &swarm.ExternalCA{Protocol: swarm.ExternalCAProtocolCFSSL, URL: s.URL + "/api/v1/cfssl/sign", CACert: string(ca.CertPEM())}
}

func TestExternalCA(t *testing.T) {
	h := found(t)
	ca, err := certs.NewCA()
	must(t, err)
	honest := cfssl(t, ca, func(id certs.Identity) certs.Identity { return id })
	must(t, h.ask(t, swarm.CAConfig{SigningCACert: string(ca.CertPEM()), ExternalCAs: []*swarm.ExternalCA{honest}}))
	self := member{h.keeper, h.client}
	self.renew(t, h)
	h.round(t)
	c := h.cluster()
	if c.NextRoot != nil || len(c.RootKey) != 0 || !bytes.Equal(c.RootCert, ca.CertPEM()) {
		t.Fatalf("the external CA's root is not the cluster's: %+v", c.TLSInfo)
	}
	self.renew(t, h)
	w, err := join(t, h, c.JoinTokens.Worker)
	must(t, err)
	if _, issuer := w.keeper.Issuer(); !bytes.Equal(issuer, c.TLSInfo.CertIssuerPublicKey) {
		t.Error("the worker's certificate is not the external CA's")
	}
	if err := h.ask(t, swarm.CAConfig{ForceRotate: 1}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("rotation without the present root's key: %v", err)
	}

	liar := cfssl(t, ca, func(id certs.Identity) certs.Identity { id.Role = certs.RoleManager; return id })
	must(t, h.ask(t, swarm.CAConfig{ExternalCAs: []*swarm.ExternalCA{liar}}))
	if _, err := join(t, h, c.JoinTokens.Worker); err == nil || !strings.Contains(err.Error(), "asked for a certificate") {
		t.Errorf("a CA that makes a worker a manager: %v", err)
	}
	gone := httptest.NewServer(http.NotFoundHandler())
	must(t, h.ask(t, swarm.CAConfig{ExternalCAs: []*swarm.ExternalCA{{URL: gone.URL, CACert: string(ca.CertPEM())}}}))
	gone.Close()
	if _, err := join(t, h, c.JoinTokens.Worker); err == nil || !strings.Contains(err.Error(), "external CA") {
		t.Errorf("a CA that is away: %v", err)
	}
	for _, bad := range []swarm.ExternalCA{{Protocol: "acme", URL: "https://ca"}, {URL: "ca"}, {URL: "ftp://ca"}, {URL: "https://"}} {
		if err := CheckExternalCAs([]*swarm.ExternalCA{&bad}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}
