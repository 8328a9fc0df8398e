package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	mdns "github.com/miekg/dns"
)

// exchange asks the upstreams, those first that answered well lately. The next is
// asked when one fails, or alongside one that is slower than it used to be: at most
// two at a time, and the first that answers wins.
func (f *forwarder) exchange(ctx context.Context, m *mdns.Msg, upstreams []netip.AddrPort) (*mdns.Msg, error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	var left []netip.AddrPort
	ordered := f.memory.order(upstreams, f.now())
	for range f.rounds {
		for _, u := range ordered {
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
	hedge := time.NewTimer(0)
	defer hedge.Stop()
	busy, failure := 0, errNoAnswer
	next := func() {
		if len(left) == 0 || busy >= 2 {
			return
		}
		u := left[0]
		left = left[1:]
		busy++
		hedge.Reset(f.memory.patience(u, f.now()))
		wg.Go(func() {
			began := time.Now()
			msg, err := f.one(ctx, m.Copy(), u)
			f.remember(u, time.Since(began), err, ctx.Err() != nil)
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

// remember takes down how an upstream did. A code such as SERVFAIL is about the
// name rather than the server; one that was overtaken is at least as slow as that.
func (f *forwarder) remember(u netip.AddrPort, took time.Duration, err error, overtaken bool) {
	var code *codeError
	switch {
	case err == nil || errors.As(err, &code):
		f.memory.answered(u, took, f.now())
	case overtaken:
		f.memory.slower(u, took, f.now())
	default:
		f.memory.failed(u, f.now())
	}
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
	return nil, &codeError{upstream, answer.Rcode}
}

// codeError: an upstream answered, but not the question.
type codeError struct {
	upstream netip.AddrPort
	rcode    int
}

func (e *codeError) Error() string {
	return fmt.Sprintf("%s says %s", e.upstream, mdns.RcodeToString[e.rcode])
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
