package overlay

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// patience is how long a test waits for a packet that should come, retry how long if it
// tries again; absence is how long for one that should not.
const (
	patience = 20 * time.Second
	retry    = 4 * time.Second
	absence  = 300 * time.Millisecond
)

// ping sends one echo request with size bytes of payload from the namespace.
func ping(ns, to string, size int, wait time.Duration) error {
	return in(ns, func() error {
		network, kind := "ip4:icmp", icmp.Type(ipv4.ICMPTypeEcho)
		if strings.Contains(to, ":") {
			network, kind = "ip6:ipv6-icmp", ipv6.ICMPTypeEchoRequest
		}
		c, err := net.ListenPacket(network, "")
		if err != nil {
			return err
		}
		defer c.Close()
		id := os.Getpid() & 0xffff
		body := icmp.Message{Type: kind, Body: &icmp.Echo{ID: id, Seq: 1, Data: bytes.Repeat([]byte("x"), size)}}
		b, err := body.Marshal(nil)
		if err != nil {
			return err
		}
		dest, err := net.ResolveIPAddr("ip", to)
		if err != nil {
			return err
		}
		if _, err := c.WriteTo(b, dest); err != nil {
			return err
		}
		return awaitReply(c, protocolOf(to), id, size, wait)
	})
}

// protocolOf gives the protocol number of an address' ICMP.
func protocolOf(addr string) int {
	if strings.Contains(addr, ":") {
		return 58
	}
	return 1
}

func awaitReply(c net.PacketConn, protocol, id, size int, wait time.Duration) error {
	_ = c.SetReadDeadline(time.Now().Add(wait))
	buf := make([]byte, 65536)
	for {
		n, _, err := c.ReadFrom(buf)
		if err != nil {
			return fmt.Errorf("no reply: %w", err)
		}
		m, err := icmp.ParseMessage(protocol, buf[:n])
		if err != nil {
			return err
		}
		if e, ok := m.Body.(*icmp.Echo); ok && (m.Type == ipv4.ICMPTypeEchoReply || m.Type == ipv6.ICMPTypeEchoReply) && e.ID == id {
			if len(e.Data) != size {
				return fmt.Errorf("reply has %d bytes of %d", len(e.Data), size)
			}
			return nil
		}
	}
}

// pings fails the test unless a ping succeeds within the lab's deadline.
func (l *lab) pings(ns, to string) {
	l.t.Helper()
	if err := ping(ns, to, 56, patience); err != nil {
		l.t.Fatalf("ping from %s to %s: %v", ns, to, err)
	}
}

func (l *lab) pingsNot(ns, to string) {
	l.t.Helper()
	if err := ping(ns, to, 56, absence); err == nil {
		l.t.Fatalf("ping from %s to %s got through", ns, to)
	}
}

// echo serves TCP and UDP on port 7 of the namespace until the test ends; each
// connection first hears the client's address.
func (l *lab) echo(ns string) {
	l.t.Helper()
	var listener net.Listener
	var packets net.PacketConn
	l.within(ns, func() (err error) {
		if listener, err = net.Listen("tcp", ":7"); err != nil {
			return err
		}
		packets, err = net.ListenPacket("udp", ":7")
		return err
	})
	l.t.Cleanup(func() { _, _ = listener.Close(), packets.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
				fmt.Fprintln(c, host)
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	go func() {
		buf := make([]byte, 65536)
		for {
			n, from, err := packets.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = packets.WriteTo(buf[:n], from)
		}
	}()
}

func dial(ns, network, to string, wait time.Duration) (net.Conn, error) {
	var c net.Conn
	err := in(ns, func() (err error) {
		c, err = (&net.Dialer{Timeout: wait}).Dial(network, to)
		return err
	})
	return c, err
}

// tcp sends size bytes to the echo server and back, and says whom it saw.
func tcp(ns, to string, size int) (seen string, err error) {
	c, err := dial(ns, "tcp", net.JoinHostPort(to, "7"), patience)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := fmt.Fscanln(c, &seen); err != nil {
		return "", err
	}
	return seen, exchange(c, size)
}

// exchange sends size bytes over a connection that echoes, and has them back.
func exchange(c net.Conn, size int) error {
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	data := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(data)
		sent <- err
	}()
	back := make([]byte, len(data))
	_, err := io.ReadFull(c, back)
	if err := errors.Join(err, <-sent); err != nil {
		return err
	}
	if !bytes.Equal(data, back) {
		return errors.New("the echo differs")
	}
	return nil
}

func udp(ns, to string, size int) error { return udpWithin(ns, to, size, patience) }

// udpWithin waits less for the answer: for who tries again.
func udpWithin(ns, to string, size int, wait time.Duration) error {
	c, err := dial(ns, "udp", net.JoinHostPort(to, "7"), wait)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(wait))
	data := bytes.Repeat([]byte("u"), size)
	if _, err := c.Write(data); err != nil {
		return err
	}
	back := make([]byte, 65536)
	n, err := c.Read(back)
	if err == nil && !bytes.Equal(data, back[:n]) {
		err = fmt.Errorf("%d of %d bytes came back", n, size)
	}
	return err
}
