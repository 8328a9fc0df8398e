package dns

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

// asked counts answers with a code from a source.
func asked(s *Server, source, rcode string) uint64 {
	for _, a := range s.Stats().Answers {
		if a.Source == source && a.Rcode == rcode {
			return a.Count
		}
	}
	return 0
}

func TestAnswersAreCounted(t *testing.T) {
	up := upstream(t, func(w mdns.ResponseWriter, r *mdns.Msg) { address(w, r, "192.0.2.9") })
	s, addr := run(t, Config{}, localClient(up))
	before := asked(s, "tables", "NOERROR")
	for range 3 {
		exchange(t, "udp", addr, "web.", mdns.TypeA)
	}
	exchange(t, "tcp", addr, "web.", mdns.TypeA)
	exchange(t, "udp", addr, "example.org.", mdns.TypeA)
	exchange(t, "tcp", addr, "example.org.", mdns.TypeA)
	// A count is taken just before its answer is sent, so nothing is to be waited for.
	if got := asked(s, "tables", "NOERROR") - before; got != 4 {
		t.Errorf("%d answers from tables", got)
	}
	if got := asked(s, "upstream", "NOERROR"); got != 2 {
		t.Errorf("%d answers from upstreams", got)
	}
	for _, l := range s.Stats().Latency {
		if l.Count == 0 || l.Sum <= 0 || l.Buckets[2*time.Second] > l.Count || l.Buckets[50*time.Microsecond] > l.Buckets[time.Second] {
			t.Errorf("%s: %+v", l.Source, l)
		}
	}
}

func localClient(upstreams ...netip.AddrPort) State {
	return State{
		Zones: map[string]Zone{"n": {Network: "front", Names: map[string]Name{"web": {Addrs: addrs("10.0.0.2", "fd00::2")}}}},
		Clients: map[netip.Addr]Client{
			netip.MustParseAddr("127.0.0.1"): {Zones: []string{"n"}},
		},
		Upstreams: upstreams,
	}
}

func TestLookupTellsWhatAClientSees(t *testing.T) {
	s := New(Config{})
	s.Set(localClient(netip.MustParseAddrPort("192.0.2.53:53")))
	me := netip.MustParseAddr("127.0.0.1")
	if a := s.Lookup(me, "WEB.front."); !a.Client || !a.Known || len(a.Addrs) != 2 || a.Addrs[1].String() != "fd00::2" {
		t.Errorf("web: %+v", a)
	}
	if a := s.Lookup(me, "example.org"); !a.Client || a.Known || len(a.Upstreams) != 1 {
		t.Errorf("elsewhere: %+v", a)
	}
	if a := s.Lookup(netip.MustParseAddr("192.0.2.1"), "web"); a.Client {
		t.Errorf("stranger: %+v", a)
	}
}

func TestDifferences(t *testing.T) {
	s := New(Config{})
	s.Set(localClient())
	if d := s.Differences(localClient()); len(d) != 0 {
		t.Errorf("between equals: %v", d)
	}
	want := localClient(netip.MustParseAddrPort("192.0.2.53:53"))
	want.Listen = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}
	want.Zones["n"].Names["web"] = Name{Addrs: addrs("10.0.0.3")}
	want.Zones["n"].Names["db"] = Name{Addrs: addrs("10.0.0.4")}
	want.Clients[netip.MustParseAddr("127.0.0.2")] = Client{}
	var got []string
	for _, d := range s.Differences(want) {
		got = append(got, d.What)
	}
	for _, what := range []string{"addresses to answer on", "client 127.0.0.2", "name db on", "name web on", "upstreams"} {
		if !strings.Contains(strings.Join(got, "; "), what) {
			t.Errorf("%q is missing in %q", what, got)
		}
	}
}

func TestProbeFindsTheDeaf(t *testing.T) {
	s, addr := run(t, Config{}, State{})
	if got := s.Probe(t.Context(), 5*time.Second); len(got) != 0 {
		t.Errorf("%s answers, but: %v", addr, got)
	}
	deaf := New(Config{})
	silent := freePort(t)
	deaf.Set(State{Listen: []netip.AddrPort{silent}})
	if got := deaf.Probe(t.Context(), 100*time.Millisecond); got[silent] == nil {
		t.Errorf("nobody is at %s, but: %v", silent, got)
	}
}
