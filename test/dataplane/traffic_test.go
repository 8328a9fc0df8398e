package dataplane

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

const patience = 4 * time.Second

// greeting is what a server tells first: who it is and whom it sees.
func greeting(name string, client net.Addr) string { return name + " " + client.String() + "\n" }

// serve makes the namespace serve TCP and UDP on a port until the test ends: a
// greeting, then the client's bytes back.
func (l *lab) serve(ns string, port int) {
	l.t.Helper()
	var listener net.Listener
	var packets net.PacketConn
	l.check(in(ns, func() (err error) {
		at := fmt.Sprintf(":%d", port)
		if listener, err = net.Listen("tcp", at); err != nil {
			return err
		}
		packets, err = net.ListenPacket("udp", at)
		return err
	}))
	l.t.Cleanup(func() { _, _ = listener.Close(), packets.Close() })
	go serveTCP(listener, ns)
	go serveUDP(packets, ns)
}

func serveTCP(listener net.Listener, name string) {
	for {
		c, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_, _ = io.WriteString(c, greeting(name, c.RemoteAddr()))
			_, _ = io.Copy(c, c)
		}()
	}
}

func serveUDP(packets net.PacketConn, name string) {
	buf := make([]byte, 65536)
	for {
		n, from, err := packets.ReadFrom(buf)
		if err != nil {
			return
		}
		_, _ = packets.WriteTo(append([]byte(greeting(name, from)), buf[:n]...), from)
	}
}

// session is a connection of a client.
type session struct {
	net.Conn
	server string         // who answered
	seen   netip.AddrPort // whom it sees
}

// dial connects and hears the greeting. from may be empty.
func dial(ns, network, from, to string) (*session, error) {
	s := &session{}
	d := net.Dialer{Timeout: patience, Control: reuseAddr}
	if from != "" {
		a := netip.MustParseAddrPort(from)
		d.LocalAddr = net.TCPAddrFromAddrPort(a)
		if strings.HasPrefix(network, "udp") {
			d.LocalAddr = net.UDPAddrFromAddrPort(a)
		}
	}
	err := in(ns, func() (err error) {
		s.Conn, err = d.Dial(network, to)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := s.greet(network); err != nil {
		s.Close()
		return nil, fmt.Errorf("%s %s: %w", network, to, err)
	}
	return s, nil
}

func (s *session) greet(network string) error {
	if err := s.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if strings.HasPrefix(network, "udp") {
		_, err := s.exchange([]byte("hello"))
		return err
	}
	return s.heard(s)
}

func (s *session) heard(r io.Reader) error {
	var seen string
	if _, err := fmt.Fscanln(r, &s.server, &seen); err != nil {
		return fmt.Errorf("no greeting: %w", err)
	}
	var err error
	s.seen, err = netip.ParseAddrPort(seen)
	return err
}

// exchange sends a datagram and returns what came back, without the greeting.
func (s *session) exchange(b []byte) ([]byte, error) {
	if _, err := s.Write(b); err != nil {
		return nil, err
	}
	buf := make([]byte, 65536)
	n, err := s.Read(buf)
	if err != nil {
		return nil, err
	}
	text, payload, _ := bytes.Cut(buf[:n], []byte("\n"))
	return payload, s.heard(bytes.NewReader(append(text, '\n')))
}

// echo sends size bytes, and all must come back.
func (s *session) echo(network string, size int) error {
	if err := s.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	return s.mirrors(network, bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size])
}

// mirrors sends data, which must come back.
func (s *session) mirrors(network string, data []byte) error {
	if strings.HasPrefix(network, "udp") {
		back, err := s.exchange(data)
		if err == nil && !bytes.Equal(back, data) {
			err = fmt.Errorf("%d of %d bytes came back", len(back), len(data))
		}
		return err
	}
	sent := make(chan error, 1)
	go func() {
		_, err := s.Write(data)
		sent <- err
	}()
	back := make([]byte, len(data))
	_, err := io.ReadFull(s, back)
	if err := errors.Join(err, <-sent); err != nil {
		return err
	}
	if !bytes.Equal(data, back) {
		return errors.New("the echo differs")
	}
	return nil
}

// call dials, sends and receives size bytes, and closes.
func call(ns, network, to string, size int) (*session, error) {
	s, err := dial(ns, network, "", to)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if err := s.echo(network, size); err != nil {
		return nil, fmt.Errorf("%s %s, %d bytes: %w", network, to, size, err)
	}
	return s, nil
}

// stream echoes small pieces over one session until it is stopped.
type stream struct {
	rounds, failed atomic.Int64
	stop, done     chan struct{}
}

func (l *lab) stream(ns, network, to string) *stream {
	l.t.Helper()
	s, err := dial(ns, network, "", to)
	l.check(err)
	st := &stream{stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(st.done)
		defer s.Close()
		for {
			select {
			case <-st.stop:
				return
			default:
			}
			if s.echo(network, 32) != nil {
				st.failed.Add(1)
				return
			}
			st.rounds.Add(1)
		}
	}()
	return st
}

func (s *stream) end() {
	close(s.stop)
	<-s.done
}

func deadline() time.Time { return time.Now().Add(patience) }

// reuseAddr lets two connections to different servers share a local port.
func reuseAddr(_, _ string, c syscall.RawConn) error {
	var inner error
	outer := c.Control(func(fd uintptr) {
		inner = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	})
	return errors.Join(outer, inner)
}

// ping sends one echo request and waits for its reply.
func ping(ns, to string) error {
	var c net.PacketConn
	err := in(ns, func() (err error) {
		c, err = net.ListenPacket("ip4:icmp", "0.0.0.0")
		return err
	})
	if err != nil {
		return err
	}
	defer c.Close()
	m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: 7, Seq: 1, Data: []byte("odd")}}
	b, err := m.Marshal(nil)
	if err != nil {
		return err
	}
	if err := c.SetDeadline(deadline()); err != nil {
		return err
	}
	if _, err := c.WriteTo(b, &net.IPAddr{IP: net.ParseIP(to)}); err != nil {
		return err
	}
	b = make([]byte, 200)
	n, from, err := c.ReadFrom(b)
	if err == nil && (from.String() != to || b[0] != byte(ipv4.ICMPTypeEchoReply) || string(b[8:n]) != "odd") {
		err = fmt.Errorf("%x from %s", b[:n], from)
	}
	return err
}
