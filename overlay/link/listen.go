package link

import (
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Listener takes frames of one EtherType as they arrive at a device, before any program or packet filter there sees them.
type Listener struct{ fd int }

// Listen opens one. It takes CAP_NET_RAW.
func Listen(device string, etherType uint16) (*Listener, error) {
	it, err := net.InterfaceByName(device)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", device, err)
	}
	// Nothing is received before the filter is on: protocol 0 is none.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	const atType = 12 // behind both MAC addresses
	program, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: atType, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(etherType), SkipFalse: 1},
		bpf.RetConstant{Val: 1 << 16},
		bpf.RetConstant{},
	})
	if err == nil {
		filter := make([]unix.SockFilter, len(program))
		for i, in := range program {
			filter[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
		}
		err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
	}
	if err == nil {
		// All: a listener for one type comes behind the programs on the device.
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: it.Index})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", device, err), unix.Close(fd))
	}
	return &Listener{fd}, nil
}

func networkOrder(v uint16) uint16 { return v<<8 | v>>8 }

// Next waits for a frame, which it writes to buf; 0 if none came in time.
func (l *Listener) Next(buf []byte, wait time.Duration) (int, error) {
	fds := []unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, int(max(0, wait.Milliseconds())))
	if n <= 0 || err != nil {
		if errors.Is(err, unix.EINTR) {
			err = nil
		}
		return 0, err
	}
	n, _, err = unix.Recvfrom(l.fd, buf, unix.MSG_DONTWAIT)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENETDOWN) { // the device is made anew
		return 0, nil
	}
	return n, err
}

// Close ends it.
func (l *Listener) Close() error { return unix.Close(l.fd) }
