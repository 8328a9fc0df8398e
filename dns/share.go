package dns

import (
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Of what one client may have answered out of a batch when queries pile up. Sending
// the answer is most of a query's cost, so that a socket is emptied faster than one
// client can fill it, and the kernel has not to drop what others ask.
const (
	// shareCrowded holds when half of the socket's room is taken.
	shareCrowded = 4
	// shareFull holds when three quarters are.
	shareFull = 1
)

// shares counts what clients had of one batch.
type shares struct {
	limit   int
	clients int
	who     [batchSize]netip.Addr
	had     [batchSize]int
}

// begin starts a batch, behind which `waiting` of `room` bytes are taken.
func (s *shares) begin(waiting, room uint32) {
	s.clients = 0
	switch {
	case uint64(waiting)*4 >= uint64(room)*3:
		s.limit = shareFull
	case uint64(waiting)*2 >= uint64(room):
		s.limit = shareCrowded
	default:
		s.limit = batchSize
	}
}

// take is false when the client had its share.
func (s *shares) take(from netip.Addr) bool {
	if s.limit == batchSize {
		return true
	}
	for i := range s.clients {
		if s.who[i] == from {
			s.had[i]++
			return s.had[i] <= s.limit
		}
	}
	s.who[s.clients], s.had[s.clients] = from, 1
	s.clients++
	return true
}

// memInfo is what SO_MEMINFO gives: nine words (linux/sock_diag.h).
type memInfo struct {
	received, receiveRoom uint32
	_                     [7]uint32
}

// waiting says how much of a socket's room for what it received is taken. One that
// cannot tell has room.
func (m *memInfo) waiting(fd uintptr) (taken, room uint32) {
	size := uint32(unsafe.Sizeof(*m))
	_, _, err := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(m)), uintptr(unsafe.Pointer(&size)), 0)
	if err != 0 {
		return 0, 1
	}
	return m.received, m.receiveRoom
}
