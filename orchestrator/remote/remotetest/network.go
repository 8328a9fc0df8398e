// Package remotetest is a network in memory for whole clusters in one process:
// bytes arrive in order and late, pairs of hosts can be parted and joined again.
// Parting loses nothing and closes nothing, as with TCP: what is under way
// arrives when the hosts are joined, or the connection breaks after GiveUp.
//
// All its waiting is on channels and timers, so it runs under virtual time
// (testing/synctest).
package remotetest

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/meshd/meshd/orchestrator/remote"
)

const (
	// GiveUp is how long what was sent may stay unheard before a connection
	// breaks; TCP with the control port's keep-alive gives up about then.
	GiveUp = 11 * time.Second
	// latest is the most that bytes are late.
	latest = 2 * time.Millisecond
	// window is how many chunks may be under way; then writers wait.
	window = 64
	chunk  = 32 << 10
)

// Network connects hosts by name; any two are joined at first.
type Network struct {
	mu        sync.Mutex
	listeners map[string]*listener // by address
	parted    map[[2]string]bool   // by both names, the lesser first
	changed   chan struct{}        // closed when parted changes
}

// New returns a network without hosts.
func New() *Network {
	return &Network{listeners: map[string]*listener{}, parted: map[[2]string]bool{}, changed: make(chan struct{})}
}

// Host is the network as seen from a host.
func (n *Network) Host(name string) remote.Network { return host{n, name} }

// Part keeps everything between two hosts from arriving.
func (n *Network) Part(a, b string) { n.set(a, b, true) }

// Join ends Part.
func (n *Network) Join(a, b string) { n.set(a, b, false) }

// JoinAll ends every Part.
func (n *Network) JoinAll() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.parted)
	n.tellLocked()
}

// Joined says whether what one host sends reaches the other.
func (n *Network) Joined(a, b string) bool {
	joined, _ := n.path(a, b)
	return joined
}

func (n *Network) set(a, b string, parted bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if parted {
		n.parted[pair(a, b)] = true
	} else {
		delete(n.parted, pair(a, b))
	}
	n.tellLocked()
}

func (n *Network) tellLocked() {
	close(n.changed)
	n.changed = make(chan struct{})
}

func pair(a, b string) [2]string { return [2]string{min(a, b), max(a, b)} }

func (n *Network) path(a, b string) (joined bool, changed <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.parted[pair(a, b)], n.changed
}

// await returns when two hosts are joined, or why that was given up.
func (n *Network) await(ctx context.Context, a, b string) error {
	for {
		joined, changed := n.path(a, b)
		if joined {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

type host struct {
	network *Network
	name    string
}

// Listen implements remote.Network.
func (h host) Listen(_ context.Context, addr string) (net.Listener, error) {
	n := h.network
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[addr] != nil {
		return nil, &net.OpError{Op: "listen", Net: "memory", Addr: address(addr), Err: syscall.EADDRINUSE}
	}
	l := &listener{host: h, addr: address(addr), conns: make(chan net.Conn), done: make(chan struct{})}
	n.listeners[addr] = l
	return l, nil
}

// Dial implements remote.Network.
func (h host) Dial(ctx context.Context, addr string) (net.Conn, error) {
	failed := func(err error) error { return &net.OpError{Op: "dial", Net: "memory", Addr: address(addr), Err: err} }
	h.network.mu.Lock()
	l := h.network.listeners[addr]
	h.network.mu.Unlock()
	if l == nil {
		return nil, failed(syscall.ECONNREFUSED)
	}
	if err := h.network.await(ctx, h.name, l.host.name); err != nil {
		return nil, failed(err)
	}
	near, far := h.network.connect(h.name, l.host.name, l.addr)
	select {
	case l.conns <- far:
		return near, nil
	case <-l.done:
		near.Close()
		far.Close()
		return nil, failed(syscall.ECONNREFUSED)
	case <-ctx.Done():
		near.Close()
		far.Close()
		return nil, failed(ctx.Err())
	}
}

// connect makes the two ends of a connection and the wire between them.
func (n *Network) connect(from, to string, addr net.Addr) (near, far net.Conn) {
	near, nearWire := net.Pipe()
	far, farWire := net.Pipe()
	go n.carry(from, to, nearWire, farWire)
	go n.carry(to, from, farWire, nearWire)
	return &conn{near, address(from), addr}, &conn{far, addr, address(from)}
}

// carry brings what comes in on one end of a wire out at the other. It closes
// both when either is closed or the hosts are parted for too long.
func (n *Network) carry(from, to string, in, out net.Conn) {
	under := make(chan []byte, window)
	go func() {
		defer close(under)
		for {
			b := make([]byte, chunk)
			k, err := in.Read(b)
			if err != nil {
				return
			}
			under <- b[:k]
		}
	}()
	var err error
	for b := range under {
		if err == nil {
			err = n.arrive(from, to)
		}
		if err == nil {
			_, err = out.Write(b)
		}
		if err != nil {
			in.Close() // which ends the reader
		}
	}
	if err == nil {
		n.arrive(from, to) // the end is news, too; it comes in any case
	}
	in.Close()
	out.Close()
}

// arrive returns when something sent now is there.
func (n *Network) arrive(from, to string) error {
	<-time.After(time.Duration(rand.Int64N(int64(latest))))
	ctx, cancel := context.WithTimeout(context.Background(), GiveUp)
	defer cancel()
	return n.await(ctx, from, to)
}

type listener struct {
	host  host
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.once.Do(func() {
		n := l.host.network
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.listeners, l.addr.String())
		close(l.done)
	})
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return l.addr }

type conn struct {
	net.Conn
	local, remote net.Addr
}

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return c.remote }

type address string

// Network implements net.Addr.
func (address) Network() string { return "memory" }

func (a address) String() string { return string(a) }
