package dns

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"

	mdns "github.com/miekg/dns"
)

// outcome says what to do with a packet.
type outcome int

const (
	// drop: send nothing.
	drop outcome = iota
	// send the answer.
	send
	// forward the query to the client's upstreams.
	forward
)

// answer works a packet out as far as the tables go. The answer is appended to
// out[:0]; nothing is allocated when out is large enough. q is left parsed.
func (t *tables) answer(q *query, out, packet []byte, from netip.Addr, tcp bool) ([]byte, *client, outcome) {
	switch q.parse(packet) {
	case ignored:
		return nil, nil, drop
	case malformed:
		q.end, q.edns = 0, false
		return q.reply(out, mdns.RcodeFormatError), nil, send
	case unsupported:
		q.end, q.edns = 0, false
		out = q.reply(out, mdns.RcodeNotImplemented)
		out[2] |= packet[2] & opcodeMask
		return out, nil, send
	case parsed:
	}
	c := t.clients[from]
	if c == nil || q.class != mdns.ClassINET && q.class != mdns.ClassANY {
		return q.fail(out, mdns.RcodeRefused), c, send
	}
	if q.ednsVersion != 0 {
		return q.fail(out, mdns.RcodeBadVers), c, send
	}
	if !q.odd {
		if r := c.find(q.name); r != nil {
			return t.answerName(q, out, r, tcp), c, send
		}
		if addr, ok := reverseAddr(q.name); ok {
			if r := c.pointer(addr); r != nil {
				return t.answerPointer(q, out, r, tcp), c, send
			}
		}
	}
	if len(c.upstreams) == 0 {
		return q.fail(out, mdns.RcodeNameError), c, send
	}
	return nil, c, forward
}

func (t *tables) answerName(q *query, out []byte, r *records, tcp bool) []byte {
	out = q.reply(out, mdns.RcodeSuccess)
	out[2] |= flagAA
	count, full := 0, true
	if q.qtype == mdns.TypeA || q.qtype == mdns.TypeANY {
		out, count, full = rotate(out, r.v4, sizeA, q.room(tcp))
	}
	if full && (q.qtype == mdns.TypeAAAA || q.qtype == mdns.TypeANY) {
		var n int
		out, n, full = rotate(out, r.v6, sizeAAAA, q.room(tcp))
		count += n
	}
	if !full {
		out[2] |= flagTC
	}
	return t.close(q, out, count)
}

func (t *tables) answerPointer(q *query, out, r []byte, tcp bool) []byte {
	out = q.reply(out, mdns.RcodeSuccess)
	out[2] |= flagAA
	if q.qtype != mdns.TypePTR && q.qtype != mdns.TypeANY {
		return t.close(q, out, 0)
	}
	if len(out)+len(r) > q.room(tcp) {
		out[2] |= flagTC
		return q.finish(out, mdns.RcodeSuccess)
	}
	return t.close(q, append(out, r...), 1)
}

// close writes the number of answers; for want of any the SOA says how long that
// may be remembered.
func (t *tables) close(q *query, out []byte, count int) []byte {
	binary.BigEndian.PutUint16(out[6:], uint16(count))
	if count == 0 && out[2]&flagTC == 0 {
		out[9] = 1
		out = append(out, t.soa...)
	}
	return q.finish(out, mdns.RcodeSuccess)
}

// rotate appends records of equal size from a random one on, as many as fit, so
// that clients that take the first spread evenly.
func rotate(out, rrs []byte, size, room int) (_ []byte, count int, full bool) {
	n := len(rrs) / size
	if n == 0 {
		return out, 0, true
	}
	start := 0
	if n > 1 {
		start = rand.IntN(n) * size
	}
	fit := min(n, max(room-len(out), 0)/size)
	first := min(fit*size, len(rrs)-start)
	out = append(out, rrs[start:start+first]...)
	out = append(out, rrs[:fit*size-first]...)
	return out, fit, fit == n
}
