package churn

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/meshd/meshd/test/probe"
)

// watched is how long clients are listened to after the last wrong answer is allowed.
const watched = 3 * time.Second

// change is a step as it went.
type change struct {
	step step
	// from is its beginning, settled when the managers had nothing left to do, known when every node had acknowledged that.
	from, settled, known time.Time
}

// outcome is what clients saw of a change.
type outcome struct {
	change
	calls int
	// failed are the calls that should not have, by client.
	failed map[string][]probe.Sample
	wrong  wrongAnswer
	lost   []string // connections that should stand
}

// wrongAnswer is the last one; late is from the moment that all nodes knew better.
type wrongAnswer struct {
	late time.Duration
	text string
}

// failures counts failed calls; last is from the step's beginning to the last of them.
func (o outcome) failures() (n int, last time.Duration) {
	for _, calls := range o.failed {
		n += len(calls)
		for _, c := range calls {
			last = max(last, c.Start.Sub(o.from))
		}
	}
	return n, last
}

func (o outcome) String() string {
	n, last := o.failures()
	text := fmt.Sprintf("%v: settled after %.1fs, known everywhere %.2fs later, %d calls, %d failed", o.step, o.settled.Sub(o.from).Seconds(),
		o.known.Sub(o.settled).Seconds(), o.calls, n)
	if n > 0 {
		text += fmt.Sprintf(" up to %.2fs after its beginning", last.Seconds())
	}
	return text + fmt.Sprintf("; last wrong answer %.2fs after that", o.wrong.late.Seconds()) + o.details()
}

// details are the failed calls of each client, as far as a reader wants to see them.
func (o outcome) details() string {
	var b strings.Builder
	for _, client := range slices.Sorted(maps.Keys(o.failed)) {
		calls := o.failed[client]
		first, last := calls[0], calls[len(calls)-1]
		fmt.Fprintf(&b, "\n\t%s: %d calls failed, %.2fs to %.2fs after the beginning: %v", client, len(calls),
			first.Start.Sub(o.from).Seconds(), last.Start.Sub(o.from).Seconds(), first)
		if len(calls) > 1 {
			fmt.Fprintf(&b, " ... %v", last)
		}
	}
	return b.String()
}

// answerer is what was heard of a task while other calls failed.
type answerer struct {
	calls   int
	slowest time.Duration
}

// answered says who answered in the span of time in which calls failed: a task that is missing here is the likely reason.
func (s *scene) answered(o outcome) string {
	from, to := o.known, o.from
	for _, calls := range o.failed {
		for _, c := range calls {
			if c.Start.Before(from) {
				from = c.Start
			}
			if c.Start.After(to) {
				to = c.Start
			}
		}
	}
	heard := map[string]answerer{}
	for _, p := range s.probes {
		for _, c := range p.Between(from, to) {
			if a := heard[c.What]; c.OK && !p.Lookup {
				heard[c.What] = answerer{a.calls + 1, max(a.slowest, c.Took)}
			}
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "from %s to %s there answered", from.Format("15:04:05.000"), to.Format("15:04:05.000"))
	for _, host := range slices.Sorted(maps.Keys(heard)) {
		fmt.Fprintf(&b, "; %s %d times, slowest %v", host, heard[host].calls, heard[host].slowest.Round(time.Millisecond))
	}
	return b.String()
}

// judge waits until enough was seen, and compares.
func (s *scene) judge(c change, before truth, limit time.Duration) outcome {
	want, err := s.truth()
	if err != nil {
		s.t.Fatal(err)
	}
	kept := before.both(want, c.step.node)
	until := c.known.Add(limit + watched)
	select {
	case <-s.ctx.Done():
		s.t.Fatal(s.ctx.Err())
	case <-time.After(time.Until(until)):
	}
	o := outcome{change: c, failed: map[string][]probe.Sample{}}
	excused := s.excuses(c)
	for _, p := range s.probes {
		o.calls += len(p.Between(c.from, until))
		if p.Hold > 0 {
			o.noteLost(p, kept, until)
			continue
		}
		if !s.throughCutNode(p, c.step) {
			o.noteFailures(p, until)
		}
		if !(p.Lookup && excused.alarm) {
			o.noteWrong(p, want, until)
		}
		if s.algorithm == maglev {
			s.awaitAll(p, c.step, want, c.known.Add(limit))
		}
	}
	s.check(c.step)
	complain := s.t.Errorf
	if excused.hurry || excused.starved {
		complain = s.t.Logf
	}
	for _, text := range o.lost {
		complain("%v: a connection to a task that was not touched was lost: %s", c.step, text)
	}
	if n, _ := o.failures(); c.step.orderly && n > 0 {
		complain("%v: %d failed calls of an orderly step (%+v); %s", c.step, n, excused, s.answered(o))
		complain("before: %v; after: %v", before, want)
	}
	if o.wrong.late > limit {
		s.t.Errorf("%v: a wrong answer %.2fs after all nodes had acknowledged the change: %s", c.step, o.wrong.late.Seconds(), o.wrong.text)
	}
	return o
}

// awaitAll waits until a client has reached every task. A choice by chance, and a machine with too much to do, may leave one out for
// seconds; a balancer that does not know of it does so for ever.
func (s *scene) awaitAll(p *probe.Probe, st step, want truth, from time.Time) {
	if err := s.until("all reached", func() error {
		if missing := unseen(p, want, from, time.Now()); len(missing) > 0 {
			return fmt.Errorf("%v does not reach %v", p, missing)
		}
		return nil
	}); err != nil {
		s.t.Errorf("%v: %v", st, err)
	}
}

// noteLost looks at connections that stand: whatever the step was, those to a task that it did not end go on.
func (o *outcome) noteLost(p *probe.Probe, kept []string, until time.Time) {
	for _, call := range p.Failures(o.from, until) {
		if slices.Contains(kept, call.Broke()) {
			o.lost = append(o.lost, fmt.Sprintf("%v, %.2fs after the beginning, %v", p, call.Start.Sub(o.from).Seconds(), call))
		}
	}
}

// throughCutNode says that a client cannot be served well: its way is cut.
func (s *scene) throughCutNode(p *probe.Probe, st step) bool {
	return st.node != "" && strings.Contains(p.Target, s.addresses[st.node])
}

func (o *outcome) noteFailures(p *probe.Probe, until time.Time) {
	if calls := p.Failures(o.from, until); len(calls) > 0 {
		o.failed[p.String()] = calls
	}
}

func (o *outcome) noteWrong(p *probe.Probe, want truth, until time.Time) {
	for _, s := range p.Between(o.known, until) {
		right := s.OK && slices.Contains(want.hostnames, s.What)
		if p.Lookup {
			right = s.OK && s.What == sortedAs(want.addrs)
		}
		if late := s.Start.Sub(o.known); !right && late > o.wrong.late {
			o.wrong = wrongAnswer{late, fmt.Sprintf("%v, %v", p, s)}
		}
	}
}

// sortedAs joins addresses as a probe prints them.
func sortedAs(addrs []string) string { return strings.Join(addrs, ",") }

// unseen are the tasks that a client never reached.
func unseen(p *probe.Probe, want truth, from, until time.Time) []string {
	if p.Lookup {
		return nil
	}
	missing := map[string]bool{}
	for _, h := range want.hostnames {
		missing[h] = true
	}
	for _, s := range p.Between(from, until) {
		delete(missing, s.What)
	}
	return slices.Sorted(maps.Keys(missing))
}

// report sums up a run by kinds of steps.
type report struct{ kinds map[string]*sum }

type sum struct {
	steps, calls, failed         int
	outage, wrong, settle, known time.Duration
}

func newReport() *report { return &report{kinds: map[string]*sum{}} }

func (r *report) add(o outcome) {
	k := r.kinds[kindOf(o.step.name)]
	if k == nil {
		k = &sum{}
		r.kinds[kindOf(o.step.name)] = k
	}
	failed, outage := o.failures()
	k.steps, k.calls, k.failed = k.steps+1, k.calls+o.calls, k.failed+failed
	k.outage, k.wrong = max(k.outage, outage), max(k.wrong, o.wrong.late)
	k.settle, k.known = max(k.settle, o.settled.Sub(o.from)), max(k.known, o.known.Sub(o.settled))
}

func (r *report) String() string {
	var b strings.Builder
	b.WriteString("kind steps calls failed | longest: settling, until all nodes knew, failing since the beginning, wrong since all knew\n")
	for _, kind := range slices.Sorted(maps.Keys(r.kinds)) {
		k := r.kinds[kind]
		fmt.Fprintf(&b, "%-7s %d %d %d | %.2fs %.2fs %.2fs %.2fs\n", kind, k.steps, k.calls, k.failed, k.settle.Seconds(), k.known.Seconds(), k.outage.Seconds(), k.wrong.Seconds())
	}
	return b.String()
}
