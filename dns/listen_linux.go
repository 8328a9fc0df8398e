package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// listenUDP opens one of several sockets of an address (SO_REUSEPORT: the kernel
// spreads clients over them by their source).
func listenUDP(ctx context.Context, addr netip.AddrPort) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: bindAnyway}
	conn, err := lc.ListenPacket(ctx, "udp", addr.String())
	if err != nil {
		return nil, err
	}
	udp, ok := conn.(*net.UDPConn)
	if !ok {
		conn.Close()
		return nil, fmt.Errorf("listen on %s: not a UDP socket", addr)
	}
	if err := roomForBursts(udp); err != nil {
		udp.Close()
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	return udp, nil
}

// burstRoom is how many bytes of queries may wait at a socket. The kernel charges
// near a kilobyte for each, and its default holds some 250: a deployment's worth of
// containers that start at once ask for more.
const burstRoom = 1 << 20

// roomForBursts goes beyond the system's limit where it may (SO_RCVBUFFORCE, socket(7)).
func roomForBursts(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var forced error
	err = raw.Control(func(fd uintptr) {
		forced = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, burstRoom)
	})
	if err != nil || forced == nil {
		return err
	}
	return conn.SetReadBuffer(burstRoom) // as much as is allowed without the right to it
}

func listenTCP(ctx context.Context, addr netip.AddrPort) (net.Listener, error) {
	lc := net.ListenConfig{Control: bindAnyway}
	return lc.Listen(ctx, "tcp", addr.String())
}

// bindAnyway lets a socket bind to an address that the machine does not have yet
// (IP_FREEBIND, ip(7); it serves IPv6 sockets too): the resolver comes up before
// the overlay's link does.
func bindAnyway(network, _ string, c syscall.RawConn) error {
	var err error
	ctl := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		if err != nil {
			return
		}
		if network == "udp6" || network == "tcp6" {
			err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_FREEBIND, 1)
			return
		}
		err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1)
	})
	if ctl != nil {
		return ctl
	}
	return err
}

// transient errors of a UDP socket concern a single packet, such as an ICMP
// message about an earlier answer.
func transient(err error) bool {
	return errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.ENETUNREACH)
}
