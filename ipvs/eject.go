package ipvs

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"time"
)

// Outlier ejection: a backend that fails again and again while another one of its
// service does not gets no new connections for a while. Each node judges by what it
// leads itself. A Balancer notices (Witness); the ejector here decides, and keeps
// at least half of the backends, and the last one, whatever they do; Keeper acts.
// Who returns is on trial: the Balancer tells of its next failure at once, unless a
// success comes before.

// Failure is how a backend fails.
type Failure string

// The failures, in the order of enum failure in ebpf/bpf/maps.h.
const (
	// NoAnswer: connections or datagrams are refused, or not answered in time.
	NoAnswer Failure = "no-answer"
	// CutShort: connections are accepted, and reset before anything was sent.
	CutShort Failure = "cut-short"
)

// String says it as a predicate.
func (f Failure) String() string {
	switch f {
	case NoAnswer:
		return "refused or did not answer"
	case CutShort:
		return "accepted and reset"
	}
	return string(f)
}

// Suspect is a backend that failed as often in a row as its service's Ejection has
// it, while another backend did what it failed to do.
type Suspect struct {
	Key  Key
	Addr netip.Addr
	// Port is the backend's, as in Backend; Asked is what clients asked for.
	Port, Asked uint16
	Protocol    Protocol
	Failure     Failure
	// Count is the number of failures in a row.
	Count int
}

// Witness is a Balancer that notices backends that fail.
type Witness interface {
	// Suspects reports until the context ends. It blocks while report does.
	Suspects(ctx context.Context, report func(Suspect)) error
}

// Ejected is a backend that gets no new connections.
type Ejected struct {
	Suspect
	// Service is the name of the service.
	Service string
	Until   time.Time
	// Times counts how often it was ejected in close succession.
	Times int
}

// place is a backend of a service.
type place struct {
	key  Key
	addr netip.Addr
	port uint16
}

// record is what an ejector knows of a backend. After Until it is kept for a while,
// so that one that goes on failing is ejected for longer.
type record struct {
	Ejected
	lasts time.Duration
	out   bool
}

// ejector decides who is ejected. It has no lock and no clock.
type ejector struct{ records map[place]*record }

// accuse ejects a backend, unless too many are already. want is the desired state.
func (e *ejector) accuse(want State, s Suspect, now time.Time) (Ejected, bool) {
	i := slices.IndexFunc(want.Services, func(svc Service) bool { return svc.Key == s.Key })
	if i < 0 || want.Services[i].Ejection.After == 0 {
		return Ejected{}, false
	}
	svc := want.Services[i]
	if !slices.ContainsFunc(svc.Backends, func(b Backend) bool { return b.Addr.Unmap() == s.Addr && b.Port == s.Port && !b.Draining }) {
		return Ejected{}, false
	}
	at := place{s.Key, s.Addr, s.Port}
	r := e.records[at]
	if r != nil && r.out || e.out(svc) >= most(svc) {
		return Ejected{}, false
	}
	if r == nil {
		r = &record{lasts: svc.Ejection.First}
		if e.records == nil {
			e.records = map[place]*record{}
		}
		e.records[at] = r
	} else {
		r.lasts = min(2*r.lasts, svc.Ejection.Longest)
	}
	r.Ejected = Ejected{Suspect: s, Service: svc.Name, Until: now.Add(r.lasts), Times: r.Times + 1}
	r.out = true
	return r.Ejected, true
}

// most is how many backends of a service may be ejected: half of those that serve.
func most(s Service) int {
	serving := 0
	for _, b := range s.Backends {
		if !b.Draining {
			serving++
		}
	}
	return serving / 2
}

// out counts the serving backends of a service that are ejected.
func (e *ejector) out(s Service) int {
	n := 0
	for _, b := range s.Backends {
		if r := e.records[place{s.Key, b.Addr.Unmap(), b.Port}]; r != nil && r.out && !b.Draining {
			n++
		}
	}
	return n
}

// expire lets those return whose time is over, and forgets those that have done
// well since for twice as long.
func (e *ejector) expire(now time.Time) (returned []Ejected) {
	for at, r := range e.records {
		switch {
		case r.out && !now.Before(r.Until):
			r.out = false
			returned = append(returned, r.Ejected)
		case !r.out && now.Sub(r.Until) > 2*r.lasts:
			delete(e.records, at)
		}
	}
	return returned
}

// next is when expire has something to let return; false: never.
func (e *ejector) next() (time.Time, bool) {
	var first time.Time
	for _, r := range e.records {
		if r.out && (first.IsZero() || r.Until.Before(first)) {
			first = r.Until
		}
	}
	return first, !first.IsZero()
}

// keep forgets backends that are not wanted any more. Where half of those that are
// left would be too few, the ones that return first return at once.
func (e *ejector) keep(want State) {
	if len(e.records) == 0 {
		return
	}
	wanted := map[place]bool{}
	for _, s := range want.Services {
		for _, b := range s.Backends {
			wanted[place{s.Key, b.Addr.Unmap(), b.Port}] = s.Ejection.After > 0
		}
	}
	for at := range e.records {
		if !wanted[at] {
			delete(e.records, at)
		}
	}
	for _, s := range want.Services {
		for range max(e.out(s)-most(s), 0) {
			e.firstOut(s).out = false
		}
	}
}

// firstOut is the one that returns first of a service's serving backends that are ejected.
func (e *ejector) firstOut(s Service) *record {
	var first *record
	for _, b := range s.Backends {
		r := e.records[place{s.Key, b.Addr.Unmap(), b.Port}]
		if r != nil && r.out && !b.Draining && (first == nil || r.Until.Before(first.Until)) {
			first = r
		}
	}
	return first
}

// apply marks the backends that are ejected. It changes nothing of s itself.
func (e *ejector) apply(s State) State {
	if _, any := e.next(); !any {
		return s
	}
	s.Services = slices.Clone(s.Services)
	for i, svc := range s.Services {
		if e.out(svc) == 0 {
			continue
		}
		s.Services[i].Backends = slices.Clone(svc.Backends)
		for j, b := range svc.Backends {
			r := e.records[place{svc.Key, b.Addr.Unmap(), b.Port}]
			s.Services[i].Backends[j].Ejected = r != nil && r.out && !b.Draining
		}
	}
	return s
}

// list gives those that are out, in order.
func (e *ejector) list() []Ejected {
	var out []Ejected
	for _, r := range e.records {
		if r.out {
			out = append(out, r.Ejected)
		}
	}
	slices.SortFunc(out, func(a, b Ejected) int {
		return cmp.Or(compareKeys(a.Key, b.Key), a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port))
	})
	return out
}
