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
		if out, ok := t.answerOurs(q, out, c, tcp); ok {
			return out, c, send
		}
	}
	if c.decline {
		return q.fail(out, mdns.RcodeRefused), c, send
	}
	if len(c.upstreams) == 0 {
		return q.fail(out, mdns.RcodeNameError), c, send
	}
	return nil, c, forward
}

// answerOurs answers what others are not to be asked; false: they are.
func (t *tables) answerOurs(q *query, out []byte, c *client, tcp bool) ([]byte, bool) {
	if isLocalhost(q.name) {
		return t.answerName(q, out, t.localhost, tcp), true
	}
	if r := c.find(q.name); r != nil {
		return t.answerName(q, out, r, tcp), true
	}
	addr, ok := reverseAddr(q.name)
	if !ok {
		return nil, false
	}
	if r := c.pointer(addr); r != nil {
		return t.answerPointer(q, out, r, tcp), true
	}
	if hasLocalPointer(addr) {
		return t.answerPointer(q, out, t.localPointer, tcp), true
	}
	if t.onlyOurs(addr) {
		return t.answerUnknown(q, out), true
	}
	return nil, false
}

func (t *tables) answerName(q *query, out []byte, r *records, tcp bool) []byte {
	out = q.reply(out, mdns.RcodeSuccess)
	out[2] |= flagAA
	count, full := 0, true
	switch q.qtype {
	case mdns.TypeA:
		out, count, full = rotate(out, r.v4, sizeA, q.room(tcp))
	case mdns.TypeAAAA:
		out, count, full = rotate(out, r.v6, sizeAAAA, q.room(tcp))
	case mdns.TypeSRV:
		return t.answerServices(q, out, r.srv, tcp)
	case mdns.TypeANY:
		out, count = append(out, t.hinfo...), 1
	}
	if !full {
		out[2] |= flagTC
	}
	return t.close(q, out, count)
}

// answerServices lists SRV records from a random one on, as many as fit, and with
// them as many of their targets' addresses; a lack of those is no truncation
// (RFC 2181, 9).
func (t *tables) answerServices(q *query, out []byte, srv []serviceRecord, tcp bool) []byte {
	if len(srv) == 0 {
		return t.close(q, out, 0)
	}
	start, count, room := rand.IntN(len(srv)), 0, q.room(tcp)
	for ; count < len(srv); count++ {
		next := srv[(start+count)%len(srv)].record
		if len(out)+len(next) > room {
			out[2] |= flagTC
			break
		}
		out = append(out, next...)
	}
	extras := 0
	for i := range count {
		next := srv[(start+i)%len(srv)]
		if out[2]&flagTC != 0 || len(out)+len(next.extra) > room {
			break
		}
		out, extras = append(out, next.extra...), extras+next.extras
	}
	binary.BigEndian.PutUint16(out[10:], uint16(extras))
	return t.close(q, out, count)
}

func (t *tables) answerPointer(q *query, out, r []byte, tcp bool) []byte {
	out = q.reply(out, mdns.RcodeSuccess)
	out[2] |= flagAA
	switch q.qtype {
	case mdns.TypePTR:
	case mdns.TypeANY:
		return t.close(q, append(out, t.hinfo...), 1)
	default:
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
