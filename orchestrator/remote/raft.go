package remote

import (
	"net"
	"sync"
	"time"
)

// raftListener is where the server's raft connections come out.
type raftListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
	mu    sync.Mutex
	open  map[*raftConn]struct{}
}

// offerTimeout is how long a connection waits for a raft that is starting.
const offerTimeout = 5 * time.Second

func newRaftListener() *raftListener {
	return &raftListener{conns: make(chan net.Conn), done: make(chan struct{}), open: map[*raftConn]struct{}{}}
}

// offer hands a connection over and returns when it was closed.
func (l *raftListener) offer(c net.Conn) {
	rc := &raftConn{Conn: c, closed: make(chan struct{}), from: l}
	l.mu.Lock()
	l.open[rc] = struct{}{}
	l.mu.Unlock()
	t := time.NewTimer(offerTimeout)
	defer t.Stop()
	select {
	case l.conns <- rc:
	case <-t.C:
		rc.Close()
	case <-l.done:
		rc.Close()
	}
	<-rc.closed
}

// Accept implements net.Listener.
func (l *raftListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener; it also closes all connections handed out,
// since nobody else ends those that the other side holds idle.
func (l *raftListener) Close() error {
	l.once.Do(func() { close(l.done) })
	l.mu.Lock()
	conns := make([]*raftConn, 0, len(l.open))
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
func (l *raftListener) Addr() net.Addr { return &net.TCPAddr{} }

// raftConn tells the server when raft is done with it.
type raftConn struct {
	net.Conn
	from   *raftListener
	once   sync.Once
	closed chan struct{}
}

func (c *raftConn) Close() error {
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
