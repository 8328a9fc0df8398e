package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meshd/meshd/orchestrator/protocol"
)

// backlog is how many invitations may wait; more are dropped, and whoever sent
// them gives up after answerTimeout.
const backlog = 64

// NodeConfig is all that a Node needs; every field must be set.
type NodeConfig struct {
	// Dial opens a connection to a manager, remote.Client's DialTunnel.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// Handler answers the managers.
	Handler http.Handler
	Logger  *slog.Logger
}

// Node is the end that is called.
type Node struct {
	cfg     NodeConfig
	invited chan protocol.Tunnel
}

// NewNode returns a node's end; it answers once Run was called.
func NewNode(cfg NodeConfig) *Node {
	return &Node{cfg: cfg, invited: make(chan protocol.Tunnel, backlog)}
}

// Accept takes invitations, without waiting.
func (n *Node) Accept(invitations []protocol.Tunnel) {
	for _, t := range invitations {
		select {
		case n.invited <- t:
		default:
			n.cfg.Logger.Warn("too many managers call at once; one is not answered", "manager", t.Manager)
		}
	}
}

// Run answers managers until ctx ends; requests that go on then are cut.
func (n *Node) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	l := &dialled{conns: make(chan net.Conn), done: ctx.Done()}
	server := &http.Server{
		Handler: n.cfg.Handler, ReadHeaderTimeout: greetTimeout, IdleTimeout: 2 * keepIdle,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(n.cfg.Logger.Handler(), slog.LevelDebug),
	}
	g.Go(func() error {
		if err := server.Serve(l); !errors.Is(err, net.ErrClosed) && !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("tunnel: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		server.Close() // connections only: nothing to flush
		return nil
	})
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case t := <-n.invited:
				g.Go(func() error { n.call(ctx, t, l); return nil })
			}
		}
	})
	return g.Wait()
}

// call dials the manager that invited this node, and lets the server have the
// connection.
func (n *Node) call(ctx context.Context, t protocol.Tunnel, l *dialled) {
	c, err := n.cfg.Dial(ctx, t.Manager)
	if err == nil {
		c.SetWriteDeadline(time.Now().Add(greetTimeout)) // fails only on a closed connection, as the write will
		_, err = io.WriteString(c, t.Number)
	}
	if err != nil {
		n.cfg.Logger.Warn("cannot call a manager back", "manager", t.Manager, "error", err)
		if c != nil {
			c.Close()
		}
		return
	}
	c.SetWriteDeadline(time.Time{})
	select {
	case l.conns <- plain{c}:
	case <-ctx.Done():
		c.Close()
	}
}

// plain hides from the HTTP server that a connection speaks TLS: it would look
// for a handler of the protocol agreed on.
type plain struct{ net.Conn }

// CloseWrite ends this side of an upgraded connection; the other may go on.
func (p plain) CloseWrite() error {
	if half, ok := p.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// dialled is a listener of connections that this side dialled.
type dialled struct {
	conns chan net.Conn
	done  <-chan struct{}
}

// Accept implements net.Listener.
func (l *dialled) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener; Run's context ends it.
func (l *dialled) Close() error { return nil }

// Addr implements net.Listener.
func (l *dialled) Addr() net.Addr { return &net.TCPAddr{} }
