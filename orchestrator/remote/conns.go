package remote

import (
	"crypto/tls"
	"net"
	"sync"
	"time"

	"github.com/meshd/meshd/certs"
)

// connListener is where the server's connections of one protocol other than
// RPC come out: raft's, or tunnels.
type connListener struct {
	roles []certs.Role // who may open one
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
	mu    sync.Mutex
	open  map[*handedConn]struct{}
}

// offerTimeout is how long a connection waits for an Accept.
const offerTimeout = 5 * time.Second

func newConnListener(roles ...certs.Role) *connListener {
	return &connListener{roles: roles, conns: make(chan net.Conn), done: make(chan struct{}), open: map[*handedConn]struct{}{}}
}

// offer hands a connection over and returns when it was closed.
func (l *connListener) offer(c *tls.Conn, peer certs.Identity) {
	hc := &handedConn{Conn: c, peer: peer, closed: make(chan struct{}), from: l}
	l.mu.Lock()
	l.open[hc] = struct{}{}
	l.mu.Unlock()
	t := time.NewTimer(offerTimeout)
	defer t.Stop()
	select {
	case l.conns <- hc:
	case <-t.C:
		hc.Close()
	case <-l.done:
		hc.Close()
	}
	<-hc.closed
}

// Accept implements net.Listener.
func (l *connListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener; it also closes all connections handed out,
// since nobody else ends those that the other side holds idle.
func (l *connListener) Close() error {
	l.once.Do(func() { close(l.done) })
	l.mu.Lock()
	conns := make([]*handedConn, 0, len(l.open))
	for c := range l.open {
		conns = append(conns, c)
	}
	l.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
	return nil
}

// Addr implements net.Listener.
func (l *connListener) Addr() net.Addr { return &net.TCPAddr{} }

// handedConn tells the server when its user is done with it.
type handedConn struct {
	*tls.Conn
	peer   certs.Identity
	from   *connListener
	once   sync.Once
	closed chan struct{}
}

func (c *handedConn) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		err = c.Conn.Close()
		c.from.mu.Lock()
		delete(c.from.open, c)
		c.from.mu.Unlock()
		close(c.closed)
	})
	return err
}

// PeerOf is the verified other end of a connection that Raft or Tunnels gave.
func PeerOf(c net.Conn) certs.Identity {
	if hc, ok := c.(*handedConn); ok {
		return hc.peer
	}
	return certs.Identity{}
}
