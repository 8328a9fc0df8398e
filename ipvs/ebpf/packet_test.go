package ebpf

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

// frame is an IPv4 or IPv6 packet in an Ethernet frame, as the tests write and read it.
type frame struct {
	proto        uint8
	src, dst     netip.AddrPort
	flags        uint8  // TCP
	seq, ack     uint32 // TCP
	id           uint16
	offset       uint16 // of a fragment, in bytes
	more         bool
	payload      []byte
	noChecksum   bool // UDP without one
	options      []byte
	icmpType     uint8
	icmpRest     uint32 // read only: the word before the quotation
	whole        bool   // IPv4: not to be fragmented
	sumOK, ipOK  bool   // read only
	transportLen int
	note         [4]byte // the end of the source MAC, if not zero
}

const (
	fin = 0x01
	syn = 0x02
	rst = 0x04
	ack = 0x10
)

func sum(parts ...[]byte) uint32 {
	var s uint32
	for _, p := range parts {
		for i := 0; i+1 < len(p); i += 2 {
			s += uint32(binary.BigEndian.Uint16(p[i:]))
		}
		if len(p)%2 == 1 {
			s += uint32(p[len(p)-1]) << 8
		}
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return s
}

func pseudoHeader(f frame, n int) []byte {
	if f.src.Addr().Is6() {
		s, d := f.src.Addr().As16(), f.dst.Addr().As16()
		b := append(append([]byte{}, s[:]...), d[:]...)
		return append(binary.BigEndian.AppendUint32(b, uint32(n)), 0, 0, 0, f.proto)
	}
	b := make([]byte, 12)
	s, d := f.src.Addr().As4(), f.dst.Addr().As4()
	copy(b, s[:])
	copy(b[4:], d[:])
	b[9] = f.proto
	binary.BigEndian.PutUint16(b[10:], uint16(n))
	return b
}

// transport makes the part behind the IP header; of a later fragment just bytes.
func (f frame) transport() []byte {
	if f.offset > 0 {
		return f.payload
	}
	var b []byte
	var at int
	switch f.proto {
	case 6:
		b = make([]byte, 20)
		binary.BigEndian.PutUint32(b[4:], f.seq)
		binary.BigEndian.PutUint32(b[8:], f.ack)
		b[12], b[13] = 5<<4, f.flags
		at = 16
	case 17:
		b = make([]byte, 8)
		binary.BigEndian.PutUint16(b[4:], uint16(8+len(f.payload)))
		at = 6
	case 1, 58:
		b = make([]byte, 8)
		b[0] = f.icmpType
		b = append(b, f.payload...)
		binary.BigEndian.PutUint16(b[2:], ^uint16(sum(f.icmpPseudo(len(b)), b)))
		return b
	}
	if b == nil {
		return f.payload
	}
	binary.BigEndian.PutUint16(b, f.src.Port())
	binary.BigEndian.PutUint16(b[2:], f.dst.Port())
	b = append(b, f.payload...)
	if !f.noChecksum {
		binary.BigEndian.PutUint16(b[at:], ^uint16(sum(pseudoHeader(f, len(b)), b)))
	}
	return b
}

// icmpPseudo is what an ICMP checksum covers beside the message: ICMPv6's only.
func (f frame) icmpPseudo(n int) []byte {
	if f.proto == 58 {
		return pseudoHeader(f, n)
	}
	return nil
}

// bytes6 is an IPv6 packet; of a fragment with its header (RFC 8200 4.5), and with
// options, which are taken for a hop-by-hop header.
func (f frame) bytes6() []byte {
	l4, proto := f.transport(), f.proto
	var extensions []byte
	if f.offset > 0 || f.more {
		at := f.offset
		if f.more {
			at |= 1
		}
		extensions = append([]byte{proto, 0}, binary.BigEndian.AppendUint16(nil, at)...)
		extensions = append(extensions, 0, 0, byte(f.id>>8), byte(f.id))
		proto = 44
	}
	if f.options != nil {
		extensions = append([]byte{proto, 0, 1, 4, 0, 0, 0, 0}, extensions...)
		proto = 0
	}
	b := make([]byte, 54)
	copy(b, "\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02\x86\xdd")
	ip := b[14:]
	ip[0] = 0x60
	binary.BigEndian.PutUint16(ip[4:], uint16(len(extensions)+len(l4)))
	ip[6], ip[7] = proto, 64
	s, d := f.src.Addr().As16(), f.dst.Addr().As16()
	copy(ip[8:], s[:])
	copy(ip[24:], d[:])
	return append(append(b, extensions...), l4...)
}

func (f frame) bytes() []byte {
	build := frame.bytes4
	if f.src.Addr().Is6() {
		build = frame.bytes6
	}
	b := build(f)
	if f.note != [4]byte{} {
		copy(b[8:], f.note[:])
	}
	return b
}

func (f frame) bytes4() []byte {
	l4 := f.transport()
	b := make([]byte, 34, 34+len(f.options)+len(l4))
	copy(b, "\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02\x08\x00")
	ip := b[14:]
	ip[0] = 0x40 | byte((20+len(f.options))/4)
	binary.BigEndian.PutUint16(ip[2:], uint16(20+len(f.options)+len(l4)))
	binary.BigEndian.PutUint16(ip[4:], f.id)
	frag := f.offset / 8
	if f.more {
		frag |= 0x2000
	}
	if f.whole {
		frag |= 0x4000
	}
	binary.BigEndian.PutUint16(ip[6:], frag)
	ip[8], ip[9] = 64, f.proto
	s, d := f.src.Addr().As4(), f.dst.Addr().As4()
	copy(ip[12:], s[:])
	copy(ip[16:], d[:])
	b = append(b, f.options...)
	binary.BigEndian.PutUint16(b[24:], ^uint16(sum(b[14:])))
	return append(b, l4...)
}

// parseFrame reads a packet and verifies its checksums.
func parseFrame(t *testing.T, b []byte) frame {
	t.Helper()
	if len(b) < 34 {
		t.Fatalf("short packet: %x", b)
	}
	var f frame
	var l4 []byte
	if b[12] == 0x86 {
		f, l4 = parseHeader6(t, b[14:])
	} else {
		f, l4 = parseHeader4(t, b[14:])
	}
	src, dst := f.src.Addr(), f.dst.Addr()
	if f.offset > 0 {
		f.payload, f.sumOK = l4, true
		return f
	}
	switch f.proto {
	case 6, 17:
		f.src = netip.AddrPortFrom(src, binary.BigEndian.Uint16(l4))
		f.dst = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(l4[2:]))
		f.sumOK = sum(pseudoHeader(f, len(l4)), l4) == 0xffff
	case 1, 58:
		f.icmpType, f.icmpRest, f.payload = l4[0], binary.BigEndian.Uint32(l4[4:]), l4[8:]
		f.sumOK = sum(f.icmpPseudo(len(l4)), l4) == 0xffff
	}
	if f.proto == 6 {
		f.seq, f.ack, f.flags = binary.BigEndian.Uint32(l4[4:]), binary.BigEndian.Uint32(l4[8:]), l4[13]
		f.payload = l4[int(l4[12]>>4)*4:]
	}
	if f.proto == 17 {
		f.noChecksum = l4[6] == 0 && l4[7] == 0
		f.sumOK = f.sumOK || f.noChecksum
		f.payload = l4[8:]
	}
	return f
}

func parseHeader4(t *testing.T, ip []byte) (frame, []byte) {
	t.Helper()
	ihl := int(ip[0]&15) * 4
	total := int(binary.BigEndian.Uint16(ip[2:]))
	if total > len(ip) {
		t.Fatalf("packet of %d bytes says it has %d", len(ip), total)
	}
	frag := binary.BigEndian.Uint16(ip[6:])
	return frame{
		proto: ip[9], id: binary.BigEndian.Uint16(ip[4:]), offset: frag & 0x1fff * 8, more: frag&0x2000 != 0,
		ipOK: sum(ip[:ihl]) == 0xffff, sumOK: ip[9] == 132, transportLen: total - ihl,
		src: netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[12:16])), 0), dst: netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[16:20])), 0),
	}, ip[ihl:total]
}

func parseHeader6(t *testing.T, ip []byte) (frame, []byte) {
	t.Helper()
	total := 40 + int(binary.BigEndian.Uint16(ip[4:]))
	if total > len(ip) {
		t.Fatalf("packet of %d bytes says it has %d", len(ip), total)
	}
	f := frame{
		proto: ip[6], ipOK: ip[0]>>4 == 6,
		src: netip.AddrPortFrom(netip.AddrFrom16([16]byte(ip[8:24])), 0), dst: netip.AddrPortFrom(netip.AddrFrom16([16]byte(ip[24:40])), 0),
	}
	at := 40
	for f.proto == 0 || f.proto == 44 {
		if f.proto == 44 {
			frag := binary.BigEndian.Uint16(ip[at+2:])
			f.offset, f.more, f.id = frag&0xfff8, frag&1 != 0, binary.BigEndian.Uint16(ip[at+6:])
		}
		f.proto = ip[at]
		at += 8
	}
	f.sumOK, f.transportLen = f.proto == 132, total-at
	return f, ip[at:total]
}

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func tcp(src, dst string, flags uint8) frame {
	return frame{proto: 6, src: ap(src), dst: ap(dst), flags: flags, seq: 1000, ack: 2000}
}

func udp(src, dst, payload string) frame {
	return frame{proto: 17, src: ap(src), dst: ap(dst), payload: []byte(payload)}
}
