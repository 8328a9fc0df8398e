package overlay

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/overlay/link"
)

// Arrival is what arrived from a peer through the tunnel's UDP port.
type Arrival struct {
	// Small packets arrive, Full ones do: as large as the peer's link takes.
	Small, Full bool
	// Size is that of the peer's full packets in bytes, if any packet arrived.
	Size int
}

const (
	// reachType is an EtherType for local experiments (IEEE 802): nothing else in a tunnel has it.
	reachType = 0x88b5
	// reachEvery is the pause between two packets to the same peer.
	reachEvery = 200 * time.Millisecond
	// vxlanHeader and etherHeader are lengths in bytes (RFC 7348).
	vxlanHeader, etherHeader = 8, 14
	// leastFrame is the shortest Ethernet frame without its checksum.
	leastFrame = 60
)

// reachMagic begins what the frame carries; behind it stand the sender's address, the size of its full packets, and whether this is one.
var reachMagic = []byte("meshd reaches ")

// Reach has this node and its peers, which must do the same at the same time, send each other tunnel packets, and tells what arrived from
// whom until ctx ends. It asks nothing of the networks' state: only the way between the nodes is looked at.
func (o *Overlay) Reach(ctx context.Context) (map[netip.Addr]Arrival, error) {
	o.mu.Lock()
	s := o.desired()
	o.mu.Unlock()
	if !s.Local.IsValid() {
		return nil, errors.New("this node is in no swarm")
	}
	listener, err := link.Listen(link.VXLANName, reachType)
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	arrived := map[netip.Addr]Arrival{}
	var group errgroup.Group
	group.Go(func() error { return hear(ctx, listener, arrived) })
	for _, p := range s.Peers {
		group.Go(func() error {
			call(ctx, s, p.Addr)
			return nil
		})
	}
	return arrived, group.Wait()
}

// hear notes what arrives.
func hear(ctx context.Context, l *link.Listener, arrived map[netip.Addr]Arrival) error {
	buf := make([]byte, 1<<16)
	for ctx.Err() == nil {
		n, err := l.Next(buf, reachEvery)
		if err != nil {
			return err
		}
		if from, size, full, ok := parseReach(buf[:n]); ok {
			a := arrived[from]
			arrived[from] = Arrival{Small: a.Small || !full, Full: a.Full || full, Size: size}
		}
	}
	return nil
}

// call sends until ctx ends. What cannot be sent does not arrive, which is what the peer tells.
func call(ctx context.Context, s State, peer netip.Addr) {
	conn, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(s.Local, 0)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(peer, s.VXLANPort)))
	if err != nil {
		return
	}
	defer conn.Close()
	size := wholePackets(conn, is6(peer))
	tick := time.NewTicker(reachEvery)
	defer tick.Stop()
	for {
		for _, full := range []bool{false, true} {
			_, _ = conn.Write(reachPacket(s.Local, size, full)) // a refusal is the answer to an earlier one
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// wholePackets has a socket send no fragments, and returns the size in bytes of the largest packet that its link takes.
func wholePackets(conn *net.UDPConn, v6 bool) (size int) {
	level, discover, mtu := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_MTU
	if v6 {
		level, discover, mtu = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_MTU
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), level, discover, unix.IP_PMTUDISC_PROBE)
		size, _ = unix.GetsockoptInt(int(fd), level, mtu)
	})
	return size
}

// reachPacket is the payload of a tunnel's UDP packet: VXLAN header, Ethernet frame to nobody.
func reachPacket(self netip.Addr, size int, full bool) []byte {
	b := []byte{8, 0, 0, 0, 0, 0, 0, 0} // there is a VNI, 0, which no network has
	b = append(b, 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2)
	b = binary.BigEndian.AppendUint16(b, reachType)
	b = append(b, reachMagic...)
	from := self.As16()
	b = append(b, from[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(size))
	flag := byte(0)
	length := vxlanHeader + leastFrame
	if full {
		flag, length = 1, size-overhead(self)+etherHeader+vxlanHeader
	}
	b = append(b, flag)
	return append(b, make([]byte, max(0, length-len(b)))...)
}

// parseReach reads a frame.
func parseReach(frame []byte) (from netip.Addr, size int, full, ok bool) {
	if len(frame) < etherHeader {
		return from, 0, false, false
	}
	body, ok := bytes.CutPrefix(frame[etherHeader:], reachMagic)
	if !ok || len(body) < 16+4+1 {
		return from, 0, false, false
	}
	from = netip.AddrFrom16([16]byte(body[:16])).Unmap()
	return from, int(binary.BigEndian.Uint32(body[16:])), body[20] == 1, true
}

// String says it for people.
func (a Arrival) String() string {
	switch {
	case a.Full:
		return fmt.Sprintf("packets of %d bytes arrive", a.Size)
	case a.Small:
		return fmt.Sprintf("small packets arrive, those of %d bytes do not", a.Size)
	}
	return "nothing arrives"
}
