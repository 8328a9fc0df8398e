package api

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/agent"
	"github.com/meshd/meshd/orchestrator/consensus"
	"github.com/meshd/meshd/orchestrator/dispatcher"
	"github.com/meshd/meshd/orchestrator/journal"
	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/overlay"
)

// Status is what a node knows of itself, in a swarm or not.
type Status struct {
	State    swarm.LocalNodeState
	NodeID   string
	NodeAddr string
	// Managers are the known managers, this node among them if it is one.
	Managers []swarm.Peer
	// Error says why State is "error", or what ails an active node.
	Error string
}

// Node is this machine's membership of a swarm.
type Node interface {
	Status() Status
	// Init makes a new swarm of this node and returns the node's ID.
	Init(ctx context.Context, r swarm.InitRequest) (string, error)
	// Join enters the swarm of r.RemoteAddrs; it returns when the node is active.
	Join(ctx context.Context, r swarm.JoinRequest) error
	// Leave ends the membership and forgets all state of the swarm.
	Leave(ctx context.Context, force bool) error
	// Attach gives a container that is no task addresses on networks of the swarm.
	Attach(ctx context.Context, r protocol.AttachRequest) (agent.AttachmentPlan, error)
	// ShutDown ends this node's tasks in order, since its machine is about to go.
	ShutDown(ctx context.Context) error
	// Unlock takes up the membership of a locked manager.
	Unlock(ctx context.Context, key string) error
	// Manager returns the control plane; false on workers and outside a swarm.
	Manager() (Control, bool)
}

// Control is the control plane as seen from one manager.
type Control interface {
	store.Proposer
	Store() *store.Store
	// Journal has the newest changes of Store as events.
	Journal() *journal.Journal
	// Barrier returns when Store holds every write acknowledged before the call.
	Barrier(ctx context.Context) error
	// Leader is the raft leader; empty if there is none.
	Leader() (nodeID, addr string)
	// Without is what would be left of the managers without one of them.
	Without(ctx context.Context, id string) (consensus.Rest, error)
	// Watched are the nodes that have their session with this manager, and of which
	// networks they have not acknowledged the newest revision to it.
	Watched(ctx context.Context) (nodes []string, lags []dispatcher.Lag, err error)
	// Nodes answers requests on behalf of a node: the host of the URL is its ID.
	Nodes() http.RoundTripper
}

// Config is what a Server is made of.
type Config struct {
	Node Node
	// Engine is the path of the Docker Engine's unix socket; "unix://" may lead it.
	Engine string
	// Version is meshd's own version, shown as a component.
	Version string
	// HostRoutes lists the address ranges in use on this host, which overlay
	// networks may not overlap. Nil: none.
	HostRoutes func() ([]overlay.HostRoute, error)
	// GossipPort is the port by which nodes watch each other; no service may publish it.
	GossipPort uint16
	// Audit gets a line for each request that may change something; nil: none.
	Audit io.Writer
	// ResolvConf is the file that containers on the swarm's networks get as
	// /etc/resolv.conf; empty: the engine's resolver is told of ours instead.
	ResolvConf string
	// Observer answers /metrics and /mesh/net; nil: they are refused.
	Observer Observer
	// Examiner answers /mesh/doctor; nil: it is refused.
	Examiner Examiner
	Logger   *slog.Logger
}

// Server answers the Engine API.
type Server struct {
	node    Node
	engine  *engine
	version string
	hosts   func() ([]overlay.HostRoute, error)
	log     *slog.Logger
	routes  []route
	gossip  uint16
	// bodyTime is how long the rest of a body may take that nobody wants.
	bodyTime time.Duration
	audit    *auditor // nil: none
	// resolvConf is Config's.
	resolvConf string
	// observer and examiner may be nil.
	observer Observer
	examiner Examiner
}

// New returns a server; it opens nothing yet.
func New(c Config) *Server {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.HostRoutes == nil {
		c.HostRoutes = func() ([]overlay.HostRoute, error) { return nil, nil }
	}
	s := &Server{node: c.Node, version: c.Version, hosts: c.HostRoutes, log: c.Logger, engine: newEngine(c.Engine, c.Logger), bodyTime: bodyTime}
	s.observer, s.examiner, s.gossip, s.resolvConf = c.Observer, c.Examiner, c.GossipPort, c.ResolvConf
	if c.Audit != nil {
		s.audit = &auditor{out: c.Audit, log: c.Logger}
	}
	s.routes = append(s.routeTable(), s.meshRoutes()...)
	return s
}

// stopGrace is how long requests in flight may go on when the server stops.
const stopGrace = time.Second

// Serve answers requests on l until ctx ends, and returns when every handler
// has returned. It closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	requests, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var handlers sync.WaitGroup // hijacked ones too, which Shutdown does not wait for
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			handlers.Add(1)
			defer handlers.Done()
			s.ServeHTTP(w, r)
		}),
		BaseContext:       func(net.Listener) context.Context { return requests },
		ConnContext:       withPeer,
		ReadHeaderTimeout: headerTime,
		MaxHeaderBytes:    maxHeaders,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		late, done := context.WithTimeout(requests, stopGrace)
		defer done()
		if srv.Shutdown(late) != nil {
			cancel()
			_ = srv.Close() // the listener is closed already; only connections are left
		}
	}()
	err := srv.Serve(l)
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("api: serve: %w", err)
	}
	<-stopped
	cancel()
	handlers.Wait()
	s.engine.transport.CloseIdleConnections()
	return nil
}

// ServeHTTP implements http.Handler. Each request has an ID, by which the log, the audit
// log and the client speak of it.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set(requestID, rand.Text()[:12])
	// What a handler has left of the body is read before the answer goes out, but not for
	// ever. The server takes the deadline back for the next request.
	defer func() { _ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.bodyTime)) }()
	s.audit.watch(w, r, s.answer)
}

// requestID is the header that tells the client its request's ID.
const requestID = "X-Request-Id"

func (s *Server) answer(w http.ResponseWriter, r *http.Request) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if p == http.ErrAbortHandler { //nolint:errorlint // a sentinel panic value, not an error chain
			panic(p)
		}
		id := w.Header().Get(requestID)
		s.log.Error("panic in an API handler", "request", id, "method", r.Method, "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
		s.fail(w, r, refuse(http.StatusInternalServerError, "internal error of meshd: this node's log has the details of request %s", id))
	}()
	h := w.Header()
	h.Set("Api-Version", apiMax.String())
	h.Set("Server", "meshd/"+s.version+" (linux)")
	h.Set("Docker-Experimental", "false")
	h.Set("Ostype", "linux")
	if err := s.dispatch(w, r); err != nil {
		s.fail(w, r, err)
	}
}

func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	f := faultOf(err)
	if f.status >= http.StatusInternalServerError && f.status != http.StatusServiceUnavailable && f.status != http.StatusNotImplemented {
		s.log.Error("API request failed", "request", w.Header().Get(requestID), "method", r.Method, "path", r.URL.Path, "error", err)
	}
	reply(w, f.status, map[string]string{"message": f.text})
}

// How long a request to the swarm side may wait for the managers.
const (
	managerTime = 30 * time.Second
	barrierTime = 10 * time.Second
)

// onManager wraps a handler that needs the replicated state.
func (s *Server) onManager(h func(w http.ResponseWriter, r *http.Request, c Control) error) handler {
	return s.streaming(func(w http.ResponseWriter, r *http.Request, c Control) error {
		ctx, cancel := context.WithTimeout(r.Context(), managerTime)
		defer cancel()
		return h(w, r.WithContext(ctx), c)
	})
}

// streaming is onManager for answers that end when the client wants it.
func (s *Server) streaming(h func(w http.ResponseWriter, r *http.Request, c Control) error) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		c, err := s.control()
		if err != nil {
			return err
		}
		if err := barrier(r.Context(), c); err != nil {
			return err
		}
		return h(w, r, c)
	}
}

func barrier(ctx context.Context, c Control) error {
	ctx, cancel := context.WithTimeout(ctx, barrierTime)
	defer cancel()
	err := c.Barrier(ctx)
	if err == nil || errdefs.IsUnavailable(err) { // which says it itself
		return err
	}
	return noLeader(err)
}

// control returns the control plane, or the refusal that says why there is none.
func (s *Server) control() (Control, error) {
	st := s.node.Status()
	if st.State == swarm.LocalNodeStateLocked {
		return nil, refuse(http.StatusServiceUnavailable, textLocked)
	}
	if c, ok := s.node.Manager(); ok {
		return c, nil
	}
	if st.State == swarm.LocalNodeStateActive {
		return nil, s.onlyWorker()
	}
	return nil, refuse(http.StatusServiceUnavailable, textInactive)
}

// onlyWorker is a worker's refusal; it says who could help.
func (s *Server) onlyWorker() error {
	var managers []string
	for _, m := range s.node.Status().Managers {
		managers = append(managers, m.Addr)
	}
	if len(managers) == 0 {
		return refuse(http.StatusServiceUnavailable, textWorker)
	}
	slices.Sort(managers)
	return refuse(http.StatusServiceUnavailable, "%s Managers: %s.", textWorker, strings.Join(managers, ", "))
}
