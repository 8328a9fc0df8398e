package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

func addrs(s ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// sample is two networks, of which the client at 127.0.0.1 is on both, that at
// 127.0.0.2 on the second only.
func sample(upstreams ...netip.AddrPort) State {
	many := Name{}
	for i := range 100 {
		many.Addrs = append(many.Addrs, netip.AddrFrom4([4]byte{10, 0, 9, byte(i)}))
	}
	return State{
		Upstreams: upstreams,
		Ours:      []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("fd00::/64")},
		Zones: map[string]Zone{
			"one": {Network: "Front", Names: map[string]Name{
				"web":           {Addrs: addrs("10.0.0.2")},
				"tasks.web":     {Addrs: addrs("10.0.0.11", "10.0.0.12", "10.0.0.13")},
				"both":          {},
				"six":           {Addrs: addrs("fd00::6")},
				"dual":          {Addrs: addrs("10.0.0.4", "fd00::4")},
				"idle":          {},
				"many":          many,
				"web.1.abcdefg": {Addrs: addrs("10.0.0.11")},
				"_http._tcp.web": {TTL: time.Minute, Targets: []Target{
					{Name: "web.1.abcdefg", Port: 8080}, {Name: "dual", Port: 8081}, {Name: "x" + strings.Repeat("y", 63), Port: 1}, {Name: "idle", Port: 2},
				}},
				"_many._tcp.web": {Targets: slices.Repeat([]Target{{Name: "web.1.abcdefg", Port: 8080}}, 60)},
				"minute":         {Addrs: addrs("10.0.0.5"), TTL: time.Minute},
				"never":          {Addrs: addrs("10.0.0.6"), TTL: NotKept},
			}, Reverse: map[netip.Addr]string{
				netip.MustParseAddr("10.0.0.11"): "web.1.abcdefg.Front", netip.MustParseAddr("fd00::4"): "dual.Front",
			}},
			"two": {Network: "back", Names: map[string]Name{
				"db":   {Addrs: addrs("10.0.1.2")},
				"both": {Addrs: addrs("10.0.1.3")},
				"web":  {Addrs: addrs("10.0.1.4")},
			}},
		},
		Clients: map[netip.Addr]Client{
			netip.MustParseAddr("127.0.0.1"):        {Zones: []string{"one", "two"}, Names: map[string][]netip.Addr{"me": addrs("10.0.0.11")}},
			netip.MustParseAddr("::ffff:127.0.0.2"): {Zones: []string{"two", "no such zone"}},
		},
	}
}

// ask runs a query through the tables as a packet.
func ask(t *testing.T, tab *tables, from, name string, qtype uint16, change ...func(*mdns.Msg)) (*mdns.Msg, outcome) {
	t.Helper()
	m := new(mdns.Msg).SetQuestion(name, qtype)
	for _, fn := range change {
		fn(m)
	}
	packet, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	var q query
	data, _, what := tab.answer(&q, make([]byte, 0, 4096), packet, netip.MustParseAddr(from), false)
	if what != send {
		return nil, what
	}
	var r mdns.Msg
	if err := r.Unpack(data); err != nil {
		t.Fatalf("%s: the answer cannot be read: %v (%x)", name, err, data)
	}
	if r.Id != m.Id || !r.Response || r.RecursionDesired != m.RecursionDesired {
		t.Errorf("%s: header %+v", name, r.MsgHdr)
	}
	return &r, what
}

func TestLookUps(t *testing.T) {
	with, without := compile(sample(netip.MustParseAddrPort("192.0.2.1:53")), 5*time.Second), compile(sample(), 5*time.Second)
	for _, c := range []struct {
		from, name string
		qtype      uint16
		want       string // rcode, then answers; "forward"
	}{
		{"127.0.0.1", "web.", mdns.TypeA, "NOERROR [10.0.0.2]"},
		{"127.0.0.1", "WeB.", mdns.TypeA, "NOERROR [10.0.0.2]"},
		{"127.0.0.1", "web.", mdns.TypeAAAA, "NOERROR []"},
		{"127.0.0.1", "web.", mdns.TypeSRV, "NOERROR []"},
		{"127.0.0.1", "web.front.", mdns.TypeA, "NOERROR [10.0.0.2]"},
		{"127.0.0.1", "web.BACK.", mdns.TypeA, "NOERROR [10.0.1.4]"},
		{"127.0.0.1", "web.1.abcdefg.", mdns.TypeA, "NOERROR [10.0.0.11]"},
		{"127.0.0.1", "me.", mdns.TypeA, "NOERROR [10.0.0.11]"},
		{"127.0.0.1", "both.", mdns.TypeA, "NOERROR [10.0.1.3]"},
		{"127.0.0.1", "idle.", mdns.TypeA, "NOERROR []"},
		{"127.0.0.1", "idle.front.", mdns.TypeA, "NOERROR []"},
		{"127.0.0.1", "six.", mdns.TypeAAAA, "NOERROR [fd00::6]"},
		{"127.0.0.1", "six.", mdns.TypeA, "NOERROR []"},
		{"127.0.0.1", "dual.", mdns.TypeANY, "NOERROR [RFC8482]"},
		{"127.0.0.1", "idle.", mdns.TypeANY, "NOERROR [RFC8482]"},
		{"127.0.0.1", "11.0.0.10.in-addr.arpa.", mdns.TypeANY, "NOERROR [RFC8482]"},
		{"127.0.0.1", "nosuch.", mdns.TypeANY, "forward"},
		{"127.0.0.1", "_http._tcp.web.", mdns.TypeA, "NOERROR []"},
		{"127.0.0.1", "_http._tcp.nosuch.", mdns.TypeSRV, "forward"},
		{"127.0.0.1", "11.0.0.10.in-addr.arpa.", mdns.TypePTR, "NOERROR [web.1.abcdefg.Front.]"},
		{"127.0.0.1", "11.0.0.10.IN-ADDR.arpa.", mdns.TypeA, "NOERROR []"},
		{"127.0.0.1", "4.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", mdns.TypePTR, "NOERROR [dual.Front.]"},
		{"127.0.0.1", "99.0.0.10.in-addr.arpa.", mdns.TypePTR, "NXDOMAIN []"},
		{"127.0.0.1", "99.0.0.10.in-addr.arpa.", mdns.TypeTXT, "NXDOMAIN []"},
		{"127.0.0.1", "9.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", mdns.TypePTR, "NXDOMAIN []"},
		{"127.0.0.2", "11.0.0.10.in-addr.arpa.", mdns.TypePTR, "NXDOMAIN []"}, // on a network that it is not on
		{"127.0.0.1", "99.0.1.10.in-addr.arpa.", mdns.TypePTR, "forward"},
		{"127.0.0.1", "1.0.0.127.in-addr.arpa.", mdns.TypePTR, "NOERROR [localhost.]"},
		{"127.0.0.1", "1.0.0.127.in-addr.arpa.", mdns.TypeA, "NOERROR []"},
		{"127.0.0.1", "2.1.0.127.in-addr.arpa.", mdns.TypePTR, "NXDOMAIN []"},
		{"127.0.0.1", "0.0.0.0.in-addr.arpa.", mdns.TypePTR, "NXDOMAIN []"},
		{"127.0.0.1", "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa.", mdns.TypePTR, "NOERROR [localhost.]"},
		{"127.0.0.1", "LocalHost.", mdns.TypeA, "NOERROR [127.0.0.1]"},
		{"127.0.0.1", "localhost.", mdns.TypeAAAA, "NOERROR [::1]"},
		{"127.0.0.1", "localhost.", mdns.TypeMX, "NOERROR []"},
		{"127.0.0.2", "a.b.localhost.", mdns.TypeA, "NOERROR [127.0.0.1]"},
		{"127.0.0.1", "notlocalhost.", mdns.TypeA, "forward"},
		{"127.0.0.1", "localhost.example.", mdns.TypeA, "forward"},
		{"127.0.0.1", "nosuch.", mdns.TypeA, "forward"},
		{"127.0.0.1", "example.com.", mdns.TypeA, "forward"},
		{"127.0.0.1", ".", mdns.TypeNS, "forward"},
		{"127.0.0.1", `we\.b.`, mdns.TypeA, "forward"},
		{"127.0.0.2", "web.", mdns.TypeA, "NOERROR [10.0.1.4]"},
		{"127.0.0.2", "web.front.", mdns.TypeA, "forward"},
		{"127.0.0.2", "me.", mdns.TypeA, "forward"},
		{"127.0.0.3", "web.", mdns.TypeA, "REFUSED []"},
		{"127.0.0.3", "example.com.", mdns.TypeA, "REFUSED []"},
	} {
		for i, tab := range []*tables{with, without} {
			want := c.want
			if want == "forward" && i == 1 {
				want = "NXDOMAIN []"
			}
			r, what := ask(t, tab, c.from, c.name, c.qtype)
			got := "forward"
			if what == send {
				got = describe(r)
				if r.Question[0].Name != c.name {
					t.Errorf("%s: asked %q, repeated as %q", c.from, c.name, r.Question[0].Name)
				}
				if (got == "NOERROR []" || got == "NXDOMAIN []" && i == 0) && (len(r.Ns) != 1 || r.Ns[0].(*mdns.SOA).Minttl != 5) {
					t.Errorf("%s: no SOA for the absence: %v", c.name, r)
				}
			}
			if got != want {
				t.Errorf("%s asks %s %s: got %s, want %s", c.from, c.name, mdns.TypeToString[c.qtype], got, want)
			}
		}
	}
}

func describe(r *mdns.Msg) string {
	out := []string{}
	for _, rr := range r.Answer {
		switch rr := rr.(type) {
		case *mdns.A:
			out = append(out, rr.A.String())
		case *mdns.AAAA:
			out = append(out, rr.AAAA.String())
		case *mdns.PTR:
			out = append(out, rr.Ptr)
		case *mdns.HINFO:
			out = append(out, rr.Cpu)
		default:
			out = append(out, rr.String())
		}
	}
	return fmt.Sprint(mdns.RcodeToString[r.Rcode], " ", out)
}

func TestAnswersRotate(t *testing.T) {
	tab := compile(sample(), 5*time.Second)
	first := map[string]int{}
	for range 300 {
		r, _ := ask(t, tab, "127.0.0.1", "tasks.web.", mdns.TypeA)
		if len(r.Answer) != 3 || r.Answer[0].Header().Ttl != 5 || r.Answer[0].Header().Name != "tasks.web." {
			t.Fatalf("answer %v", r)
		}
		first[r.Answer[0].(*mdns.A).A.String()]++
	}
	for a, n := range first {
		if n < 50 {
			t.Errorf("%s came first %d times of 300", a, n)
		}
	}
	if len(first) != 3 {
		t.Errorf("first: %v", first)
	}
}

// TestServices: the records of all targets that DNS can carry, and their addresses.
func TestServices(t *testing.T) {
	tab := compile(sample(), 5*time.Second)
	first := map[string]int{}
	for range 100 {
		for _, name := range []string{"_HTTP._tcp.web.", "_http._tcp.web.front."} {
			r, _ := ask(t, tab, "127.0.0.1", name, mdns.TypeSRV)
			var got []string
			for _, rr := range r.Answer {
				srv := rr.(*mdns.SRV)
				got = append(got, fmt.Sprint(srv.Target, srv.Port, srv.Priority, srv.Weight, srv.Hdr.Ttl, srv.Hdr.Name == name))
			}
			for _, rr := range r.Extra {
				got = append(got, strings.ReplaceAll(rr.String(), "\t", " "))
			}
			first[got[0]]++
			slices.Sort(got)
			want := []string{
				"dual.Front. 60 IN A 10.0.0.4", "dual.Front. 60 IN AAAA fd00::4", "dual.Front.8081 0 1 60 true", "idle.Front.2 0 1 60 true",
				"web.1.abcdefg.Front. 60 IN A 10.0.0.11", "web.1.abcdefg.Front.8080 0 1 60 true",
			}
			if !slices.Equal(got, want) {
				t.Fatalf("%s:\n%q, want\n%q", name, got, want)
			}
		}
	}
	if len(first) != 3 {
		t.Errorf("first came %v, want each of three", first)
	}
}

// TestServicesThatDoNotFit: as many as fit, cut off; addresses only with all of them.
func TestServicesThatDoNotFit(t *testing.T) {
	tab := compile(sample(), 5*time.Second)
	for _, edns := range []uint16{0, 1232} {
		r, _ := ask(t, tab, "127.0.0.1", "_many._tcp.web.", mdns.TypeSRV, func(m *mdns.Msg) {
			if edns > 0 {
				m.SetEdns0(edns, false)
			}
		})
		if !r.Truncated || len(r.Answer) < 8 || len(r.Answer) >= 60 || len(withoutOPT(r.Extra)) != 0 {
			t.Errorf("size %d: truncated %v, %d answers, %d more", edns, r.Truncated, len(r.Answer), len(r.Extra))
		}
	}
	// With room for all records but not for all addresses nothing is said to be cut off.
	z := Zone{Names: map[string]Name{"_x._tcp.w": {Targets: slices.Repeat([]Target{{Name: "t", Port: 1}}, 18)}, "t": {Addrs: addrs("10.0.0.1")}}}
	tab = compile(State{Zones: map[string]Zone{"z": z}, Clients: map[netip.Addr]Client{addrs("127.0.0.1")[0]: {Zones: []string{"z"}}}}, time.Second)
	r, _ := ask(t, tab, "127.0.0.1", "_x._tcp.w.", mdns.TypeSRV)
	if r.Truncated || len(r.Answer) != 18 || len(r.Extra) == 0 || len(r.Extra) == 18 {
		t.Errorf("truncated %v, %d answers, %d more", r.Truncated, len(r.Answer), len(r.Extra))
	}
}

func TestTimesToLive(t *testing.T) {
	tab := compile(sample(), 5*time.Second)
	for name, want := range map[string]uint32{"web.": 5, "minute.": 60, "never.": 0} {
		if r, _ := ask(t, tab, "127.0.0.1", name, mdns.TypeA); len(r.Answer) != 1 || r.Answer[0].Header().Ttl != want {
			t.Errorf("%s: %v, want TTL %d", name, r.Answer, want)
		}
	}
	if got := secondsOf(1<<62, 1); got != 1<<31-1 {
		t.Errorf("the longest is %d", got)
	}
}

func TestTruncation(t *testing.T) {
	tab := compile(sample(), 5*time.Second)
	for _, c := range []struct {
		edns uint16
		room int
	}{{0, 512}, {100, 512}, {1000, 1000}, {65535, ednsSize}} {
		r, _ := ask(t, tab, "127.0.0.1", "many.", mdns.TypeA, func(m *mdns.Msg) {
			if c.edns > 0 {
				m.SetEdns0(c.edns, true)
			}
		})
		r.Compress = true // as it came
		if !r.Truncated || r.Len() > c.room || len(r.Answer) < c.room/16-5 || len(r.Answer) > c.room/16 {
			t.Errorf("size %d: %d answers, truncated %v", c.edns, len(r.Answer), r.Truncated)
		}
		if opt := r.IsEdns0(); (opt != nil) != (c.edns > 0) || opt != nil && (!opt.Do() || opt.UDPSize() != ednsSize) {
			t.Errorf("size %d: OPT %v", c.edns, opt)
		}
	}
}

// TestDeclined: a client with another resolver behind ours is sent there for what we
// do not know, upstreams or not.
func TestDeclined(t *testing.T) {
	s := sample(netip.MustParseAddrPort("192.0.2.53:53"))
	c := s.Clients[netip.MustParseAddr("127.0.0.1")]
	c.Decline = true
	s.Clients[netip.MustParseAddr("127.0.0.1")] = c
	tab := compile(s, 5*time.Second)
	for name, want := range map[string]int{"web.": mdns.RcodeSuccess, "me.": mdns.RcodeSuccess, "idle.": mdns.RcodeSuccess, "nobody.": mdns.RcodeRefused, "example.org.": mdns.RcodeRefused} {
		if r, what := ask(t, tab, "127.0.0.1", name, mdns.TypeA); what != send || r.Rcode != want {
			t.Errorf("%s: %v, want %s", name, r, mdns.RcodeToString[want])
		}
	}
}

func TestOddQueries(t *testing.T) {
	tab := compile(sample(), 5*time.Second)
	for name, c := range map[string]struct {
		change func(*mdns.Msg)
		want   int
	}{
		"chaos class":   {func(m *mdns.Msg) { m.Question[0].Qclass = mdns.ClassCHAOS }, mdns.RcodeRefused},
		"notify":        {func(m *mdns.Msg) { m.Opcode = mdns.OpcodeNotify }, mdns.RcodeNotImplemented},
		"two questions": {func(m *mdns.Msg) { m.Question = append(m.Question, m.Question[0]) }, mdns.RcodeFormatError},
		"no question":   {func(m *mdns.Msg) { m.Question = nil }, mdns.RcodeFormatError},
		"EDNS 1":        {func(m *mdns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) }, mdns.RcodeBadVers},
		"small EDNS":    {func(m *mdns.Msg) { m.SetEdns0(0, false) }, mdns.RcodeSuccess},
		"EDNS cookie": {func(m *mdns.Msg) {
			m.SetEdns0(1232, false)
			m.IsEdns0().Option = []mdns.EDNS0{&mdns.EDNS0_COOKIE{Code: mdns.EDNS0COOKIE, Cookie: "0123456789abcdef"}, &mdns.EDNS0_LOCAL{Code: 65001}}
		}, mdns.RcodeSuccess},
		"OPT of another owner": {func(m *mdns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().Hdr.Name = "x." }, mdns.RcodeFormatError},
		"two OPT":              {func(m *mdns.Msg) { m.SetEdns0(1232, false); m.Extra = append(m.Extra, m.Extra[0]) }, mdns.RcodeFormatError},
	} {
		r, what := ask(t, tab, "127.0.0.1", "web.", mdns.TypeA, c.change)
		if what != send || r.Rcode != c.want {
			t.Errorf("%s: %v", name, r)
		}
	}
	// An option that says to be longer than its record.
	m := new(mdns.Msg).SetQuestion("web.", mdns.TypeA)
	m.SetEdns0(1232, false)
	m.IsEdns0().Option = []mdns.EDNS0{&mdns.EDNS0_LOCAL{Code: 65001, Data: []byte{1, 2, 3}}}
	packet, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	packet[len(packet)-4]++
	var q query
	if data, _, what := tab.answer(&q, nil, packet, netip.MustParseAddr("127.0.0.1"), false); what != send || data[3]&0xf != mdns.RcodeFormatError {
		t.Errorf("broken option: %x", data)
	}
	if _, what := ask(t, tab, "127.0.0.1", "web.", mdns.TypeA, func(m *mdns.Msg) { m.Response = true }); what != drop {
		t.Error("an answer was answered")
	}
}

func TestReverseNames(t *testing.T) {
	for _, s := range []string{"0.0.0.0", "10.255.0.9", "255.255.255.255", "fd00::1", "2001:db8:1:2:3:4:5:6"} {
		name, err := mdns.ReverseAddr(s)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := reverseAddr([]byte(name[:len(name)-1])); !ok || got.String() != s {
			t.Errorf("%s: got %v, %v", name, got, ok)
		}
	}
	for _, s := range []string{"", "in-addr.arpa", ".in-addr.arpa", "1.2.3.in-addr.arpa", "1.2.3.4.5.in-addr.arpa",
		"1.2.3.256.in-addr.arpa", "1..3.4.in-addr.arpa", "0001.2.3.4.in-addr.arpa", "x.2.3.4.in-addr.arpa", "1.ip6.arpa"} {
		if got, ok := reverseAddr([]byte(s)); ok {
			t.Errorf("%q is taken for %v", s, got)
		}
	}
}

// FuzzAnswer feeds any packet: no panic, every answer is one that a strict
// reader can read, and fits.
func FuzzAnswer(f *testing.F) {
	for name, qtype := range map[string]uint16{
		"web.": mdns.TypeA, "many.": mdns.TypeA, "nosuch.": mdns.TypeA, "11.0.0.10.in-addr.arpa.": mdns.TypePTR,
		"_many._tcp.web.": mdns.TypeSRV, "_http._tcp.web.front.": mdns.TypeSRV, "dual.": mdns.TypeANY,
	} {
		m := new(mdns.Msg).SetQuestion(name, qtype)
		plain, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(plain)
		m.SetEdns0(4096, true)
		edns, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(edns)
	}
	tab := compile(sample(), 5*time.Second)
	f.Fuzz(func(t *testing.T, packet []byte) {
		var q query
		for _, tcp := range []bool{false, true} {
			data, _, what := tab.answer(&q, nil, packet, netip.MustParseAddr("127.0.0.1"), tcp)
			if what != send {
				continue
			}
			if !tcp && len(data) > ednsSize {
				t.Fatalf("%d bytes over UDP", len(data))
			}
			var m mdns.Msg
			if err := m.Unpack(data); err != nil {
				t.Fatalf("unreadable answer %x to %x: %v", data, packet, err)
			}
		}
	})
}

func BenchmarkAnswer(b *testing.B) {
	tab := compile(sample(), 5*time.Second)
	from := netip.MustParseAddr("127.0.0.1")
	for _, name := range []string{"web.", "tasks.web.", "web.back.", "11.0.0.10.in-addr.arpa."} {
		b.Run(name, func(b *testing.B) {
			m := new(mdns.Msg).SetQuestion(name, mdns.TypeA)
			m.SetEdns0(1232, false)
			packet, err := m.Pack()
			if err != nil {
				b.Fatal(err)
			}
			var q query
			out := make([]byte, 0, 4096)
			b.ReportAllocs()
			for b.Loop() {
				if _, _, what := tab.answer(&q, out, packet, from, false); what != send {
					b.Fatal("no answer")
				}
			}
		})
	}
}
