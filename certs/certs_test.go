package certs

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newCA(t *testing.T) *CA {
	t.Helper()
	ca, err := NewCA()
	must(t, err)
	return ca
}

func newKeeper(t *testing.T, ca *CA, id Identity, life time.Duration) *Keeper {
	t.Helper()
	key, csr, err := NewRequest()
	must(t, err)
	cert, err := ca.Sign(csr, id, life)
	must(t, err)
	k, err := Create(filepath.Join(t.TempDir(), "certs"), key, cert, ca.CertPEM())
	must(t, err)
	return k
}

func manager(id string) Identity { return Identity{NodeID: id, ClusterID: "c", Role: RoleManager} }
func worker(id string) Identity  { return Identity{NodeID: id, ClusterID: "c", Role: RoleWorker} }

func TestSign(t *testing.T) {
	ca := newCA(t)
	_, csr, err := NewRequest()
	must(t, err)
	text, err := ca.Sign(csr, worker("n1"), 0)
	must(t, err)
	list, err := parseCerts(text)
	must(t, err)
	c := list[0]
	if id, err := IdentityOf(c); err != nil || id != worker("n1") {
		t.Errorf("identity %+v, %v", id, err)
	}
	if strings.Join(c.DNSNames, " ") != "n1 swarm-worker" {
		t.Errorf("names %v", c.DNSNames)
	}
	life := time.Until(c.NotAfter).Round(time.Minute)
	if life != DefaultLife || time.Since(c.NotBefore) < 59*time.Minute {
		t.Errorf("from %v to %v", c.NotBefore, c.NotAfter)
	}
	if c.IsCA {
		t.Error("a node's certificate is a CA's")
	}
	for _, bad := range []string{"", "x", string(ca.CertPEM()), strings.Repeat("x", maxPEM+1)} {
		if _, err := ca.Sign([]byte(bad), worker("n1"), 0); err == nil {
			t.Errorf("signed %.20q", bad)
		}
	}
}

func TestParseCA(t *testing.T) {
	a, b := newCA(t), newCA(t)
	if _, err := ParseCA(a.CertPEM(), a.KeyPEM()); err != nil {
		t.Error(err)
	}
	if _, err := ParseCA(a.CertPEM(), b.KeyPEM()); err == nil {
		t.Error("a root was accepted with another's key")
	}
	k := newKeeper(t, a, manager("n1"), 0)
	text, err := os.ReadFile(filepath.Join(k.dir, nodeFile))
	must(t, err)
	if _, err := ParseCA(text, text); err == nil {
		t.Error("a node's certificate was accepted as a root")
	}
}

func TestToken(t *testing.T) {
	ca := newCA(t)
	a, err := NewToken(ca.CertPEM())
	must(t, err)
	b, err := NewToken(ca.CertPEM())
	must(t, err)
	if !regexp.MustCompile(`^SWMTKN-1-[0-9a-z]{50}-[0-9a-z]{25}$`).MatchString(a) {
		t.Errorf("token %q", a)
	}
	ta, err := ParseToken(" " + a + "\n")
	must(t, err)
	tb, err := ParseToken(b)
	must(t, err)
	if ta.String() != a || ta.Equal(tb) || !ta.Equal(ta) || ta.Digest != tb.Digest {
		t.Errorf("tokens %v, %v", ta, tb)
	}
	if d, err := Digest(ca.CertPEM()); err != nil || d != ta.Digest {
		t.Errorf("digest %s, %v", d, err)
	}
	for _, bad := range []string{"", "SWMTKN-1-", a[:len(a)-1], a + "0", strings.Replace(a, "1", "2", 1), strings.ToUpper(a)} {
		if _, err := ParseToken(bad); !errors.Is(err, ErrToken) || err.Error() != "invalid join token" {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestBase36KeepsItsLength(t *testing.T) {
	if got := base36(make([]byte, 32), digestLen); got != strings.Repeat("0", 50) {
		t.Error(got)
	}
	if got := base36(bytes.Repeat([]byte{0xff}, 32), digestLen); len(got) != 50 {
		t.Error(got)
	}
}

func TestNodeIDComesFromTheKey(t *testing.T) {
	_, a, err := NewRequest()
	must(t, err)
	_, b, err := NewRequest()
	must(t, err)
	ia, err := NodeID(a)
	must(t, err)
	again, err := NodeID(a)
	must(t, err)
	ib, err := NodeID(b)
	must(t, err)
	if len(ia) != 25 || ia != again || ia == ib {
		t.Errorf("IDs %s, %s, %s", ia, again, ib)
	}
}

func TestKeeperOnDisk(t *testing.T) {
	ca := newCA(t)
	if _, err := Load(t.TempDir(), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("load of nothing: %v", err)
	}
	k := newKeeper(t, ca, worker("n1"), 0)
	info, err := os.Stat(filepath.Join(k.dir, nodeFile))
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	l, err := Load(k.dir, nil)
	must(t, err)
	if l.Identity() != worker("n1") || !bytes.Equal(l.RootPEM(), ca.CertPEM()) {
		t.Errorf("loaded %+v", l.Identity())
	}
	half := time.Until(l.RenewAt())
	if half < DefaultLife/2-time.Hour || half > DefaultLife/2+time.Hour {
		t.Errorf("renewal in %v", half)
	}
	// A promotion: another key, another role, the same node.
	key, csr, err := NewRequest()
	must(t, err)
	cert, err := ca.Sign(csr, manager("n1"), 0)
	must(t, err)
	must(t, l.Replace(key, cert, ca.CertPEM()))
	if l.Identity().Role != RoleManager || l.Generation() != 1 {
		t.Errorf("after the replacement: %+v, %d", l.Identity(), l.Generation())
	}
	other, err := ca.Sign(csr, manager("n2"), 0)
	must(t, err)
	if l.Replace(key, other, ca.CertPEM()) == nil {
		t.Error("another node's certificate was taken")
	}
	if l.Replace(key, cert, newCA(t).CertPEM()) == nil {
		t.Error("a certificate of another root was taken")
	}
	again, err := Load(k.dir, nil)
	must(t, err)
	if again.Identity() != manager("n1") {
		t.Errorf("on disk: %+v", again.Identity())
	}
	must(t, again.Remove())
	must(t, again.Remove())
	if entries, _ := os.ReadDir(k.dir); len(entries) != 0 {
		t.Errorf("left over: %v", entries)
	}
}

func TestAdmit(t *testing.T) {
	ca := newCA(t)
	k := newKeeper(t, ca, manager("n1"), 0)
	leaf := newKeeper(t, ca, worker("n2"), 0).held.Load().leaf
	if id, err := k.Admit(leaf); err != nil || id != worker("n2") {
		t.Errorf("%+v, %v", id, err)
	}
	k.SetBlocked(func(id string) bool { return id == "n2" })
	if _, err := k.Admit(leaf); !errors.Is(err, ErrBlocked) {
		t.Errorf("a removed node: %v", err)
	}
	old := newKeeper(t, ca, worker("n3"), -1).held.Load().leaf
	old.NotAfter = time.Now().Add(-time.Second)
	if _, err := k.Admit(old); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("an expired certificate: %v", err)
	}
}

// handshake lets a client and a server of these configurations meet.
func handshake(t *testing.T, server, client *tls.Config) (clientErr, serverErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		defer c.Close()
		s := tls.Server(c, server)
		if err = s.Handshake(); err == nil {
			_, err = s.Write([]byte("x"))
		}
		done <- err
	}()
	c, err := tls.Dial("tcp", l.Addr().String(), client)
	if err == nil {
		_, err = c.Read(make([]byte, 1))
		c.Close()
	}
	return err, <-done
}

func TestHandshakes(t *testing.T) {
	ca, foreign := newCA(t), newCA(t)
	m := newKeeper(t, ca, manager("m"), 0)
	w := newKeeper(t, ca, worker("w"), 0)
	stranger := newKeeper(t, foreign, manager("s"), 0)
	otherID := newKeeper(t, ca, Identity{NodeID: "o", ClusterID: "other", Role: RoleManager}, 0)
	text, err := NewToken(ca.CertPEM())
	must(t, err)
	token, err := ParseToken(text)
	must(t, err)
	foreignText, err := NewToken(foreign.CertPEM())
	must(t, err)
	foreignToken, err := ParseToken(foreignText)
	must(t, err)

	for _, c := range []struct {
		name           string
		server, client *tls.Config
		want           error // nil: both are content
	}{
		{"worker to manager", m.ServerTLS("h2"), w.ClientTLS("h2"), nil},
		{"manager to worker", w.ServerTLS("h2"), m.ClientTLS("h2"), ErrRole},
		{"to a stranger", stranger.ServerTLS("h2"), w.ClientTLS("h2"), ErrForeign},
		{"to the same root, another cluster", otherID.ServerTLS("h2"), w.ClientTLS("h2"), ErrForeign},
		{"join", m.ServerTLS("h2"), JoinTLS(token, "h2"), nil},
		{"join with a foreign token", m.ServerTLS("h2"), JoinTLS(foreignToken, "h2"), ErrForeign},
		{"join at a worker", w.ServerTLS("h2"), JoinTLS(token, "h2"), ErrRole},
	} {
		got, _ := handshake(t, c.server, c.client)
		if !errors.Is(got, c.want) || (c.want == nil) != (got == nil) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	lax := stranger.ClientTLS("h2")
	lax.VerifyConnection = nil
	if _, err := handshake(t, m.ServerTLS("h2"), lax); !errors.Is(err, ErrForeign) {
		t.Errorf("the server took a stranger: %v", err)
	}
	old := m.ServerTLS("h2")
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if got, _ := handshake(t, old, w.ClientTLS("h2")); got == nil {
		t.Error("TLS 1.2 was spoken")
	}
}

// A server that shows a root with the right digest must also belong to it.
func TestShownRootIsNotEnough(t *testing.T) {
	ca, foreign := newCA(t), newCA(t)
	token, err := NewToken(ca.CertPEM())
	must(t, err)
	tk, err := ParseToken(token)
	must(t, err)
	liar := newKeeper(t, foreign, manager("liar"), 0).held.Load()
	roots, err := parseCerts(ca.CertPEM())
	must(t, err)
	chain := []*x509.Certificate{liar.leaf, roots[0]}
	if err := verifyDigest(chain, tk.Digest); !errors.Is(err, ErrForeign) {
		t.Errorf("a liar was believed: %v", err)
	}
}

func TestRenewalTakesEffectAtOnce(t *testing.T) {
	ca := newCA(t)
	m := newKeeper(t, ca, manager("m"), 0)
	w := newKeeper(t, ca, worker("w"), 0)
	server := w.ServerTLS("h2") // made before the promotion
	if got, _ := handshake(t, server, m.ClientTLS("h2")); !errors.Is(got, ErrRole) {
		t.Fatalf("before: %v", got)
	}
	key, csr, err := NewRequest()
	must(t, err)
	cert, err := ca.Sign(csr, manager("w"), 0)
	must(t, err)
	must(t, w.Replace(key, cert, ca.CertPEM()))
	if got, _ := handshake(t, server, m.ClientTLS("h2")); got != nil {
		t.Errorf("after: %v", got)
	}
}
