package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	mdns "github.com/miekg/dns"
	"golang.org/x/sync/singleflight"
)

// errNoAnswer: every upstream failed, now or a moment ago.
var errNoAnswer = errors.New("no upstream answered")

// forwarder answers from what upstreams say.
type forwarder struct {
	log     *slog.Logger
	timeout time.Duration // of one attempt
	rounds  int           // over the list of upstreams
	now     func() time.Time
	// self says where this resolver answers now.
	self func() []netip.AddrPort

	cache   *cache
	memory  *memory
	flight  singleflight.Group
	refresh *sync.WaitGroup // asks on while the client has a stale answer
}

// request is what a client wants to know of upstreams.
type request struct {
	msg       *mdns.Msg
	asker     netip.Addr
	upstreams []netip.AddrPort
}

// ask answers a packet that no zone knows, as wire data; nil if it cannot be
// answered at all. size is the largest answer the client takes.
func (f *forwarder) ask(ctx context.Context, packet []byte, asker netip.Addr, upstreams []netip.AddrPort, size int) []byte {
	var asked mdns.Msg
	if err := asked.Unpack(packet); err != nil || len(asked.Question) != 1 {
		return nil
	}
	answer, stale, err := f.resolve(ctx, request{&asked, asker, upstreams})
	if err != nil {
		f.log.Debug("cannot resolve", "name", asked.Question[0].Name, "error", err)
		answer = new(mdns.Msg).SetRcode(&asked, mdns.RcodeServerFailure)
		answer.RecursionAvailable = true
	}
	adopt(answer, &asked)
	answer.Extra = withoutOPT(answer.Extra)
	if opt := asked.IsEdns0(); opt != nil {
		answer.SetEdns0(ednsSize, opt.Do())
		if stale {
			own := answer.IsEdns0()
			own.Option = append(own.Option, &mdns.EDNS0_EDE{InfoCode: mdns.ExtendedErrorCodeStaleAnswer}) // RFC 8914
		}
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

// resolve answers from the cache or the upstreams. When those fail or let us wait
// for more than one attempt, an answer that has run out is better than none (RFC
// 8767): it is passed on as stale, while they are still being asked.
func (f *forwarder) resolve(ctx context.Context, r request) (_ *mdns.Msg, stale bool, _ error) {
	opt := r.msg.IsEdns0()
	q := r.msg.Question[0]
	k := question{
		name: lowerString(q.Name), qtype: q.Qtype, do: opt != nil && opt.Do(),
		cd: r.msg.CheckingDisabled, upstreams: fmt.Sprint(r.upstreams),
	}
	old, state := f.cache.get(k, f.now())
	switch state {
	case fresh:
		return old, false, nil
	case staleForNow:
		return old, true, nil
	case failing:
		return nil, false, errNoAnswer
	case absent:
		m, err := f.fetch(ctx, k, r)
		return m, false, err
	case outdated:
	}
	done := make(chan *mdns.Msg, 1)
	f.refresh.Go(func() {
		m, err := f.fetch(ctx, k, r)
		if err != nil {
			m = nil
		}
		done <- m
	})
	patience := time.NewTimer(f.timeout)
	defer patience.Stop()
	select {
	case m := <-done:
		if m != nil {
			return m, false, nil
		}
	case <-patience.C:
		f.cache.fail(k, r.asker, f.now()) // who asks next need not wait as well
	}
	return old, true, nil
}

// fetch asks the upstreams and keeps what they say; the same question asked by
// several at once goes out once.
func (f *forwarder) fetch(ctx context.Context, k question, r request) (*mdns.Msg, error) {
	v, err, _ := f.flight.Do(fmt.Sprint(k), func() (any, error) {
		m := new(mdns.Msg)
		m.SetQuestion(r.msg.Question[0].Name, k.qtype)
		m.CheckingDisabled = k.cd
		if r.msg.IsEdns0() != nil {
			// Options are between neighbours (RFC 6891, 6.1.1): ours start afresh.
			m.SetEdns0(ednsSize, k.do)
		}
		answer, err := f.exchange(ctx, m, r.upstreams)
		if err != nil {
			f.cache.fail(k, r.asker, f.now())
			return nil, err
		}
		f.cache.put(k, answer, r.asker, f.now())
		return answer, nil
	})
	if err != nil {
		return nil, err
	}
	return v.(*mdns.Msg).Copy(), nil
}
