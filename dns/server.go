package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	mdns "github.com/miekg/dns"
)

// Config of a Server. The zero value will do.
type Config struct {
	Logger *slog.Logger
	// TTL of answers from zones, and of their absence; default 5 s.
	TTL time.Duration
	// Timeout of one attempt at one upstream; default 1 s.
	Timeout time.Duration
	// Forwards is how many queries of one client may wait for upstreams; default 256.
	Forwards int
	// CacheSize is how many answers of upstreams are kept; default 4096, negative: none.
	CacheSize int
	// Sockets per UDP address, among which the kernel spreads clients; default one
	// per CPU, at most 4.
	Sockets int
	// Clock is the time of the cache; default time.Now.
	Clock func() time.Time
}

const (
	// forwardRounds is how often each upstream is asked before the client is told.
	forwardRounds = 2
	// tcpIdle is how long a TCP client may be silent (RFC 7766, 6.2.3).
	tcpIdle = 10 * time.Second
	// maxConns bounds the TCP connections of a client, each with one query at a time.
	maxConns = 32
	// retryListen is the pause after an address could not be listened on.
	retryListen = time.Second
)

// Server is a node's resolver.
type Server struct {
	cfg    Config
	tables atomic.Pointer[tables]
	// changed wakes Run after tables were replaced; one token is enough.
	changed chan struct{}
	fwd     *forwarder
	// forwards and conns are what clients have under way over UDP and TCP.
	forwards, conns *quota
	// calls are the forwards and TCP clients under way.
	calls    sync.WaitGroup
	counters *counters
}

// New returns a server that listens nowhere until Set is called.
func New(cfg Config) *Server {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.TTL <= 0 {
		cfg.TTL = 5 * time.Second
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = time.Second
	}
	if cfg.Forwards <= 0 {
		cfg.Forwards = 256
	}
	if cfg.CacheSize == 0 {
		cfg.CacheSize = 4096
	}
	if cfg.Sockets <= 0 {
		cfg.Sockets = min(runtime.GOMAXPROCS(0), 4)
	}
	s := &Server{cfg: cfg, changed: make(chan struct{}, 1), forwards: newQuota(cfg.Forwards), conns: newQuota(maxConns), counters: newCounters()}
	s.fwd = &forwarder{
		log: cfg.Logger, timeout: cfg.Timeout, rounds: forwardRounds,
		now: cfg.Clock, cache: newCache(cfg.CacheSize), memory: newMemory(), refresh: &s.calls,
		self: func() []netip.AddrPort { return s.tables.Load().listen },
	}
	s.Set(State{})
	return s
}

// Set replaces all that is answered from, at once; listeners follow soon after,
// and those whose address stays are not touched. It keeps parts of state, which
// must not be modified afterwards. It may be called before Run and at any time.
func (s *Server) Set(state State) {
	s.tables.Store(compileAfter(s.tables.Load(), state, s.cfg.TTL))
	select {
	case s.changed <- struct{}{}:
	default: // Run has yet to look, and will see this state
	}
}

// Run listens where the State says and answers until ctx ends. An address that
// cannot be listened on is tried again and again; the error is nil.
func (s *Server) Run(ctx context.Context) error {
	open := make(map[netip.AddrPort]func())
	for ctx.Err() == nil {
		s.follow(ctx, open)
		select {
		case <-ctx.Done():
		case <-s.changed:
		}
	}
	for _, stop := range open {
		stop()
	}
	s.calls.Wait()
	return nil
}

// follow starts and stops listeners until open, which holds how to stop each, is
// what the State lists.
func (s *Server) follow(ctx context.Context, open map[netip.AddrPort]func()) {
	want := s.tables.Load().listen
	for _, addr := range want {
		if open[addr] == nil {
			open[addr] = s.start(ctx, addr)
		}
	}
	for addr, stop := range open {
		if !slices.Contains(want, addr) {
			stop()
			delete(open, addr)
		}
	}
}

// start listens on addr until the returned function is called, which waits until
// the sockets are closed: an address that comes back meets none of its old ones.
func (s *Server) start(ctx context.Context, addr netip.AddrPort) (stop func()) {
	listening, cancel := context.WithCancel(ctx)
	var sockets sync.WaitGroup
	for range s.cfg.Sockets {
		sockets.Go(func() {
			s.keep(listening, addr, func() error { return s.serveUDP(ctx, listening, addr) })
		})
	}
	sockets.Go(func() {
		s.keep(listening, addr, func() error { return s.serveTCP(ctx, listening, addr) })
	})
	return func() {
		cancel()
		sockets.Wait()
	}
}

// keep runs serve again whenever it fails.
func (s *Server) keep(ctx context.Context, addr netip.AddrPort, serve func() error) {
	last := ""
	for ctx.Err() == nil {
		err := serve()
		if ctx.Err() != nil {
			return
		}
		if err != nil && err.Error() != last { // once per cause, not once a second
			last = err.Error()
			s.cfg.Logger.Warn("cannot serve DNS; will retry", "address", addr, "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryListen):
		}
	}
}

// serveUDP answers on one socket until listening ends. Forwards it starts live in
// ctx, since clients of other addresses may share what upstreams say to them.
func (s *Server) serveUDP(ctx, listening context.Context, addr netip.AddrPort) error {
	conn, err := listenUDP(listening, addr)
	if err != nil {
		return err
	}
	defer closeAfter(listening, conn)()
	return s.answerUDP(ctx, conn)
}

// answerUDP answers until conn is closed.
func (s *Server) answerUDP(ctx context.Context, conn *net.UDPConn) error {
	queries, err := newBatch(conn)
	if err != nil {
		return err
	}
	var q query
	for {
		n, err := queries.read()
		if err != nil {
			if transient(err) {
				continue
			}
			return err
		}
		began, tables := time.Now(), s.tables.Load()
		for i := range n {
			packet, from := queries.query(i)
			asker := from.Addr().Unmap().WithZone("")
			if !queries.shares.take(asker) {
				s.counters.shed.Add(1)
				continue
			}
			answer, client, what := tables.answer(&q, queries.buffer(i), packet, asker, false)
			switch what {
			case drop:
				continue
			case send:
				s.counters.count(answer, fromTables, time.Since(began))
			case forward:
				if s.forwards.enter(asker) {
					s.forward(ctx, conn, forwarded{append([]byte(nil), packet...), q.udpSize, from, asker, client.upstreams, began})
					continue
				}
				answer = q.fail(queries.buffer(i), mdns.RcodeServerFailure)
				s.counters.count(answer, fromUpstream, time.Since(began))
			}
			queries.add(i, answer)
		}
		if err := queries.flush(); err != nil && !errors.Is(err, net.ErrClosed) {
			s.cfg.Logger.Debug("cannot send an answer", "error", err)
		}
	}
}

// forwarded is a query that upstreams are to answer.
type forwarded struct {
	packet    []byte
	size      int
	from      netip.AddrPort
	asker     netip.Addr
	upstreams []netip.AddrPort
	began     time.Time
}

// forward answers a query whose asker has entered the quota.
func (s *Server) forward(ctx context.Context, conn *net.UDPConn, f forwarded) {
	s.calls.Go(func() {
		defer s.forwards.leave(f.asker)
		if reply := s.fwd.ask(ctx, f.packet, f.asker, f.upstreams, f.size); reply != nil {
			s.counters.count(reply, fromUpstream, time.Since(f.began))
			s.write(conn, reply, f.from)
		}
	})
}

// write sends an answer; one that cannot be sent is lost like any datagram.
func (s *Server) write(conn *net.UDPConn, answer []byte, to netip.AddrPort) {
	if _, err := conn.WriteToUDPAddrPort(answer, to); err != nil && !errors.Is(err, net.ErrClosed) {
		s.cfg.Logger.Debug("cannot send an answer", "to", to, "error", err)
	}
}

// serveTCP accepts clients until listening ends, and they with it. As with UDP,
// forwards live in ctx.
func (s *Server) serveTCP(ctx, listening context.Context, addr netip.AddrPort) error {
	l, err := listenTCP(listening, addr)
	if err != nil {
		return err
	}
	defer closeAfter(listening, l)()
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		asker, err := askerOf(conn)
		if err != nil || !s.conns.enter(asker) {
			conn.Close()
			continue
		}
		s.calls.Go(func() {
			defer s.conns.leave(asker)
			defer closeAfter(listening, conn)()
			if err := s.talk(ctx, conn, asker); err != nil && listening.Err() == nil {
				s.cfg.Logger.Debug("TCP client ended", "client", asker, "error", err)
			}
		})
	}
}

// talk answers the queries of a TCP client in turn. Memory is taken for what
// came, not for what a length says.
func (s *Server) talk(ctx context.Context, conn net.Conn, asker netip.Addr) error {
	var q query
	var length [2]byte
	out := make([]byte, 0, plainSize)
	for {
		if err := conn.SetDeadline(time.Now().Add(tcpIdle)); err != nil {
			return err
		}
		if _, err := io.ReadFull(conn, length[:]); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		n := int(binary.BigEndian.Uint16(length[:]))
		packet, err := io.ReadAll(io.LimitReader(conn, int64(n)))
		if err != nil || len(packet) < n {
			return err
		}
		began, knew := time.Now(), fromTables
		answer, client, what := s.tables.Load().answer(&q, out, packet, asker, true)
		if what == forward {
			answer, knew = s.fwd.ask(ctx, packet, asker, client.upstreams, mdns.MaxMsgSize-1), fromUpstream
		}
		if len(answer) == 0 {
			return nil
		}
		s.counters.count(answer, knew, time.Since(began))
		if err := conn.SetDeadline(time.Now().Add(tcpIdle)); err != nil {
			return err
		}
		frame := binary.BigEndian.AppendUint16(make([]byte, 0, len(answer)+2), uint16(len(answer)))
		if _, err := conn.Write(append(frame, answer...)); err != nil {
			return err
		}
	}
}

// closeAfter closes c when ctx ends, or when the returned function is called, which
// returns only once c is closed.
func closeAfter(ctx context.Context, c io.Closer) func() {
	once := sync.OnceFunc(func() { c.Close() })
	stop := context.AfterFunc(ctx, once)
	return func() {
		stop()
		once()
	}
}

func askerOf(conn net.Conn) (netip.Addr, error) {
	peer, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	return peer.Addr().Unmap().WithZone(""), err
}
