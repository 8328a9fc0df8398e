package dns

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	mdns "github.com/miekg/dns"
)

// tables is a State made ready to answer from. It is never modified.
type tables struct {
	// listen is State.Listen, each address once.
	listen  []netip.AddrPort
	clients map[netip.Addr]*client
	// soa is the record in the authority section of empty answers.
	soa []byte
}

type client struct {
	names     map[string]*records
	zones     []*zone
	upstreams []netip.AddrPort
}

type zone struct {
	names   map[string]*records
	reverse map[netip.Addr][]byte
	// suffix is ".<network>".
	suffix []byte
}

// records are the answers for a name, as resource records whose owner is a
// pointer to the question.
type records struct {
	v4, v6 []byte
}

func (r *records) empty() bool { return len(r.v4)+len(r.v6) == 0 }

const (
	sizeA    = 12 + 4
	sizeAAAA = 12 + 16
)

// compile makes tables; answers live for ttl.
func compile(s State, ttl time.Duration) *tables {
	seconds := uint32(ttl / time.Second)
	t := &tables{clients: make(map[netip.Addr]*client, len(s.Clients)), soa: soa(seconds)}
	for _, a := range s.Listen {
		if a = unmap(a); !slices.Contains(t.listen, a) {
			t.listen = append(t.listen, a)
		}
	}
	zones := make(map[string]*zone, len(s.Zones))
	for id, z := range s.Zones {
		zones[id] = compileZone(z, seconds)
	}
	for addr, c := range s.Clients {
		out := &client{names: make(map[string]*records, len(c.Names)), upstreams: s.Upstreams}
		if len(c.Upstreams) > 0 {
			out.upstreams = c.Upstreams
		}
		for name, addrs := range c.Names {
			out.names[lowerString(name)] = compileAddrs(addrs, seconds)
		}
		for _, id := range c.Zones {
			if z := zones[id]; z != nil {
				out.zones = append(out.zones, z)
			}
		}
		t.clients[addr.Unmap()] = out
	}
	return t
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

func compileZone(z Zone, ttl uint32) *zone {
	out := &zone{
		names:   make(map[string]*records, len(z.Names)),
		reverse: make(map[netip.Addr][]byte, len(z.Reverse)),
		suffix:  append([]byte{'.'}, lower([]byte(z.Network))...),
	}
	for name, n := range z.Names {
		out.names[lowerString(name)] = compileAddrs(n.Addrs, ttl)
	}
	for addr, name := range z.Reverse {
		target := make([]byte, 256)
		n, err := mdns.PackDomainName(mdns.Fqdn(name), target, 0, nil, false)
		if err != nil {
			continue // a name that DNS cannot carry has no PTR
		}
		out.reverse[addr.Unmap()] = record(nil, mdns.TypePTR, ttl, target[:n])
	}
	return out
}

func compileAddrs(addrs []netip.Addr, ttl uint32) *records {
	r := &records{}
	for _, a := range addrs {
		if a = a.Unmap(); a.Is4() {
			r.v4 = record(r.v4, mdns.TypeA, ttl, a.AsSlice())
		} else if a.Is6() {
			r.v6 = record(r.v6, mdns.TypeAAAA, ttl, a.AsSlice())
		}
	}
	return r
}

// record appends a resource record of class IN whose owner is the question's
// name, which always stands at offset 12 (RFC 1035, 4.1.4).
func record(out []byte, typ uint16, ttl uint32, data []byte) []byte {
	out = append(out, 0xc0, headerSize)
	out = binary.BigEndian.AppendUint16(out, typ)
	out = binary.BigEndian.AppendUint16(out, mdns.ClassINET)
	out = binary.BigEndian.AppendUint32(out, ttl)
	out = binary.BigEndian.AppendUint16(out, uint16(len(data)))
	return append(out, data...)
}

// soa says how long "no such record" may be kept (RFC 2308): the name itself is
// taken for the top of its zone.
func soa(ttl uint32) []byte {
	data := []byte{0xc0, headerSize, 0xc0, headerSize}
	for _, v := range []uint32{1, 3600, 600, 86400, ttl} { // serial, refresh, retry, expire, minimum
		data = binary.BigEndian.AppendUint32(data, v)
	}
	return record(nil, mdns.TypeSOA, ttl, data)
}

// find looks a name up as the client sees it: its own names, then its zones in
// order, first as it is, then without the network's name. A zone that knows the
// name without an address gives way to a later one that has one. nil: unknown.
func (c *client) find(name []byte) *records {
	best := c.names[string(name)]
	if best != nil && !best.empty() {
		return best
	}
	for _, z := range c.zones {
		if best = better(best, z.names[string(name)]); best != nil && !best.empty() {
			return best
		}
	}
	for _, z := range c.zones {
		if short, ok := bytes.CutSuffix(name, z.suffix); ok && len(z.suffix) > 1 {
			if best = better(best, z.names[string(short)]); best != nil && !best.empty() {
				return best
			}
		}
	}
	return best
}

func better(a, b *records) *records {
	if b == nil || a != nil && b.empty() {
		return a
	}
	return b
}

// pointer returns the PTR record of an address on one of the client's networks.
func (c *client) pointer(addr netip.Addr) []byte {
	for _, z := range c.zones {
		if r := z.reverse[addr]; r != nil {
			return r
		}
	}
	return nil
}

// reverseAddr reads 4.3.2.1.in-addr.arpa and its ip6.arpa sibling (RFC 1035, 3.5;
// RFC 3596, 2.5). name is lower case without a final dot.
func reverseAddr(name []byte) (netip.Addr, bool) {
	if rest, ok := bytes.CutSuffix(name, []byte(".in-addr.arpa")); ok {
		return reverse4(rest)
	}
	if rest, ok := bytes.CutSuffix(name, []byte(".ip6.arpa")); ok {
		return reverse6(rest)
	}
	return netip.Addr{}, false
}

func reverse4(s []byte) (netip.Addr, bool) {
	var a [4]byte
	i, digits, v := 3, 0, 0
	for k := 0; ; k++ {
		if k == len(s) || s[k] == '.' {
			if digits == 0 || v > 255 || i < 0 {
				return netip.Addr{}, false
			}
			a[i] = byte(v)
			i, digits, v = i-1, 0, 0
			if k == len(s) {
				return netip.AddrFrom4(a), i == -1
			}
			continue
		}
		if s[k] < '0' || s[k] > '9' || digits == 3 {
			return netip.Addr{}, false
		}
		v, digits = v*10+int(s[k]-'0'), digits+1
	}
}

func reverse6(s []byte) (netip.Addr, bool) {
	if len(s) != 63 {
		return netip.Addr{}, false
	}
	var a [16]byte
	for i := range 32 {
		c := s[2*i]
		v := slices.Index([]byte("0123456789abcdef"), c)
		if v < 0 || i < 31 && s[2*i+1] != '.' {
			return netip.Addr{}, false
		}
		a[15-i/2] |= byte(v) << (4 * (i % 2))
	}
	return netip.AddrFrom16(a), true
}

// lower turns ASCII letters to lower case, in place.
func lower(b []byte) []byte {
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return b
}

func lowerString(s string) string { return string(lower([]byte(s))) }
