package dataplane

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// txChecksumOff makes the senders in a namespace compute checksums themselves, as
// ethtool -K tx off does: only then is every checksum that we rewrite looked at.
func txChecksumOff(ns, dev string) error {
	return in(ns, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		value := struct{ cmd, data uint32 }{unix.ETHTOOL_STXCSUM, 0}
		var request struct {
			name [unix.IFNAMSIZ]byte
			data unsafe.Pointer
			_    [16]byte
		}
		copy(request.name[:unix.IFNAMSIZ-1], dev)
		request.data = unsafe.Pointer(&value)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
		if errno != 0 {
			return fmt.Errorf("checksum offload of %s in %s: %w", dev, ns, errno)
		}
		return nil
	})
}

// offloadsOff switches checksum offload off on every device that something is sent from.
func (l *lab) offloadsOff() {
	l.t.Helper()
	for _, c := range l.tasks {
		l.check(txChecksumOff(c.ns, "eth0"))
		l.check(txChecksumOff(c.ns, "eth1"))
	}
	l.check(txChecksumOff(l.client, "eth0"))
	for _, n := range l.nodes {
		l.check(txChecksumOff(n.ns, "eth0"))
	}
}
