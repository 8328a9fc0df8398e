package admission

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/certs"
	"github.com/meshd/meshd/orchestrator/remote"
)

const (
	// externalTimeout bounds one request to an external CA.
	externalTimeout = 10 * time.Second
	// maxExternal bounds its answer.
	maxExternal = 1 << 20
)

// externalFor is the external CA that signs for a root; nil if none does.
func externalFor(rootPEM []byte, all []*swarm.ExternalCA) *swarm.ExternalCA {
	for _, e := range all {
		if e != nil && certs.SameCert([]byte(e.CACert), rootPEM) {
			return e
		}
	}
	return nil
}

// CheckExternalCAs refuses what cannot be asked. One without root signs for the
// present one.
func CheckExternalCAs(all []*swarm.ExternalCA) error {
	for _, e := range all {
		u, err := url.Parse(e.URL)
		switch {
		case e.Protocol != "" && e.Protocol != swarm.ExternalCAProtocolCFSSL:
			return remote.Errorf(errdefs.ErrInvalidArgument, "external CA %s: protocol %q is not known; cfssl is", e.URL, e.Protocol)
		case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "":
			return remote.Errorf(errdefs.ErrInvalidArgument, "external CA: %q is no URL", e.URL)
		}
	}
	return nil
}

// The messages of cfssl's signing API (POST /api/v1/cfssl/sign).
type (
	cfsslRequest struct {
		Hosts   []string     `json:"hosts"`
		Request string       `json:"certificate_request"`
		Subject cfsslSubject `json:"subject"`
		Profile string       `json:"profile,omitempty"`
	}
	cfsslSubject struct {
		CN    string      `json:"CN"`
		Names []cfsslName `json:"names"`
	}
	cfsslName struct {
		O  string `json:"O,omitempty"`
		OU string `json:"OU,omitempty"`
	}
	cfsslReply struct {
		Success bool `json:"success"`
		Result  struct {
			Certificate string `json:"certificate"`
		} `json:"result"`
		Errors []struct {
			Message string `json:"message"`
		} `json:"errors"`
	}
)

// signExternally has an external CA certify a node. What comes back must be what was
// asked for: the CA may have a mind of its own.
func signExternally(ctx context.Context, e *swarm.ExternalCA, csr []byte, id certs.Identity) ([]byte, error) {
	if e == nil {
		return nil, remote.Errorf(errdefs.ErrUnavailable, "no external CA signs for the swarm's root, and its key is not here")
	}
	ctx, cancel := context.WithTimeout(ctx, externalTimeout)
	defer cancel()
	body, err := json.Marshal(cfsslRequest{
		Hosts: []string{id.NodeID, string(id.Role)}, Request: string(csr), Profile: e.Options["profile"],
		Subject: cfsslSubject{CN: id.NodeID, Names: []cfsslName{{O: id.ClusterID, OU: string(id.Role)}}},
	})
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.URL, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := externalClient(e).Do(req)
	if err != nil {
		return nil, remote.Errorf(errdefs.ErrUnavailable, "external CA: %v", err)
	}
	defer resp.Body.Close()
	var out cfsslReply
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxExternal)).Decode(&out); err != nil {
		return nil, remote.Errorf(errdefs.ErrUnavailable, "external CA %s answers %s: %v", e.URL, resp.Status, err)
	}
	if !out.Success || out.Result.Certificate == "" {
		return nil, remote.Errorf(errdefs.ErrUnavailable, "external CA %s refuses to sign: %s %v", e.URL, resp.Status, out.Errors)
	}
	cert := []byte(out.Result.Certificate)
	if err := certs.CheckCert(cert, csr, []byte(e.CACert), id); err != nil {
		return nil, fmt.Errorf("external CA %s: %w", e.URL, err)
	}
	return cert, nil
}

// externalClient trusts the CA's own root beside the machine's.
func externalClient(e *swarm.ExternalCA) *http.Client {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	pool.AppendCertsFromPEM([]byte(e.CACert))
	return &http.Client{Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true,
	}}
}
