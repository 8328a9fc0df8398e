package dns

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	mdns "github.com/miekg/dns"
)

// Answer is what a client would get for a name now.
type Answer struct {
	// Client: the resolver knows the asker; it refuses all others.
	Client bool
	// Known: a zone, or the client itself, has the name. Others go to Upstreams.
	Known     bool
	Addrs     []netip.Addr
	Upstreams []netip.AddrPort
}

// Lookup tells what the tables hold for a name as a client sees it. It asks no upstream.
func (s *Server) Lookup(from netip.Addr, name string) Answer {
	c := s.tables.Load().clients[from.Unmap()]
	if c == nil {
		return Answer{}
	}
	out := Answer{Client: true, Upstreams: c.upstreams}
	if r := c.find([]byte(lowerString(strings.TrimSuffix(name, ".")))); r != nil {
		out.Known, out.Addrs = true, r.addrs()
	}
	return out
}

// addrs unpacks the records' addresses.
func (r *records) addrs() []netip.Addr {
	var out []netip.Addr
	for _, family := range []struct {
		rrs  []byte
		size int
	}{{r.v4, sizeA}, {r.v6, sizeAAAA}} {
		for rr := range slices.Chunk(family.rrs, family.size) {
			if a, ok := netip.AddrFromSlice(rr[12:]); ok {
				out = append(out, a)
			}
		}
	}
	return out
}

// Difference is one thing that the resolver answers otherwise than it should.
type Difference struct {
	What, Want, Have string
}

// Differences compares what is answered from with a desired state.
func (s *Server) Differences(state State) []Difference {
	want, have := compile(state, s.cfg.TTL), s.tables.Load()
	var out []Difference
	if w, h := fmt.Sprint(want.listen), fmt.Sprint(have.listen); w != h {
		out = append(out, Difference{"addresses to answer on", w, h})
	}
	if w, h := fmt.Sprint(want.ours), fmt.Sprint(have.ours); w != h {
		out = append(out, Difference{"ranges of our own", w, h})
	}
	for addr, c := range want.clients {
		if have.clients[addr] == nil {
			out = append(out, Difference{fmt.Sprintf("client %s", addr), "known", "refused"})
			continue
		}
		out = append(out, clientDifferences(addr, c, have.clients[addr])...)
	}
	for addr := range have.clients {
		if want.clients[addr] == nil {
			out = append(out, Difference{fmt.Sprintf("client %s", addr), "refused", "known"})
		}
	}
	slices.SortFunc(out, func(a, b Difference) int { return strings.Compare(a.What, b.What) })
	return slices.Compact(out)
}

func clientDifferences(addr netip.Addr, want, have *client) []Difference {
	out := nameDifferences(fmt.Sprintf("name %%s of client %s", addr), want.names, have.names)
	if w, h := fmt.Sprint(want.upstreams), fmt.Sprint(have.upstreams); w != h {
		out = append(out, Difference{fmt.Sprintf("upstreams of client %s", addr), w, h})
	}
	if w, h := len(want.zones), len(have.zones); w != h {
		return append(out, Difference{fmt.Sprintf("networks of client %s", addr), fmt.Sprint(w), fmt.Sprint(h)})
	}
	for i, z := range want.zones {
		out = append(out, nameDifferences("name %s on network "+strings.TrimPrefix(string(z.suffix), "."), z.names, have.zones[i].names)...)
	}
	return out
}

func nameDifferences(format string, want, have map[string]*records) []Difference {
	var out []Difference
	for name, w := range want {
		h := have[name]
		if h == nil {
			out = append(out, Difference{fmt.Sprintf(format, name), fmt.Sprint(w.addrs()), "unknown"})
		} else if !bytes.Equal(w.v4, h.v4) || !bytes.Equal(w.v6, h.v6) {
			out = append(out, Difference{fmt.Sprintf(format, name), fmt.Sprint(w.addrs()), fmt.Sprint(h.addrs())})
		} else if !slices.EqualFunc(w.srv, h.srv, func(a, b serviceRecord) bool { return bytes.Equal(a.record, b.record) && bytes.Equal(a.extra, b.extra) }) {
			out = append(out, Difference{fmt.Sprintf(format, name), fmt.Sprintf("%d targets", len(w.srv)), fmt.Sprintf("%d targets, or others", len(h.srv))})
		}
	}
	for name, h := range have {
		if want[name] == nil {
			out = append(out, Difference{fmt.Sprintf(format, name), "unknown", fmt.Sprint(h.addrs())})
		}
	}
	return out
}

// Probe asks every address of the resolver over the network, as a client would,
// and returns the failures of those that do not answer within timeout. Being
// refused counts as an answer.
func (s *Server) Probe(ctx context.Context, timeout time.Duration) map[netip.AddrPort]error {
	out := map[netip.AddrPort]error{}
	for _, addr := range s.tables.Load().listen {
		c := mdns.Client{Timeout: timeout}
		m := new(mdns.Msg).SetQuestion("probe.", mdns.TypeA)
		if _, _, err := c.ExchangeContext(ctx, m, addr.String()); err != nil {
			out[addr] = err
		}
	}
	return out
}
