package ebpf

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cilium/ebpf/ringbuf"

	"github.com/meshd/meshd/ipvs"
)

var _ ipvs.Witness = (*Balancer)(nil)

// failures are those of enum failure, in order.
func failures() []ipvs.Failure { return []ipvs.Failure{ipvs.NoAnswer, ipvs.CutShort} }

// Suspects reports backends that fail, as the programs notice them, until ctx ends.
func (b *Balancer) Suspects(ctx context.Context, report func(ipvs.Suspect)) error {
	r, err := ringbuf.NewReader(b.objects.Suspects)
	if err != nil {
		return fmt.Errorf("read what the load balancer notices: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = r.Close() }) // ends Read
	defer stop()
	var record ringbuf.Record
	for {
		if err := r.ReadInto(&record); err != nil {
			if ctx.Err() != nil && errors.Is(err, ringbuf.ErrClosed) {
				return ctx.Err()
			}
			return errors.Join(fmt.Errorf("read what the load balancer notices: %w", err), r.Close())
		}
		var s suspect
		if _, err := binary.Decode(record.RawSample, binary.NativeEndian, &s); err != nil {
			continue // cut off: not ours
		}
		if known, ok := b.suspect(s); ok {
			report(known)
		}
	}
}

// suspect names a service by its key; false: it is gone meanwhile.
func (b *Balancer) suspect(s suspect) (ipvs.Suspect, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.held == nil || int(s.Failure) >= len(failures()) {
		return ipvs.Suspect{}, false
	}
	e, ok := b.held.byID(s.Backend.Service)
	return ipvs.Suspect{
		Key: e.Key, Addr: s.Backend.Addr.netip(), Port: s.Backend.Port.number(), Asked: s.Port.number(),
		Protocol: ipvs.Protocol(s.Proto), Failure: failures()[s.Failure], Count: int(s.Count),
	}, ok
}
