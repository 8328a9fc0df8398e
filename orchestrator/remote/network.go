package remote

import (
	"context"
	"net"
	"time"
)

// Network is what the control port's connections go over: TCP, or in tests
// remotetest's, which parts and delays.
type Network interface {
	// Listen opens a node's port; addr is host:port.
	Listen(ctx context.Context, addr string) (net.Listener, error)
	// Dial connects to a port of another node.
	Dial(ctx context.Context, addr string) (net.Conn, error)
}

// keepAlive finds a connection without pings of its own, raft's or a tunnel,
// whose other end is gone: within 11 s.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3}

type tcp struct{}

// Listen implements Network.
func (tcp) Listen(ctx context.Context, addr string) (net.Listener, error) {
	return (&net.ListenConfig{KeepAliveConfig: keepAlive}).Listen(ctx, "tcp", addr)
}

// Dial implements Network.
func (tcp) Dial(ctx context.Context, addr string) (net.Conn, error) {
	return (&net.Dialer{KeepAliveConfig: keepAlive}).DialContext(ctx, "tcp", addr)
}
