package tunnel

import (
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/meshd/meshd/certs"
	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/orchestrator/remote"
)

// pathInvite is where managers ask each other for a session with a node.
const pathInvite = "/v1/tunnel/invite"

const (
	// answerTimeout is how long an invited node may take to call back.
	answerTimeout = 5 * time.Second
	// sessionGap is the wait for a node without a session, lostAfter for an answer,
	// before the node is invited again.
	sessionGap, lostAfter = 100 * time.Millisecond, time.Second
	// greetTimeout is how long a caller may take to say its number.
	greetTimeout = 5 * time.Second
	// keepIdle is how long a connection waits for the next request.
	keepIdle = 30 * time.Second
)

// Sessions are the sessions that this manager holds.
type Sessions interface {
	// Invite passes an invitation to a node; false: there is no session with it.
	Invite(node string, t protocol.Tunnel) bool
}

// Caller makes one request to a manager; an error of the other side keeps its class.
type Caller interface {
	Call(ctx context.Context, addr, path string, in, out any) error
}

// Router takes the hub's route; *remote.Server is one.
type Router interface {
	Handle(path string, h http.HandlerFunc, roles ...certs.Role)
}

// HubConfig is all that a Hub needs; every field must be set.
type HubConfig struct {
	// Self is this manager's control address.
	Self func() string
	// Managers are the control addresses of all managers.
	Managers func() []string
	Sessions Sessions
	Caller   Caller
	// Down tells of a node whether the swarm has given it up.
	Down func(node string) bool
	// Incoming gives the nodes' connections, remote.Server's Tunnels.
	Incoming net.Listener
	// PeerOf tells whose certificate a connection came with.
	PeerOf func(net.Conn) certs.Identity
	Logger *slog.Logger
}

// Hub is the manager's end. It is an http.RoundTripper: the host of a request's
// URL is the ID of the node that shall answer it.
type Hub struct {
	cfg       HubConfig
	transport *http.Transport

	mu      sync.Mutex
	invited map[string]invitation // by number
	open    map[*call]struct{}
}

type invitation struct {
	node string
	conn chan net.Conn
}

// NewHub returns a hub that works once Run was called.
func NewHub(cfg HubConfig) *Hub {
	h := &Hub{cfg: cfg, invited: map[string]invitation{}, open: map[*call]struct{}{}}
	h.transport = &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			node, _, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			return h.dial(ctx, node)
		},
		DisableCompression: true,
		IdleConnTimeout:    keepIdle,
	}
	return h
}

// Register adds the hub's route for other managers.
func (h *Hub) Register(r Router) { r.Handle(pathInvite, h.handleInvite, certs.RoleManager) }

// RoundTrip implements http.RoundTripper. A node that no manager has a session
// with, or that does not call back, is errdefs.ErrUnavailable.
func (h *Hub) RoundTrip(r *http.Request) (*http.Response, error) { return h.transport.RoundTrip(r) }

// Run accepts the nodes' connections until ctx ends or the listener does.
func (h *Hub) Run(ctx context.Context) error {
	defer h.transport.CloseIdleConnections()
	stop := context.AfterFunc(ctx, func() { h.cfg.Incoming.Close() })
	defer stop()
	var g errgroup.Group
	g.Go(func() error {
		h.hangUp(ctx)
		return nil
	})
	for {
		c, err := h.cfg.Incoming.Accept()
		if err != nil {
			return g.Wait() // closed: the server ends
		}
		g.Go(func() error {
			if err := h.greet(c); err != nil {
				h.cfg.Logger.Debug("tunnel refused", "node", h.cfg.PeerOf(c).NodeID, "error", err)
				c.Close()
			}
			return nil
		})
	}
}

// greet reads the number of a connection and hands it to who waits for it.
func (h *Hub) greet(c net.Conn) error {
	c.SetDeadline(time.Now().Add(greetTimeout)) // fails only on a closed connection, as the read will
	number := make([]byte, len(rand.Text()))
	if _, err := io.ReadFull(c, number); err != nil {
		return err
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	inv, ok := h.invited[string(number)]
	if !ok || inv.node != h.cfg.PeerOf(c).NodeID {
		return remote.Errorf(errdefs.ErrPermissionDenied, "nobody invited it")
	}
	delete(h.invited, string(number))
	inv.conn <- c // has room for one, and gets one
	return nil
}

// dial invites a node and waits until it calls back. A node that is not down may just be
// between two sessions, and an invitation in the one that ends is lost: so it is invited
// again.
func (h *Hub) dial(ctx context.Context, node string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	inv := invitation{node, make(chan net.Conn, 1)}
	t := protocol.Tunnel{Number: rand.Text(), Manager: h.cfg.Self()}
	h.mu.Lock()
	h.invited[t.Number] = inv
	h.mu.Unlock()
	defer h.forget(t.Number, inv)
	for {
		again, silence := lostAfter, remote.Errorf(errdefs.ErrUnavailable, "node %s did not call back within %v", node, answerTimeout)
		if !h.cfg.Sessions.Invite(node, t) && !h.askOthers(ctx, node, t) {
			again, silence = sessionGap, remote.Errorf(errdefs.ErrUnavailable, "node %s is not connected to any manager", node)
			if h.cfg.Down(node) {
				return nil, silence
			}
		}
		select {
		case c := <-inv.conn:
			return h.keep(node, c), nil
		case <-ctx.Done():
			return nil, silence
		case <-time.After(again):
		}
	}
}

// forget withdraws an invitation; a connection that nobody took is closed.
func (h *Hub) forget(number string, inv invitation) {
	h.mu.Lock()
	delete(h.invited, number)
	h.mu.Unlock()
	select {
	case c := <-inv.conn:
		c.Close()
	default:
	}
}

// askOthers looks for a manager that has a session with the node. All are asked
// at once: one that is dead costs the others no time.
func (h *Hub) askOthers(ctx context.Context, node string, t protocol.Tunnel) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	managers := h.cfg.Managers()
	found := make(chan bool, len(managers))
	asked := 0
	for _, addr := range managers {
		if addr == t.Manager {
			continue
		}
		asked++
		go func() { // ends with the call, which ends with ctx; found has room for all
			var reply inviteReply
			err := h.cfg.Caller.Call(ctx, addr, pathInvite, inviteRequest{node, t}, &reply)
			found <- err == nil && reply.Connected
		}()
	}
	for range asked {
		if <-found {
			return true
		}
	}
	return false
}

type inviteRequest struct {
	Node   string
	Tunnel protocol.Tunnel
}

type inviteReply struct{ Connected bool }

func (h *Hub) handleInvite(w http.ResponseWriter, r *http.Request) {
	var req inviteRequest
	if err := remote.Read(r, &req); err != nil {
		remote.Fail(w, err)
		return
	}
	remote.Reply(w, inviteReply{h.cfg.Sessions.Invite(req.Node, req.Tunnel)})
}
