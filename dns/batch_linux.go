package dns

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// batchSize is how many datagrams one system call may take or give.
	batchSize = 32
	// querySize is the longest query that is read whole; of longer ones the end is cut off.
	querySize = 4096
)

// batch takes queries from a socket and gives their answers many at a time
// (recvmmsg(2), sendmmsg(2)): under load the calls' own cost is shared, without
// load a batch is one query. It belongs to one goroutine and does not allocate.
type batch struct {
	raw syscall.RawConn
	// recv and send are the calls for raw, which would allocate if made each time.
	recv, send func(fd uintptr) bool
	// err and done are what the last call gave.
	err  syscall.Errno
	done int

	in, out       [batchSize]mmsghdr
	inIO, outIO   [batchSize]unix.Iovec
	names         [batchSize][unix.SizeofSockaddrInet6]byte
	queries       [batchSize][querySize]byte
	answers       [batchSize][]byte
	first, queued int // answers out[first:queued] are to be sent

	memory memInfo
	shares shares
}

// mmsghdr is the struct of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

func newBatch(conn *net.UDPConn) (*batch, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	b := &batch{raw: raw}
	for i := range batchSize {
		b.answers[i] = make([]byte, 0, ednsSize)
		b.inIO[i].Base = &b.queries[i][0]
		b.inIO[i].SetLen(querySize)
		b.in[i].hdr.Iov, b.in[i].hdr.Name = &b.inIO[i], &b.names[i][0]
		b.in[i].hdr.SetIovlen(1)
		b.out[i].hdr.Iov = &b.outIO[i]
		b.out[i].hdr.SetIovlen(1)
	}
	b.recv = func(fd uintptr) bool {
		ready := b.call(unix.SYS_RECVMMSG, fd, b.in[:])
		taken, room := uint32(0), uint32(1)
		if b.done == batchSize && b.err == 0 { // or else nothing waits behind them
			taken, room = b.memory.waiting(fd)
		}
		b.shares.begin(taken, room)
		return ready
	}
	b.send = func(fd uintptr) bool { return b.call(unix.SYS_SENDMMSG, fd, b.out[b.first:b.queued]) }
	return b, nil
}

// call is false if the socket is not ready.
func (b *batch) call(trap, fd uintptr, msgs []mmsghdr) bool {
	n, _, err := unix.Syscall6(trap, fd, uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)), unix.MSG_DONTWAIT, 0, 0)
	b.done, b.err = int(n), err
	return err != unix.EAGAIN
}

// read waits for queries and says how many there are.
func (b *batch) read() (int, error) {
	for i := range b.in {
		b.in[i].hdr.Namelen = unix.SizeofSockaddrInet6
	}
	b.first, b.queued = 0, 0
	if err := b.raw.Read(b.recv); err != nil {
		return 0, err
	}
	if b.err != 0 {
		return 0, os.NewSyscallError("recvmmsg", b.err)
	}
	return b.done, nil
}

// query is the i-th of those that were read, valid until the next read.
func (b *batch) query(i int) (packet []byte, from netip.AddrPort) {
	name := b.names[i][:]
	port := binary.BigEndian.Uint16(name[2:])
	if binary.NativeEndian.Uint16(name) == unix.AF_INET {
		return b.queries[i][:b.in[i].len], netip.AddrPortFrom(netip.AddrFrom4([4]byte(name[4:8])), port)
	}
	addr := netip.AddrFrom16([16]byte(name[8:24]))
	if scope := binary.NativeEndian.Uint32(name[24:]); scope != 0 {
		addr = addr.WithZone(strconv.FormatUint(uint64(scope), 10))
	}
	return b.queries[i][:b.in[i].len], netip.AddrPortFrom(addr, port)
}

// buffer is where the i-th answer may be made.
func (b *batch) buffer(i int) []byte { return b.answers[i][:0] }

// add queues the answer to the i-th query.
func (b *batch) add(i int, answer []byte) {
	if len(answer) == 0 {
		return
	}
	b.answers[i] = answer[:0] // it may have grown
	m := &b.out[b.queued]
	m.hdr.Name, m.hdr.Namelen = &b.names[i][0], b.in[i].hdr.Namelen
	b.outIO[b.queued].Base = &answer[0]
	b.outIO[b.queued].SetLen(len(answer))
	b.queued++
}

// flush sends what was queued. One that cannot be sent is lost like any datagram,
// and the last such error returned.
func (b *batch) flush() (failure error) {
	for b.first < b.queued {
		if err := b.raw.Write(b.send); err != nil {
			return err
		}
		if b.err != 0 {
			failure = os.NewSyscallError("sendmmsg", b.err)
			b.done = 1
		}
		b.first += b.done
	}
	return failure
}
