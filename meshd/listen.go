package meshd

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
)

// The API gives away the machine: whoever may speak to it is root here, and on all
// nodes. The unix socket is root's and that of a chosen group; over TCP only who has a client certificate of
// the given CA is let in.

// APITLS are the PEM files of the API's listeners over TCP. They are read again for
// each connection.
type APITLS struct {
	// CA signs clients' certificates; Cert and Key are the server's own.
	CA, Cert, Key string
}

// DefaultAPIPort is where the API is looked for over TCP, with TLS.
const DefaultAPIPort = 2376

// CheckHosts says what is wrong with the addresses of the API.
func (c Config) CheckHosts() error {
	for _, host := range c.Hosts {
		addr, err := apiAddress(host)
		if err != nil {
			return err
		}
		if c.TLS == nil && !c.InsecureTCP && !addr.Addr().IsLoopback() {
			return fmt.Errorf("--host %s: whoever reaches this address would be root on all nodes: require client certificates with --tlsverify, or say --insecure-tcp if something else guards it", host)
		}
	}
	if c.TLS != nil {
		if _, err := c.TLS.load(); err != nil {
			return err
		}
	}
	return nil
}

// apiAddress reads tcp://address:port; the port may be left out.
func apiAddress(host string) (netip.AddrPort, error) {
	text, ok := strings.CutPrefix(host, "tcp://")
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("--host %s: want tcp://address:port (the unix socket is --socket)", host)
	}
	name, port, err := splitPort(text, DefaultAPIPort)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("--host %s: %w", host, err)
	}
	if name == "" {
		name = "0.0.0.0"
	}
	addr, err := netip.ParseAddr(strings.Trim(name, "[]"))
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("--host %s: %w", host, err)
	}
	return netip.AddrPortFrom(addr, port), nil
}

// listenAPI opens the socket and the addresses of the API.
func (c Config) listenAPI() (out []net.Listener, err error) {
	defer func() {
		if err != nil {
			for _, l := range out {
				err = errors.Join(err, l.Close())
			}
			out = nil
		}
	}()
	l, err := listenUnix(c.Socket, c.Group)
	if err != nil {
		return out, err
	}
	out = append(out, l)
	for _, host := range c.Hosts {
		addr, err := apiAddress(host)
		if err != nil {
			return out, err
		}
		l, err := net.Listen("tcp", addr.String())
		if err != nil {
			return out, fmt.Errorf("open the API at %s: %w", host, err)
		}
		if c.TLS != nil {
			l = tls.NewListener(l, c.TLS.server(c.Logger))
		}
		out = append(out, l)
	}
	return out, nil
}

// load reads the files.
func (t APITLS) load() (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(t.Cert, t.Key)
	if err != nil {
		return nil, fmt.Errorf("certificate of the API (--tlscert %s, --tlskey %s): %w", t.Cert, t.Key, err)
	}
	pem, err := os.ReadFile(t.CA)
	if err != nil {
		return nil, fmt.Errorf("CA of the API's clients (--tlscacert): %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("CA of the API's clients (--tlscacert %s): no certificate in PEM", t.CA)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, // an upgraded connection is HTTP/1.1's
		Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
	}, nil
}

// server reads the files anew for each connection, so that renewed certificates
// count at once; what cannot be read leaves the last good ones.
func (t APITLS) server(log *slog.Logger) *tls.Config {
	var mu sync.Mutex
	var good *tls.Config
	return &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		now, err := t.load()
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			log.Warn("the API goes on with its former certificates", "error", err)
			return good, nil
		}
		good = now
		return good, nil
	}}
}

// openAudit opens the audit log; nil without one.
func (c Config) openAudit() (io.Writer, error) {
	switch c.AuditLog {
	case "":
		return nil, nil
	case "-":
		return os.Stdout, nil
	}
	f, err := os.OpenFile(c.AuditLog, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the audit log: %w", err)
	}
	return f, nil
}
