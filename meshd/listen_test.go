package meshd

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshd/meshd/meshd/api"
)

// certifiedAddr is what all certificates are for.
const certifiedAddr = "127.0.0.1"

// apiCA makes the files of a CA's server and client; dir/ca.pem, dir/<name>.pem, dir/<name>-key.pem.
func apiCA(t *testing.T, names ...string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	write := func(name, kind string, der []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	template := func(name string, serial int64) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
			IPAddresses: []net.IP{net.ParseIP(certifiedAddr)}, BasicConstraintsValid: true,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := template("root", 1)
	root.IsCA, root.KeyUsage = true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, root, root, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	write("ca.pem", "CERTIFICATE", der)
	for i, name := range names {
		own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.CreateCertificate(rand.Reader, template(name, int64(i+2)), root, &own.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		write(name+".pem", "CERTIFICATE", der)
		keyDER, err := x509.MarshalECPrivateKey(own)
		if err != nil {
			t.Fatal(err)
		}
		write(name+"-key.pem", "EC PRIVATE KEY", keyDER)
	}
	return dir
}

func tlsFiles(dir, name string) APITLS {
	return APITLS{CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, name+".pem"), Key: filepath.Join(dir, name+"-key.pem")}
}

func TestAPIHosts(t *testing.T) {
	ours := tlsFiles(apiCA(t, "server"), "server")
	bad := ours
	bad.CA = bad.Key
	for host, c := range map[string]struct {
		config Config
		want   string
	}{
		"tcp://127.0.0.1:2375":  {},
		"tcp://[::1]:2375":      {},
		"tcp://10.0.0.1:2376":   {want: "--tlsverify"},
		"tcp://:2376":           {want: "--tlsverify"},
		"tcp://10.0.0.1":        {config: Config{TLS: &ours}},
		"tcp://10.0.0.2":        {config: Config{InsecureTCP: true}},
		"tcp://10.0.0.3":        {config: Config{TLS: &bad}, want: "no certificate in PEM"},
		"tcp://10.0.0.4":        {config: Config{TLS: &APITLS{}}, want: "--tlscert"},
		"unix:///run/x.sock":    {want: "--socket"},
		"tcp://there:2376":      {want: "unable to parse IP"},
		"tcp://127.0.0.1:99999": {want: "invalid port"},
	} {
		c.config.Hosts = []string{host}
		switch err := c.config.CheckHosts(); {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", host, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: want %q, got %v", host, c.want, err)
		}
	}
}

// TestAPIOverTLS: who has a certificate of the CA is let in, and named in the audit log.
func TestAPIOverTLS(t *testing.T) {
	dir, other := apiCA(t, "server", "alice"), apiCA(t, "server", "mallory")
	files := tlsFiles(dir, "server")
	cfg := Config{
		Socket: filepath.Join(t.TempDir(), "meshd.sock"), TLS: &files,
		Hosts: []string{ownLoopback()}, Logger: slog.New(slog.DiscardHandler),
	}
	var audit bytes.Buffer
	server := api.New(api.Config{Node: &Daemon{}, Engine: "/nowhere.sock", Audit: &audit})
	listeners, err := cfg.listenAPI()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { done <- server.Serve(ctx, l) }()
	}
	ask := func(client *tls.Config, method string) (string, error) {
		transport := &http.Transport{TLSClientConfig: client, DisableKeepAlives: true}
		req, err := http.NewRequestWithContext(ctx, method, strings.Replace(cfg.Hosts[0], "tcp", "https", 1)+"/v1.41/services/create", strings.NewReader(`{"Name":"web","Secret":"s3cret"}`))
		if err != nil {
			t.Fatal(err)
		}
		res, err := transport.RoundTrip(req)
		if err != nil {
			return "", err
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		return string(body), err
	}
	served, err := files.load()
	if err != nil {
		t.Fatal(err)
	}
	roots := served.ClientCAs
	client := func(dir, name string) *tls.Config {
		c, err := tlsFiles(dir, name).load()
		if err != nil {
			t.Fatal(err)
		}
		return &tls.Config{Certificates: c.Certificates, RootCAs: roots, ServerName: certifiedAddr}
	}
	if got, err := ask(client(dir, "alice"), http.MethodPost); err != nil || !strings.Contains(got, "not a swarm manager") {
		t.Errorf("alice: %s, %v", got, err)
	}
	if _, err := ask(client(other, "mallory"), http.MethodPost); err == nil {
		t.Error("mallory's certificate is of another CA, and is let in")
	}
	if _, err := ask(&tls.Config{RootCAs: roots, ServerName: certifiedAddr}, http.MethodPost); err == nil {
		t.Error("a client without a certificate is let in")
	}
	if _, err := ask(client(dir, "alice"), http.MethodGet); err != nil {
		t.Error(err)
	}
	// The CA is replaced: from now on mallory is let in, and alice is not.
	pemOf, err := os.ReadFile(filepath.Join(other, "ca.pem"))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "new.pem"), pemOf, 0o600)
	}
	if err == nil {
		err = os.Rename(filepath.Join(dir, "new.pem"), files.CA)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ask(client(other, "mallory"), http.MethodPost); err != nil {
		t.Errorf("mallory's CA is ours now: %v", err)
	}

	cancel()
	for range listeners {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	var names []string
	for line := range strings.Lines(audit.String()) {
		var e struct {
			Who                struct{ Name, Addr string }
			Method, Path, Name string
			Status             int
			Error              string
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if e.Method != "POST" || e.Path != "/services/create" || e.Status != 503 || !strings.Contains(e.Error, "not a swarm manager") || !strings.HasPrefix(e.Who.Addr, "127.0.0.1:") {
			t.Errorf("line: %s", line)
		}
		names = append(names, e.Who.Name+":"+e.Name)
	}
	// Without a manager the body is not read, so what was to be made is not known.
	if got := strings.Join(names, " "); got != "alice: mallory:" || strings.Contains(audit.String(), "s3cret") {
		t.Errorf("audit log: %s", audit.String())
	}
}

// ownLoopback is a port at an address of this machine that no other process has.
func ownLoopback() string {
	pid := os.Getpid()
	return fmt.Sprintf("tcp://127.%d.%d.%d:23760", 1+pid>>16, pid>>8&255, pid&255)
}

func TestSocketOfAGroup(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	for _, c := range []struct {
		group string
		gid   int
		says  string
	}{
		{"", os.Getgid(), ""}, {strconv.Itoa(os.Getgid()), os.Getgid(), ""}, {"root", 0, ""}, {"no-such-group", 0, "no-such-group"},
	} {
		if c.group != "" && c.says == "" && os.Getuid() != 0 {
			continue // in a user namespace the process's own group may have no number
		}
		l, err := listenUnix(path, c.group)
		if c.says != "" {
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("group %q: %v", c.group, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if st := info.Sys().(*syscall.Stat_t); int(st.Gid) != c.gid || info.Mode().Perm() != 0o660 {
			t.Errorf("group %q: the socket is %v of group %d", c.group, info.Mode(), st.Gid)
		}
		_ = l.Close()
	}
}
