package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	mdns "github.com/miekg/dns"
	"golang.org/x/sync/singleflight"
)

// errNoAnswer: every upstream failed.
var errNoAnswer = errors.New("no upstream answered")

// forwarder asks upstreams.
type forwarder struct {
	log     *slog.Logger
	timeout time.Duration // of one attempt
	hedge   time.Duration // after which the next upstream is asked as well
	rounds  int           // over the list of upstreams
	now     func() time.Time
	// self says where this resolver answers now.
	self func() []netip.AddrPort

	cache  *cache
	flight singleflight.Group
}

// ask answers a packet that no zone knows, as wire data; nil if it cannot be
// answered at all. size is the largest answer the client takes.
func (f *forwarder) ask(ctx context.Context, packet []byte, upstreams []netip.AddrPort, size int) []byte {
	var asked mdns.Msg
	if err := asked.Unpack(packet); err != nil || len(asked.Question) != 1 {
		return nil
	}
	answer, err := f.resolve(ctx, &asked, upstreams)
	if err != nil {
		f.log.Debug("cannot resolve", "name", asked.Question[0].Name, "error", err)
		answer = new(mdns.Msg).SetRcode(&asked, mdns.RcodeServerFailure)
		answer.RecursionAvailable = true
	}
	adopt(answer, &asked)
	answer.Extra = withoutOPT(answer.Extra)
	if opt := asked.IsEdns0(); opt != nil {
		answer.SetEdns0(ednsSize, opt.Do())
	}
	answer.Compress = true
	answer.Truncate(size)
	data, err := answer.Pack()
	if err != nil {
		f.log.Debug("cannot pass on an answer", "name", asked.Question[0].Name, "error", err)
		answer = new(mdns.Msg).SetRcode(&asked, mdns.RcodeServerFailure)
		data, _ = answer.Pack()
	}
	return data
}

func withoutOPT(in []mdns.RR) []mdns.RR {
	var out []mdns.RR
	for _, rr := range in {
		if rr.Header().Rrtype != mdns.TypeOPT {
			out = append(out, rr)
		}
	}
	return out
}

// resolve answers from the cache or the upstreams; the same question asked by
// several at once goes out once.
func (f *forwarder) resolve(ctx context.Context, asked *mdns.Msg, upstreams []netip.AddrPort) (*mdns.Msg, error) {
	opt := asked.IsEdns0()
	q := asked.Question[0]
	k := question{
		name: lowerString(q.Name), qtype: q.Qtype, do: opt != nil && opt.Do(),
		cd: asked.CheckingDisabled, upstreams: fmt.Sprint(upstreams),
	}
	if m := f.cache.get(k, f.now()); m != nil {
		return m, nil
	}
	v, err, _ := f.flight.Do(fmt.Sprint(k), func() (any, error) {
		m := new(mdns.Msg)
		m.SetQuestion(q.Name, q.Qtype)
		m.CheckingDisabled = k.cd
		if opt != nil {
			// Options are between neighbours (RFC 6891, 6.1.1): ours start afresh.
			m.SetEdns0(ednsSize, k.do)
		}
		answer, err := f.exchange(ctx, m, upstreams)
		if err == nil {
			f.cache.put(k, answer, f.now())
		}
		return answer, err
	})
	if err != nil {
		return nil, err
	}
	return v.(*mdns.Msg).Copy(), nil
}

// exchange asks the upstreams in order. The next is asked when one fails, or
// alongside one that is slow: at most two at a time, and the first that answers wins.
func (f *forwarder) exchange(ctx context.Context, m *mdns.Msg, upstreams []netip.AddrPort) (*mdns.Msg, error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	var left []netip.AddrPort
	for range f.rounds {
		for _, u := range upstreams {
			if !f.isSelf(u) {
				left = append(left, u)
			}
		}
	}
	type result struct {
		msg *mdns.Msg
		err error
	}
	results := make(chan result, len(left))
	hedge := time.NewTimer(f.hedge)
	defer hedge.Stop()
	busy, failure := 0, errNoAnswer
	next := func() {
		if len(left) == 0 || busy >= 2 {
			return
		}
		u := left[0]
		left = left[1:]
		busy++
		hedge.Reset(f.hedge)
		wg.Go(func() {
			msg, err := f.one(ctx, m.Copy(), u)
			results <- result{msg, err}
		})
	}
	for next(); busy > 0; {
		select {
		case <-hedge.C:
			next()
		case r := <-results:
			busy--
			if r.err == nil {
				return r.msg, nil
			}
			failure = fmt.Errorf("%w: %w", errNoAnswer, r.err)
			next()
		}
	}
	return nil, failure
}

// isSelf keeps a node whose resolv.conf names this resolver from asking itself.
func (f *forwarder) isSelf(u netip.AddrPort) bool {
	return slices.Contains(f.self(), unmap(u))
}

// one asks one upstream, over TCP when the answer does not fit.
func (f *forwarder) one(ctx context.Context, m *mdns.Msg, upstream netip.AddrPort) (*mdns.Msg, error) {
	m.Id = mdns.Id()
	answer, err := f.over(ctx, "udp", m, upstream)
	if err == nil && answer.Truncated {
		if whole, err := f.over(ctx, "tcp", m, upstream); err == nil {
			answer = whole
		}
	}
	if err != nil {
		return nil, err
	}
	switch answer.Rcode {
	case mdns.RcodeSuccess, mdns.RcodeNameError:
		return answer, nil
	}
	return nil, fmt.Errorf("%s says %s", upstream, mdns.RcodeToString[answer.Rcode])
}

func (f *forwarder) over(ctx context.Context, network string, m *mdns.Msg, upstream netip.AddrPort) (*mdns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	c := mdns.Client{Net: network, Timeout: f.timeout, UDPSize: 4096}
	conn, err := c.DialContext(ctx, upstream.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() }) // the library minds deadlines only
	defer stop()
	answer, _, err := c.ExchangeWithConnContext(ctx, m, conn)
	if err != nil {
		return nil, fmt.Errorf("ask %s over %s: %w", upstream, network, err)
	}
	if len(answer.Question) != 1 || answer.Question[0].Qtype != m.Question[0].Qtype || !sameName(answer, m) {
		return nil, fmt.Errorf("%s answered another question", upstream)
	}
	return answer, nil
}

func sameName(a, b *mdns.Msg) bool {
	return lowerString(a.Question[0].Name) == lowerString(b.Question[0].Name)
}
