package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
)

// lookUp asks the resolver something, as every program does before it connects to a
// name: by that the node knows whose sockets these are.
func (l *lab) lookUp(c *task) {
	l.t.Helper()
	l.check(in(c.ns, func() error {
		s, err := net.Dial("udp4", "10.255.0.1:53")
		if err != nil {
			return err
		}
		defer s.Close()
		_, err = s.Write([]byte("a question"))
		return err
	}))
}

// connected says whom the kernel takes for the peer of a namespace's connections:
// the address that packets carry, not what the process is told.
func (l *lab) connected(ns string, to netip.AddrPort) int {
	l.t.Helper()
	a := to.Addr().As4()
	want := fmt.Sprintf(" %08X:%04X ", binary.NativeEndian.Uint32(a[:]), to.Port())
	n := 0
	l.check(in(ns, func() error {
		for _, table := range []string{"tcp", "tcp6"} {
			b, err := os.ReadFile("/proc/thread-self/net/" + table)
			if err != nil {
				return err
			}
			for _, line := range strings.Split(string(b), "\n")[1:] {
				// sl, local, remote, state: 01 is established.
				if f := strings.Fields(line); len(f) > 3 && f[3] == "01" && strings.HasSuffix(" "+f[2]+" ", want[1:]) {
					n++
				}
			}
		}
		return nil
	}))
	return n
}

func TestSocketsAreLedToBackends(t *testing.T) {
	for mode, want := range map[string]bool{"socket": true, "auto": true, "packet": false} {
		t.Run(mode, func(t *testing.T) {
			l := newLab(t, "DATAPLANE_TEST_MODE="+mode)
			client, other, far := l.task(l.nodes[0]), l.task(l.nodes[0]), l.task(l.nodes[1])
			l.out[client], l.out[other] = true, true
			l.settle()
			l.serve(far.ns, taskPort)
			l.lookUp(client)
			backend := netip.AddrPortFrom(far.user, taskPort)
			for _, to := range []string{vip, "::ffff:" + vip} {
				s, err := dialDual(client.ns, to)
				l.check(err)
				defer s.Close()
				if got := l.connected(client.ns, backend) > 0; got != want {
					t.Errorf("to %s: led to the backend: %v, want %v", to, got, want)
				}
				if got := s.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap().String(); got != vip {
					t.Errorf("the process sees %s as its peer, want the VIP", got)
				}
				l.check(s.echo("tcp4", 5000))
			}
			datagrams(l, client, far)
			// Only sockets of a known container are touched.
			s, err := dial(other.ns, "tcp4", "", fmt.Sprintf("%s:%d", vip, taskPort))
			l.check(err)
			defer s.Close()
			if l.connected(other.ns, backend) > 0 {
				t.Error("the first connection of an unknown container was led")
			}
			l.blame()
		})
	}
}

// dialDual connects a socket of the IPv6 family if the address has colons.
func dialDual(ns, to string) (*session, error) {
	s := &session{}
	err := in(ns, func() error {
		family, addr := syscall.AF_INET, syscall.Sockaddr(&syscall.SockaddrInet4{Port: taskPort, Addr: netip.MustParseAddr(vip).As4()})
		if strings.Contains(to, ":") {
			family, addr = syscall.AF_INET6, &syscall.SockaddrInet6{Port: taskPort, Addr: netip.MustParseAddr(to).As16()}
		}
		fd, err := syscall.Socket(family, syscall.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), "socket")
		defer f.Close()
		if err := syscall.Connect(fd, addr); err != nil {
			return err
		}
		s.Conn, err = net.FileConn(f)
		return err
	})
	if err != nil {
		return nil, err
	}
	return s, s.greet("tcp4")
}

// datagrams of one unconnected socket stay with their backend, and go to another at
// once when it is gone; their answers come from the VIP.
func datagrams(l *lab, client, first *task) {
	l.t.Helper()
	second := l.task(l.nodes[0])
	l.settle()
	l.serve(second.ns, taskPort)
	for _, network := range []string{"udp4", "udp"} {
		l.out[second] = true
		delete(l.out, first)
		l.settle()
		var c net.PacketConn
		l.check(in(client.ns, func() (err error) {
			c, err = net.ListenPacket(network, ":0")
			return err
		}))
		defer c.Close()
		ask := func(want *task) {
			l.t.Helper()
			l.check(c.SetDeadline(deadline()))
			_, err := c.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(fmt.Sprintf("%s:%d", vip, taskPort))))
			l.check(err)
			b := make([]byte, 100)
			n, from, err := c.ReadFrom(b)
			l.check(err)
			if got := from.(*net.UDPAddr).AddrPort().Addr().Unmap().String(); got != vip {
				l.t.Errorf("%s: answer from %s, want the VIP", network, got)
			}
			if !strings.HasPrefix(string(b[:n]), want.ns+" ") {
				l.t.Errorf("%s: %q, want it from %s", network, b[:n], want.ns)
			}
		}
		ask(first)
		delete(l.out, second)
		l.settle()
		for range 10 {
			ask(first)
		}
		l.out[first] = true
		l.settle()
		ask(second)
	}
	l.out[second] = true
	delete(l.out, first)
	l.settle()
}

// A connection that its socket was led to is ended when its backend is gone, as one
// that is led packet by packet.
func TestLedConnectionIsResetWhenItsBackendIsGone(t *testing.T) {
	l := newLab(t, "DATAPLANE_TEST_MODE=socket")
	client, far := l.task(l.nodes[0]), l.task(l.nodes[1])
	l.out[client] = true
	l.settle()
	l.serve(far.ns, taskPort)
	l.lookUp(client)
	s, err := dial(client.ns, "tcp4", "", fmt.Sprintf("%s:%d", vip, taskPort))
	l.check(err)
	defer s.Close()
	if l.connected(client.ns, netip.AddrPortFrom(far.user, taskPort)) == 0 {
		t.Fatal("the socket was not led")
	}
	far.draining = true
	l.settle()
	l.check(s.echo("tcp4", 100))
	l.out[far] = true
	l.settle()
	if err := s.echo("tcp4", 100); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("the backend is gone: %v, want the connection reset", err)
	}
	l.blame()
}
