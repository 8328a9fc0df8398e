package remote

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/net/http2"

	"github.com/meshd/meshd/certs"
)

const (
	// dialTimeout bounds TCP and TLS handshakes together.
	dialTimeout = 3 * time.Second
	// callTimeout is for calls whose context has no deadline.
	callTimeout = 30 * time.Second
)

// Client calls managers. It keeps one connection per address and uses the
// node's newest certificate. Safe for concurrent use.
type Client struct {
	tls        func(protos ...string) *tls.Config
	generation func() uint64
	network    Network

	mu        sync.Mutex // guards what follows
	transport *http2.Transport
	of        uint64 // the generation of transport's connections
}

// NewClient returns a client that presents the node's certificate.
func NewClient(k *certs.Keeper) *Client {
	return &Client{tls: k.ClientTLS, generation: k.Generation, network: tcp{}}
}

// Over has the client, which has called nobody yet, dial through n.
func (c *Client) Over(n Network) *Client {
	c.network = n
	return c
}

// NewJoinClient returns a client of a machine that is in no cluster: it has no
// certificate and speaks only to managers of the token's cluster.
func NewJoinClient(t certs.Token) *Client {
	return &Client{
		tls:        func(protos ...string) *tls.Config { return certs.JoinTLS(t, protos...) },
		generation: func() uint64 { return 0 },
		network:    tcp{},
	}
}

// Close drops idle connections; streams end with their own context.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.transport != nil {
		c.transport.CloseIdleConnections()
	}
}

// Call posts in as JSON to a manager at host:port and decodes the answer into
// out; both may be nil. Errors of the other side come back with their class; a
// manager that cannot be reached is errdefs.ErrUnavailable.
func (c *Client) Call(ctx context.Context, addr, path string, in, out any) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, callTimeout)
		defer cancel()
	}
	body, err := c.post(ctx, addr, path, in)
	if err != nil {
		return err
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, maxBody+1))
	if err != nil {
		return c.broken(ctx, addr, err)
	}
	if len(data) > maxBody {
		return fmt.Errorf("remote: the answer of %s is larger than %d bytes", addr, maxBody)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("remote: the answer of %s: %w", addr, err)
	}
	return nil
}

// Open posts in as JSON and returns the stream of messages that answers it. The
// context is that of the whole stream.
func (c *Client) Open(ctx context.Context, addr, path string, in any) (*Stream, error) {
	ctx, cancel := context.WithCancel(ctx)
	body, err := c.post(ctx, addr, path, in)
	if err != nil {
		cancel()
		return nil, err
	}
	return newStream(body, cancel, func(err error) error { return c.broken(ctx, addr, err) }), nil
}

// Pour opens a stream of messages to a manager; it returns once the manager takes
// them. The context is that of the whole stream.
func (c *Client) Pour(ctx context.Context, addr, path string) (*Sink, error) {
	ctx, cancel := context.WithCancel(ctx)
	r, w := io.Pipe()
	body, err := c.send(ctx, addr, path, r)
	if err != nil {
		cancel()
		return nil, err
	}
	return &Sink{w: w, answer: body, cancel: cancel, broken: func(err error) error { return c.broken(ctx, addr, err) }}, nil
}

// DialRaft opens a raft stream to a manager and returns who answers.
func (c *Client) DialRaft(ctx context.Context, addr string) (net.Conn, certs.Identity, error) {
	return c.dialRaw(ctx, addr, protoRaft)
}

// DialTunnel opens a connection that the manager may call this node through.
func (c *Client) DialTunnel(ctx context.Context, addr string) (net.Conn, error) {
	conn, _, err := c.dialRaw(ctx, addr, protoTunnel)
	return conn, err
}

func (c *Client) dialRaw(ctx context.Context, addr, proto string) (net.Conn, certs.Identity, error) {
	conn, err := c.dial(ctx, addr, c.tls(proto))
	if err != nil {
		return nil, certs.Identity{}, c.broken(ctx, addr, err)
	}
	id, err := certs.IdentityOf(conn.ConnectionState().PeerCertificates[0])
	if err != nil {
		conn.Close()
		return nil, certs.Identity{}, err
	}
	return conn, id, nil
}

func (c *Client) post(ctx context.Context, addr, path string, in any) (io.ReadCloser, error) {
	if in == nil {
		in = struct{}{}
	}
	data, err := json.Marshal(in)
	if err != nil {
		return nil, fmt.Errorf("remote: encode request: %w", err)
	}
	return c.send(ctx, addr, path, bytes.NewReader(data))
}

func (c *Client) send(ctx context.Context, addr, path string, body io.Reader) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+addr+path, body)
	if err != nil {
		return nil, Errorf(errdefs.ErrInvalidArgument, "remote: address %q: %v", addr, err)
	}
	resp, err := c.current().RoundTrip(req)
	if err != nil {
		return nil, c.broken(ctx, addr, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	var f failure
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(&f); err != nil {
		return nil, fmt.Errorf("remote: %s answers %s", addr, resp.Status)
	}
	return nil, f.restore()
}

// broken says what an error of the connection means to the caller.
func (c *Client) broken(ctx context.Context, addr string, err error) error {
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("manager %s: %w", addr, context.Cause(ctx))
	case errors.Is(err, certs.ErrForeign):
		return Errorf(errors.Join(errdefs.ErrInvalidArgument, certs.ErrForeign), "manager %s: %v", addr, err)
	case errors.Is(err, certs.ErrRole):
		return Errorf(errors.Join(errdefs.ErrPermissionDenied, certs.ErrRole), "manager %s: %v", addr, err)
	}
	class := errdefs.ErrUnavailable
	var undialled *dialError
	if errors.As(err, &undialled) {
		return Errorf(errors.Join(class, ErrNotSent), "manager %s cannot be reached: %v", addr, err)
	}
	return Errorf(class, "connection to manager %s broke: %v", addr, err)
}

// current returns a transport whose connections present the newest certificate.
func (c *Client) current() *http2.Transport {
	gen := c.generation()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.transport != nil && c.of == gen {
		return c.transport
	}
	if c.transport != nil {
		c.transport.CloseIdleConnections()
	}
	c.of = gen
	c.transport = &http2.Transport{
		DialTLSContext: func(ctx context.Context, _, addr string, _ *tls.Config) (net.Conn, error) {
			return c.dial(ctx, addr, c.tls(protoRPC))
		},
		DisableCompression: true,
		MaxHeaderListSize:  16 << 10,
		ReadIdleTimeout:    pingAfter,
		PingTimeout:        pingTimeout,
		WriteByteTimeout:   pingAfter + pingTimeout,
		IdleConnTimeout:    5 * time.Minute, // idle connections of older certificates go
	}
	return c.transport
}

// dialError says that no connection came about.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

func (c *Client) dial(ctx context.Context, addr string, cfg *tls.Config) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := c.network.Dial(ctx, addr)
	if err != nil {
		return nil, &dialError{err}
	}
	tc := tls.Client(conn, cfg)
	if err := tc.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, &dialError{err}
	}
	if got := tc.ConnectionState().NegotiatedProtocol; got != cfg.NextProtos[0] {
		tc.Close()
		return nil, &dialError{fmt.Errorf("it does not speak %s; is it a swarm manager?", cfg.NextProtos[0])}
	}
	return tc, nil
}
