package overlay

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// encryptedLab has nodes whose user networks are encrypted.
func encryptedLab(t *testing.T, six bool, nodes int, env ...string) *lab {
	l := newLabOn(t, six, nodes, env...)
	l.encrypted = true
	return l
}

// spreadKeys tells every node the others' keys, as managers do.
func (l *lab) spreadKeys(containers ...*container) {
	l.t.Helper()
	for _, n := range l.nodes {
		n.keys = n.ask(request{Op: "keys"}).Keys
	}
	for _, n := range l.nodes {
		n.ask(request{Op: "set", State: l.stateOf(n, containers)})
	}
}

// wire counts what passes a node's own device.
type wire struct {
	fd int
	// sealed are packets of WireGuard, clear all others with one of the secrets.
	sealed, clear atomic.Int64
}

// secret is in every payload of these tests.
const secret = "what nobody on the wire may read"

// capture looks at all frames that a node sends and receives until the test ends: for
// secret, and for two inner addresses beside each other, as in the header of a packet.
func (l *lab) capture(ns string, inner ...[2]string) *wire {
	l.t.Helper()
	w := &wire{}
	l.within(ns, func() error {
		dev, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		all := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})
		if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all)); err != nil {
			return err
		}
		_ = unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
		_ = unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100000})
		return unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: dev.Index})
	})
	secrets := [][]byte{[]byte(secret)}
	for _, pair := range inner {
		for i := range 2 {
			secrets = append(secrets, append(netip.MustParseAddr(pair[i]).AsSlice(), netip.MustParseAddr(pair[1-i]).AsSlice()...))
		}
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		w.read(stop, secrets)
	}()
	l.t.Cleanup(func() { close(stop); <-done; _ = unix.Close(w.fd) })
	return w
}

func (w *wire) read(stop chan struct{}, secrets [][]byte) {
	buf := make([]byte, 1<<17)
	for {
		select {
		case <-stop:
			return
		default:
		}
		n, _, err := unix.Recvfrom(w.fd, buf, 0)
		if err != nil {
			continue // nothing came
		}
		if isSealed(buf[:n]) {
			w.sealed.Add(1)
		}
		for _, s := range secrets {
			if bytes.Contains(buf[:n], s) {
				w.clear.Add(1)
			}
		}
	}
}

// tellsNothing fails the test unless what was seen is encrypted. Packets are looked at some time after they are sent.
func (l *lab) tellsNothing(w *wire) {
	l.t.Helper()
	l.eventually("encrypted packets are seen", func() bool { return w.sealed.Load() > 0 })
	if n := w.clear.Load(); n != 0 {
		l.t.Errorf("on the wire: %d encrypted packets, %d that say something", w.sealed.Load(), n)
	}
}

// isSealed tells UDP packets between WireGuard's ports.
func isSealed(frame []byte) bool {
	const ether, ip4, ip6 = 14, 20, 40
	at := ether + ip4
	switch {
	case len(frame) > ether+ip6+4 && frame[12] == 0x86 && frame[ether+6] == unix.IPPROTO_UDP:
		at = ether + ip6
	case len(frame) <= ether+ip4+4 || frame[12] != 0x08 || frame[ether+9] != unix.IPPROTO_UDP:
		return false
	}
	port := binary.BigEndian.Uint16(frame[at+2:])
	return port == defaultWireGuardPort || port == defaultWireGuardPort+1
}

// talk sends the secret by TCP and UDP to an echo server, and has it back.
func (l *lab) talk(ns, to string) {
	l.t.Helper()
	for _, network := range []string{"tcp", "udp"} {
		l.eventually(network+" to "+to, func() bool { return say(ns, network, to) == nil })
	}
}

func say(ns, network, to string) error {
	c, err := dial(ns, network, net.JoinHostPort(to, "7"), retry)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(retry))
	if network == "tcp" {
		var seen string
		if _, err := fmt.Fscanln(c, &seen); err != nil {
			return err
		}
	}
	if _, err := c.Write([]byte(secret)); err != nil {
		return err
	}
	back := make([]byte, len(secret))
	n, err := c.Read(back)
	if err == nil && string(back[:n]) != secret {
		err = fmt.Errorf("%q came back", back[:n])
	}
	return err
}

func TestEncryptedNetworksShowNothingOnTheWire(t *testing.T) {
	for name, c := range map[string]struct {
		six bool
		env []string
		mtu int
	}{
		"over IPv4": {mtu: 1440}, "over IPv6": {six: true, mtu: 1420}, "over IPv4, clsact": {env: []string{"OVERLAY_TEST_NOTCX=1"}, mtu: 1440},
		"over IPv4, without eBPF": {env: []string{onBridge}, mtu: 1440}, "over IPv6, without eBPF": {six: true, env: []string{onBridge}, mtu: 1420},
	} {
		t.Run(name, func(t *testing.T) {
			l := encryptedLab(t, c.six, 2, c.env...)
			l.transport = TransportDirect
			a := l.nodes[0].container().process().join(userNetwork(1), "10.0.1.2", "fd00:0:0:1::2")
			near := l.nodes[0].container().process().join(userNetwork(1), "10.0.1.3", "fd00:0:0:1::3")
			b := l.nodes[1].container().process().join(userNetwork(1), "10.0.1.4", "fd00:0:0:1::4")
			l.settle(a, near, b)
			l.addressed(a, near, b)
			l.echo(near.ns)
			l.echo(b.ns)
			wire := l.capture(l.nodes[0].ns, [2]string{"10.0.1.2", "10.0.1.4"}, [2]string{"fd00:0:0:1::2", "fd00:0:0:1::4"})
			for _, to := range []string{"10.0.1.3", "10.0.1.4", "fd00:0:0:1::3", "fd00:0:0:1::4"} {
				l.talk(a.ns, to)
				if seen, err := tcp(a.ns, to, 1<<20); err != nil || seen != "10.0.1.2" && seen != "fd00:0:0:1::2" {
					t.Errorf("TCP to %s: seen as %s, %v", to, seen, err)
				}
				for _, size := range []int{1, 1400, 1472, 20000} {
					if err := udp(a.ns, to, size); err != nil {
						t.Errorf("UDP with %d bytes to %s: %v", size, to, err)
					}
				}
			}
			l.eventually("what fits is sent", func() bool { return a.hasMTU(c.mtu) && b.hasMTU(c.mtu) })
			l.tellsNothing(wire)
			if t.Failed() {
				for _, n := range l.nodes {
					t.Log(n.ns, n.ask(request{Op: "drops"}).Drops)
				}
			}
			// The test can fail: without encryption it is all there to read.
			l.encrypted = false
			l.settle(a, near, b)
			l.talk(a.ns, "10.0.1.4")
			l.eventually("the capture sees what is in the clear", func() bool { return wire.clear.Load() > 0 })
		})
	}
}

// The little that test-vm runs: the kernel's own WireGuard where it has one, and what it puts on the wire.
func TestTheKernelEncryptsWhereItCan(t *testing.T) {
	l := encryptedLab(t, false, 2)
	a := l.nodes[0].container().process().join(userNetwork(1), "10.0.1.2", "fd00:0:0:1::2")
	b := l.nodes[1].container().process().join(userNetwork(1), "10.0.1.3", "fd00:0:0:1::3")
	l.settle(a, b)
	l.addressed(a, b)
	l.echo(b.ns)
	wire := l.capture(l.nodes[0].ns, [2]string{"10.0.1.2", "10.0.1.3"}, [2]string{"fd00:0:0:1::2", "fd00:0:0:1::3"})
	l.talk(a.ns, "10.0.1.3")
	l.talk(a.ns, "fd00:0:0:1::3")
	l.tellsNothing(wire)
	inKernel, err := CanEncrypt()
	if helper := l.helper(l.nodes[0]); err != nil || inKernel != (helper == "") {
		t.Errorf("the kernel has WireGuard: %v (%v), and the device has process %q", inKernel, err, helper)
	}
	t.Logf("the kernel has WireGuard: %v", inKernel)
}
