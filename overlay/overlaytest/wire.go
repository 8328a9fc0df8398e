package overlaytest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Secret is what tests send for Wire to look for.
const Secret = "what nobody on the wire may read"

// Wire counts what passes a device.
type Wire struct {
	fd      int
	port    uint16
	secrets [][]byte
	// sealed are packets of WireGuard, clear all others with one of the secrets, rests how often nothing more was to be read.
	sealed, clear, rests atomic.Int64
	stop, done           chan struct{}
}

// quiet is how long nothing comes until all that came was looked at.
const quiet = 100 * time.Millisecond

// Tap looks at all frames that a device in the calling thread's network namespace sends and receives: for Secret, and for two inner addresses
// beside each other, as in the header of a packet. WireGuard has UDP port and the next one.
func Tap(device string, port uint16, inner ...[2]string) (*Wire, error) {
	w := &Wire{port: port, secrets: [][]byte{[]byte(Secret)}, stop: make(chan struct{}), done: make(chan struct{})}
	for _, pair := range inner {
		for i := range 2 {
			w.secrets = append(w.secrets, append(netip.MustParseAddr(pair[i]).AsSlice(), netip.MustParseAddr(pair[1-i]).AsSlice()...))
		}
	}
	dev, err := net.InterfaceByName(device)
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", device, err)
	}
	all := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})
	if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all)); err != nil {
		return nil, fmt.Errorf("look at %s: %w", device, err)
	}
	_ = unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
	wait := unix.NsecToTimeval(quiet.Nanoseconds())
	_ = unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait)
	if err := unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: dev.Index}); err != nil {
		_ = unix.Close(w.fd)
		return nil, fmt.Errorf("look at %s: %w", device, err)
	}
	go w.read()
	return w, nil
}

// Close ends it.
func (w *Wire) Close() {
	close(w.stop)
	<-w.done
	_ = unix.Close(w.fd)
}

// Clear is how often one of the secrets was to be read.
func (w *Wire) Clear() int64 { return w.clear.Load() }

// OnlySealed fails if one of the secrets was to be read, or if nothing was encrypted. It waits until all that has passed was looked at.
func (w *Wire) OnlySealed() error {
	rests, deadline := w.rests.Load(), time.Now().Add(time.Minute)
	for w.rests.Load() == rests && time.Now().Before(deadline) {
		time.Sleep(quiet / 10) //nolint:forbidigo // a polling helper
	}
	if sealed, clear := w.sealed.Load(), w.clear.Load(); sealed == 0 || clear != 0 {
		return fmt.Errorf("on the wire: %d encrypted packets, %d that say something", sealed, clear)
	}
	return nil
}

func (w *Wire) read() {
	defer close(w.done)
	buf := make([]byte, 1<<17)
	for {
		select {
		case <-w.stop:
			return
		default:
		}
		n, _, err := unix.Recvfrom(w.fd, buf, 0)
		if err != nil {
			w.rests.Add(1) // nothing came
			continue
		}
		if w.isSealed(buf[:n]) {
			w.sealed.Add(1)
		}
		for _, s := range w.secrets {
			if bytes.Contains(buf[:n], s) {
				w.clear.Add(1)
			}
		}
	}
}

// isSealed tells UDP packets to WireGuard's ports.
func (w *Wire) isSealed(frame []byte) bool {
	const ether, ip4, ip6 = 14, 20, 40
	at := ether + ip4
	switch {
	case len(frame) > ether+ip6+4 && frame[12] == 0x86 && frame[ether+6] == unix.IPPROTO_UDP:
		at = ether + ip6
	case len(frame) <= ether+ip4+4 || frame[12] != 0x08 || frame[ether+9] != unix.IPPROTO_UDP:
		return false
	}
	port := binary.BigEndian.Uint16(frame[at+2:])
	return port == w.port || port == w.port+1
}
