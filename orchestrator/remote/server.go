package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/net/http2"

	"github.com/meshd/meshd/certs"
)

// The protocols of the control port.
const (
	protoRPC    = "h2"
	protoRaft   = "mesh-raft/1"
	protoTunnel = "mesh-tunnel/1"
)

const (
	// pingAfter and pingTimeout find a connection whose other end is gone.
	pingAfter   = 3 * time.Second
	pingTimeout = 2 * time.Second
	// handshakeTimeout bounds what a stranger may hold open.
	handshakeTimeout = 10 * time.Second
	// goodbye is how long running calls may go on when the server stops.
	goodbye = 300 * time.Millisecond
)

// Config of a Server.
type Config struct {
	Keeper *certs.Keeper
	// Network brings the connections; nil: TCP.
	Network Network
	Logger  *slog.Logger
}

// Server answers on a manager's control port.
type Server struct {
	cfg     Config
	raft    *connListener
	tunnels *connListener

	mu       sync.RWMutex // guards what follows
	routes   map[string]route
	listener net.Listener
	cancel   context.CancelFunc
	closed   bool

	calls sync.WaitGroup // handlers and connections handed over
}

type route struct {
	handler http.HandlerFunc
	roles   []certs.Role
}

// NewServer returns a server that listens nowhere yet.
func NewServer(cfg Config) *Server {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Network == nil {
		cfg.Network = tcp{}
	}
	return &Server{
		cfg: cfg, routes: map[string]route{},
		raft:    newConnListener(certs.RoleManager),
		tunnels: newConnListener(certs.RoleManager, certs.RoleWorker),
	}
}

// Handle routes POSTs of a path. With no roles, anyone may call, even without
// a certificate; else only callers whose certificate has one of them.
func (s *Server) Handle(path string, h http.HandlerFunc, roles ...certs.Role) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.routes[path] = route{handler: h, roles: roles}
}

// Refuse sets which nodes are refused although their certificates hold. The
// function must not block.
func (s *Server) Refuse(blocked func(nodeID string) bool) { s.cfg.Keeper.SetBlocked(blocked) }

// Listen opens the port; a busy one shows here, before Serve.
func (s *Server) Listen(addr string) error {
	l, err := s.cfg.Network.Listen(context.Background(), addr)
	if err != nil {
		return fmt.Errorf("remote: listen on the control port: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.listener != nil {
		l.Close()
		return errors.New("remote: the server listens already or is closed")
	}
	s.listener = l
	return nil
}

// Addr is where the server listens, nil before Listen.
func (s *Server) Addr() net.Addr {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.listener == nil {
		return nil
	}
	return s.listener.Addr()
}

// Raft is the source of raft's connections; it closes with the server.
func (s *Server) Raft() net.Listener { return s.raft }

// Tunnels is the source of connections that nodes opened to be called through;
// it closes with the server. PeerOf tells whose one is.
func (s *Server) Tunnels() net.Listener { return s.tunnels }

// Serve answers until the context ends or Close is called, and returns when
// all handlers have. Handlers see the end in their request's context.
func (s *Server) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.mu.Lock()
	l := s.listener
	s.cancel = cancel
	closed := s.closed
	s.mu.Unlock()
	if l == nil {
		return errors.New("remote: serve without listen")
	}
	if closed {
		return nil
	}
	srv, err := s.httpServer(ctx)
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() {
		failed <- srv.Serve(tls.NewListener(l, s.cfg.Keeper.ServerTLS(protoRPC, protoRaft, protoTunnel)))
	}()
	select {
	case err = <-failed:
		failed <- nil
	case <-ctx.Done():
	}
	cancel()
	s.closeConns()
	end, done := context.WithTimeout(context.WithoutCancel(ctx), goodbye)
	defer done()
	if srv.Shutdown(end) != nil {
		srv.Close() // calls that go on are cut
	}
	<-failed
	s.calls.Wait()
	if err != nil {
		return fmt.Errorf("remote: serve: %w", err)
	}
	return nil
}

// Close ends Serve, and gives the port back even if Serve never ran.
func (s *Server) Close() error {
	s.mu.Lock()
	l, cancel := s.listener, s.cancel
	s.closed = true
	s.mu.Unlock()
	s.closeConns()
	if cancel != nil {
		cancel()
		return nil
	}
	if l != nil {
		return l.Close()
	}
	return nil
}

func (s *Server) closeConns() {
	s.raft.Close()
	s.tunnels.Close()
}

func (s *Server) httpServer(ctx context.Context) (*http.Server, error) {
	srv := &http.Server{
		Handler:           s,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: handshakeTimeout, // bounds the handshake too
		IdleTimeout:       5 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelDebug),
	}
	err := http2.ConfigureServer(srv, &http2.Server{
		MaxConcurrentStreams: 1000,
		ReadIdleTimeout:      pingAfter,
		PingTimeout:          pingTimeout,
	})
	if err != nil {
		return nil, fmt.Errorf("remote: configure HTTP/2: %w", err)
	}
	srv.TLSNextProto[protoRaft] = func(_ *http.Server, c *tls.Conn, _ http.Handler) { s.handOver(c, s.raft) }
	srv.TLSNextProto[protoTunnel] = func(_ *http.Server, c *tls.Conn, _ http.Handler) { s.handOver(c, s.tunnels) }
	return srv, nil
}

// handOver gives a connection to who accepts from l, and returns when that one
// is done with it.
func (s *Server) handOver(c *tls.Conn, l *connListener) {
	s.calls.Add(1)
	defer s.calls.Done()
	id, err := s.peer(c.ConnectionState())
	if err == nil && !slices.Contains(l.roles, id.Role) {
		err = certs.ErrRole
	}
	if err != nil {
		s.cfg.Logger.Warn("connection refused", "protocol", c.ConnectionState().NegotiatedProtocol,
			"from", c.RemoteAddr(), "error", err)
		c.Close()
		return
	}
	l.offer(c, id)
}

// peer returns who is at the other end; no certificate is an empty identity.
func (s *Server) peer(cs tls.ConnectionState) (certs.Identity, error) {
	if len(cs.PeerCertificates) == 0 {
		return certs.Identity{}, nil
	}
	id, err := s.cfg.Keeper.Admit(cs.PeerCertificates[0])
	switch {
	case errors.Is(err, certs.ErrBlocked):
		return certs.Identity{}, Errorf(errRemoved, "%v", err)
	case err != nil:
		return certs.Identity{}, Errorf(errdefs.ErrPermissionDenied, "%v", err)
	}
	return id, nil
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.calls.Add(1)
	defer s.calls.Done()
	defer s.survive(w, r)
	s.mu.RLock()
	rt, ok := s.routes[r.URL.Path]
	s.mu.RUnlock()
	switch {
	case !ok:
		Fail(w, Errorf(errdefs.ErrNotImplemented, "this manager does not know %s", r.URL.Path))
		return
	case r.Method != http.MethodPost || r.TLS == nil:
		Fail(w, Errorf(errdefs.ErrInvalidArgument, "only POST is answered here"))
		return
	}
	id, err := s.peer(*r.TLS)
	if err == nil {
		err = admit(id, rt.roles)
	}
	if err != nil {
		Fail(w, err)
		return
	}
	rt.handler(w, r.WithContext(WithPeer(r.Context(), id)))
}

// survive turns a panic into an answer.
func (s *Server) survive(w http.ResponseWriter, r *http.Request) {
	p := recover()
	if p == nil {
		return
	}
	s.cfg.Logger.Error("handler panicked", "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
	Fail(w, fmt.Errorf("internal error in %s", r.URL.Path))
}

func admit(id certs.Identity, roles []certs.Role) error {
	switch {
	case len(roles) == 0 || slices.Contains(roles, id.Role):
		return nil
	case id.NodeID == "":
		return Errorf(errdefs.ErrUnauthenticated, "this call needs a certificate of the swarm")
	}
	return Errorf(errdefs.ErrPermissionDenied, "node %s is a %s; this call needs role %v", id.NodeID, id.Role, roles[0])
}

type peerKey struct{}

// Peer is the verified caller of a request; empty when it has no certificate.
func Peer(ctx context.Context) certs.Identity {
	id, _ := ctx.Value(peerKey{}).(certs.Identity)
	return id
}

// WithPeer returns a context whose caller is id; for handlers' tests.
func WithPeer(ctx context.Context, id certs.Identity) context.Context {
	return context.WithValue(ctx, peerKey{}, id)
}
