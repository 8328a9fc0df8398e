package dns

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	mdns "github.com/miekg/dns"
)

// tables is a State made ready to answer from. It is never modified.
type tables struct {
	// listen is State.Listen, each address once.
	listen  []netip.AddrPort
	clients map[netip.Addr]*client
	zones   map[string]*zone
	// soa is the record in the authority section of empty answers.
	soa []byte
	// hinfo answers queries for ANY (RFC 8482).
	hinfo []byte
	// ours is State.Ours.
	ours []netip.Prefix
	// localhost and localPointer are loopback's name and its addresses' record.
	localhost    *records
	localPointer []byte
}

type client struct {
	names     map[string]*records
	zones     []*zone
	upstreams []netip.AddrPort
	decline   bool
}

type zone struct {
	// from is what the rest was made of, with answers that live for ttl.
	from    Zone
	ttl     uint32
	names   map[string]*records
	reverse map[netip.Addr][]byte
	// suffix is ".<network>".
	suffix []byte
}

// records are the answers for a name, as resource records whose owner is a
// pointer to the question.
type records struct {
	// from is what the rest was made of.
	from   Name
	v4, v6 []byte
	srv    []serviceRecord
}

// serviceRecord is an SRV record with its target's addresses for the additional section.
type serviceRecord struct {
	record []byte
	extra  []byte
	extras int
}

func (r *records) empty() bool { return len(r.v4)+len(r.v6)+len(r.srv) == 0 }

const (
	sizeA    = 12 + 4
	sizeAAAA = 12 + 16
)

// compile makes tables; answers live for ttl.
func compile(s State, ttl time.Duration) *tables { return compileAfter(nil, s, ttl) }

// compileAfter takes over what former tables, if any, have of the same: a State
// differs from the one before it in little.
func compileAfter(former *tables, s State, ttl time.Duration) *tables {
	if former == nil {
		former = &tables{}
	}
	seconds := uint32(ttl / time.Second)
	t := &tables{
		clients: make(map[netip.Addr]*client, len(s.Clients)),
		soa:     soa(seconds),
		hinfo:   record(nil, mdns.TypeHINFO, seconds, []byte("\x07RFC8482\x00")),
		ours:    s.Ours,

		localhost: localhost(seconds), localPointer: localPointer(seconds),
	}
	for _, a := range s.Listen {
		if a = unmap(a); !slices.Contains(t.listen, a) {
			t.listen = append(t.listen, a)
		}
	}
	t.zones = make(map[string]*zone, len(s.Zones))
	for id, z := range s.Zones {
		t.zones[id] = compileZone(z, seconds, former.zones[id])
	}
	for addr, c := range s.Clients {
		out := &client{names: make(map[string]*records, len(c.Names)), upstreams: s.Upstreams, decline: c.Decline}
		if len(c.Upstreams) > 0 {
			out.upstreams = c.Upstreams
		}
		for name, addrs := range c.Names {
			out.names[lowerString(name)] = compileAddrs(self(), addrs, seconds)
		}
		for _, id := range c.Zones {
			if z := t.zones[id]; z != nil {
				out.zones = append(out.zones, z)
			}
		}
		t.clients[addr.Unmap()] = out
	}
	return t
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// compileZone makes a zone; what former, if any, has of the same is taken over.
func compileZone(z Zone, ttl uint32, former *zone) *zone {
	if former == nil || former.ttl != ttl || former.from.Network != z.Network {
		former = &zone{}
	}
	if sameMap(former.from.Names, z.Names) && sameMap(former.from.Reverse, z.Reverse) {
		return former
	}
	out := &zone{
		from: z, ttl: ttl,
		names:   make(map[string]*records, len(z.Names)),
		reverse: make(map[netip.Addr][]byte, len(z.Reverse)),
		suffix:  append([]byte{'.'}, lower([]byte(z.Network))...),
	}
	for name, n := range z.Names {
		key := lowerString(name)
		if r := former.names[key]; r != nil && unchanged(r.from, n, former.from, z) {
			out.names[key] = r
		} else {
			out.names[key] = compileName(z, n, ttl)
		}
	}
	for addr, name := range z.Reverse {
		if was, ok := former.from.Reverse[addr]; ok && was == name {
			if r := former.reverse[addr.Unmap()]; r != nil {
				out.reverse[addr.Unmap()] = r
			}
			continue
		}
		if target := wireName(name); target != nil { // a name that DNS cannot carry has no PTR
			out.reverse[addr.Unmap()] = record(nil, mdns.TypePTR, ttl, target)
		}
	}
	return out
}

func compileName(z Zone, n Name, ttl uint32) *records {
	own := secondsOf(n.TTL, ttl)
	r := compileAddrs(self(), n.Addrs, own)
	r.from = n
	for _, t := range n.Targets {
		if srv, ok := compileTarget(z, t, own); ok {
			r.srv = append(r.srv, srv)
		}
	}
	return r
}

// unchanged says whether a name is what it was, and its targets are in their zone.
func unchanged(was, is Name, former, z Zone) bool {
	if was.TTL != is.TTL || !slices.Equal(was.Addrs, is.Addrs) || !slices.Equal(was.Targets, is.Targets) {
		return false
	}
	return !slices.ContainsFunc(is.Targets, func(t Target) bool {
		target := lowerString(t.Name)
		return !slices.Equal(former.Names[target].Addrs, z.Names[target].Addrs)
	})
}

// sameMap says whether two maps are one.
func sameMap[K comparable, V any](a, b map[K]V) bool {
	return reflect.ValueOf(a).Pointer() == reflect.ValueOf(b).Pointer() && len(a) == len(b) && a != nil
}

// secondsOf is a name's time to live.
func secondsOf(ttl time.Duration, otherwise uint32) uint32 {
	switch {
	case ttl == 0:
		return otherwise
	case ttl < 0:
		return 0
	}
	return uint32(min(ttl/time.Second, 1<<31-1)) // RFC 2181, 8
}

// compileTarget makes the record of a target that DNS can carry. All targets of a
// name are equal; a weight of 0 would make clients take the first (RFC 2782).
func compileTarget(z Zone, t Target, ttl uint32) (serviceRecord, bool) {
	const priority, weight = 0, 1
	name := t.Name
	if z.Network != "" {
		name += "." + z.Network
	}
	wire := wireName(name)
	if wire == nil {
		return serviceRecord{}, false
	}
	data := binary.BigEndian.AppendUint16(nil, priority)
	data = binary.BigEndian.AppendUint16(data, weight)
	data = binary.BigEndian.AppendUint16(data, t.Port)
	out := serviceRecord{record: record(nil, mdns.TypeSRV, ttl, append(data, wire...))}
	r := compileAddrs(wire, z.Names[lowerString(t.Name)].Addrs, ttl)
	apart := len(wire) - len(self()) // by how much these records are longer than others
	out.extra = append(r.v4, r.v6...)
	out.extras = len(r.v4)/(sizeA+apart) + len(r.v6)/(sizeAAAA+apart)
	return out, true
}

// wireName is a name as DNS carries it, nil if it cannot.
func wireName(name string) []byte {
	target := make([]byte, maxName+1)
	n, err := mdns.PackDomainName(mdns.Fqdn(name), target, 0, nil, false)
	if err != nil || n > maxName {
		return nil
	}
	return target[:n]
}

func compileAddrs(owner []byte, addrs []netip.Addr, ttl uint32) *records {
	r := &records{}
	for _, a := range addrs {
		if a = a.Unmap(); a.Is4() {
			r.v4 = recordOf(r.v4, owner, mdns.TypeA, ttl, a.AsSlice())
		} else if a.Is6() {
			r.v6 = recordOf(r.v6, owner, mdns.TypeAAAA, ttl, a.AsSlice())
		}
	}
	return r
}

// self is the question's name, which always stands at offset 12 (RFC 1035, 4.1.4).
func self() []byte { return []byte{0xc0, headerSize} }

// record appends a resource record of class IN whose owner is the question's name.
func record(out []byte, typ uint16, ttl uint32, data []byte) []byte {
	return recordOf(out, self(), typ, ttl, data)
}

func recordOf(out, owner []byte, typ uint16, ttl uint32, data []byte) []byte {
	out = append(out, owner...)
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

func lowerString(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return 'A' <= r && r <= 'Z' }) < 0 {
		return s
	}
	return string(lower([]byte(s)))
}
