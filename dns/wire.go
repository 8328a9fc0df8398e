package dns

import (
	"encoding/binary"

	mdns "github.com/miekg/dns"
)

const (
	headerSize = 12
	// maxName is the longest name in wire form (RFC 1035, 2.3.4).
	maxName = 255
	// plainSize is the largest UDP answer for who says nothing else (RFC 1035, 4.2.1).
	plainSize = 512
	// ednsSize is the largest we send and accept over UDP: it is never fragmented.
	ednsSize = 1232
	// maxExtra bounds the records after the question of a query.
	maxExtra = 8
)

// Flags of the third and fourth byte of a header.
const (
	flagQR     = 0x80
	flagAA     = 0x04
	flagTC     = 0x02
	flagRD     = 0x01
	flagRA     = 0x80
	flagCD     = 0x10
	opcodeMask = 0x78
)

// query is what a packet asks. It refers to the packet and can be reused.
type query struct {
	packet []byte
	// end is where the question ends.
	end int
	// name is lower case, without a final dot; it lies in buf.
	name []byte
	buf  [maxName]byte
	// odd: a label holds a dot, so name is not to be looked up.
	odd         bool
	qtype       uint16
	class       uint16
	edns, do    bool
	ednsVersion byte
	udpSize     int
}

// verdict is what became of a packet.
type verdict int

const (
	parsed verdict = iota
	// ignored: not a query, or too short to answer.
	ignored
	malformed
	unsupported
)

// parse reads a query (RFC 1035, 4.1).
func (q *query) parse(p []byte) verdict {
	q.packet, q.end, q.name = p, 0, q.buf[:0]
	q.odd, q.edns, q.do, q.ednsVersion, q.udpSize = false, false, false, 0, plainSize
	if len(p) < headerSize || p[2]&flagQR != 0 {
		return ignored
	}
	if p[2]&opcodeMask != 0 {
		return unsupported
	}
	if binary.BigEndian.Uint16(p[4:]) != 1 {
		return malformed
	}
	i := q.parseName()
	if i < 0 || i+4 > len(p) {
		return malformed
	}
	q.qtype, q.class = binary.BigEndian.Uint16(p[i:]), binary.BigEndian.Uint16(p[i+2:])
	q.end = i + 4
	before := int(binary.BigEndian.Uint16(p[6:])) + int(binary.BigEndian.Uint16(p[8:]))
	extra := before + int(binary.BigEndian.Uint16(p[10:]))
	if extra > maxExtra {
		return malformed
	}
	i = q.end
	for k := range extra {
		if i = q.parseExtra(i, k >= before); i < 0 {
			return malformed
		}
	}
	return parsed
}

// parseName reads the question's name and returns where it ends, -1 if it is broken.
func (q *query) parseName() int {
	p, i := q.packet, headerSize
	for {
		if i >= len(p) || p[i] > 63 { // a pointer has nothing to point to yet
			return -1
		}
		n := int(p[i])
		i++
		if n == 0 {
			return i
		}
		if i+n > len(p) || i+n-headerSize >= maxName {
			return -1
		}
		if len(q.name) > 0 {
			q.name = append(q.name, '.')
		}
		for _, c := range p[i : i+n] {
			q.odd = q.odd || c == '.'
			q.name = append(q.name, c)
		}
		i += n
		lower(q.name[len(q.name)-n:])
	}
}

// parseExtra reads the record at i and returns where it ends, -1 if it is broken.
func (q *query) parseExtra(i int, additional bool) int {
	p, start := q.packet, i
	for {
		if i >= len(p) {
			return -1
		}
		n := int(p[i])
		i++
		if n >= 0xc0 {
			i++
			break
		}
		if n > 63 {
			return -1
		}
		if n == 0 {
			break
		}
		i += n
	}
	if i+10 > len(p) {
		return -1
	}
	end := i + 10 + int(binary.BigEndian.Uint16(p[i+8:]))
	if end > len(p) {
		return -1
	}
	if binary.BigEndian.Uint16(p[i:]) != mdns.TypeOPT {
		return end
	}
	if q.edns || !additional || i != start+1 { // one OPT, owned by the root (RFC 6891, 6.1)
		return -1
	}
	for at := i + 10; at < end; { // options: code, length, data; none that we know
		if at+4 > end {
			return -1
		}
		if at += 4 + int(binary.BigEndian.Uint16(p[at+2:])); at > end {
			return -1
		}
	}
	q.edns, q.ednsVersion, q.do = true, p[i+5], p[i+6]&0x80 != 0
	q.udpSize = min(max(int(binary.BigEndian.Uint16(p[i+2:])), plainSize), ednsSize)
	return end
}

// optSize is the length of the OPT record that answers carry.
const optSize = 11

// reply begins an answer with the header and the question as it was asked.
func (q *query) reply(out []byte, rcode int) []byte {
	p := q.packet
	out = append(out[:0], p[0], p[1], flagQR|p[2]&flagRD, flagRA|p[3]&flagCD|byte(rcode&0xf), 0, 0, 0, 0, 0, 0, 0, 0)
	if q.end > 0 {
		out[5] = 1
		out = append(out, p[headerSize:q.end]...)
	}
	return out
}

// finish ends an answer with the OPT record if the query had one.
func (q *query) finish(out []byte, rcode int) []byte {
	if !q.edns {
		return out
	}
	binary.BigEndian.PutUint16(out[10:], binary.BigEndian.Uint16(out[10:])+1)
	var do byte
	if q.do {
		do = 0x80
	}
	return append(out, 0, 0, byte(mdns.TypeOPT), ednsSize>>8, ednsSize&0xff, byte(rcode>>4), 0, do, 0, 0, 0)
}

// fail is an answer that is nothing but a code.
func (q *query) fail(out []byte, rcode int) []byte {
	return q.finish(q.reply(out, rcode), rcode)
}

// room is how many bytes an answer may have; tcp ones may be as long as a length says.
func (q *query) room(tcp bool) int {
	n := q.udpSize
	if tcp {
		n = 1<<16 - 1
	}
	if q.edns {
		n -= optSize
	}
	return n
}
