package dns

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	mdns "github.com/miekg/dns"
)

// Names that no upstream is asked for, whether or not a zone knows them: loopback's
// (RFC 6761, 6.3; RFC 6303, 4), and those of addresses that can only be ours.

// isLocalhost says whether a name is localhost or ends so; it is lower case.
func isLocalhost(name []byte) bool {
	rest, ok := bytes.CutSuffix(name, []byte("localhost"))
	return ok && (len(rest) == 0 || rest[len(rest)-1] == '.')
}

// localhost is what such names stand for.
func localhost(ttl uint32) *records {
	return compileAddrs(self(), []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}, ttl)
}

// hasLocalPointer says whether an address is localhost's; others of loopback have no name.
func hasLocalPointer(a netip.Addr) bool {
	return a == netip.AddrFrom4([4]byte{127, 0, 0, 1}) || a == netip.IPv6Loopback()
}

// localPointer is the record of such an address.
func localPointer(ttl uint32) []byte {
	return record(nil, mdns.TypePTR, ttl, wireName("localhost"))
}

// onlyOurs says whether nobody else can know whose an address is.
func (t *tables) onlyOurs(a netip.Addr) bool {
	if a.IsLoopback() || a.IsUnspecified() {
		return true
	}
	for _, p := range t.ours {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// answerUnknown says that there is no such name, and for how long that holds (RFC 2308, 3).
func (t *tables) answerUnknown(q *query, out []byte) []byte {
	out = q.reply(out, mdns.RcodeNameError)
	out[2] |= flagAA
	binary.BigEndian.PutUint16(out[8:], 1)
	return q.finish(append(out, t.soa...), mdns.RcodeNameError)
}
