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

// outcome is what clients saw of one step.
type outcome struct {
	step    step
	took    time.Duration // until the managers had nothing left to do
	calls   int
	failed  int           // of the calls that should not
	outage  time.Duration // from the step's beginning to the last failed call
	wrong   time.Duration // from the settling to the last wrong answer
	example string
	lost    []string // connections that should stand
}

func (o outcome) String() string {
	text := fmt.Sprintf("%v: settled after %.1fs, %d calls, %d failed", o.step, o.took.Seconds(), o.calls, o.failed)
	if o.failed > 0 {
		text += fmt.Sprintf(" up to %.2fs after its beginning", o.outage.Seconds())
	}
	return text + fmt.Sprintf("; last wrong answer %.2fs after that", o.wrong.Seconds())
}

// judge waits until enough was seen, and compares.
func (s *scene) judge(st step, before truth, from, settled time.Time, limit time.Duration) outcome {
	want, err := s.truth()
	if err != nil {
		s.t.Fatal(err)
	}
	kept := before.both(want, st.node)
	until := settled.Add(limit + watched)
	select {
	case <-s.ctx.Done():
		s.t.Fatal(s.ctx.Err())
	case <-time.After(time.Until(until)):
	}
	o := outcome{step: st, took: settled.Sub(from)}
	for _, p := range s.probes {
		o.calls += len(p.Between(from, until))
		if p.Hold > 0 {
			o.noteLost(p, kept, from, until)
			continue
		}
		if !s.throughCutNode(p, st) {
			o.noteFailures(p, from, until)
		}
		o.noteWrong(p, want, settled, until)
		s.awaitAll(p, st, want, settled.Add(limit))
	}
	complain := s.t.Errorf
	if s.overloaded(from, st.node) {
		complain = func(format string, args ...any) { s.t.Logf("this machine has too much to do: "+format, args...) }
	}
	for _, text := range o.lost {
		complain("%v: a connection to a task that was not touched was lost: %s", st, text)
	}
	if st.orderly && o.failed > 0 {
		complain("%v: %d failed calls of an orderly step: %s", st, o.failed, o.example)
	}
	if o.wrong > limit {
		complain("%v: a wrong answer %.2fs after the settling: %s", st, o.wrong.Seconds(), o.example)
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
func (o *outcome) noteLost(p *probe.Probe, kept []string, from, until time.Time) {
	for _, call := range p.Failures(from, until) {
		if slices.Contains(kept, call.Broke()) {
			o.lost = append(o.lost, fmt.Sprintf("%v, %.2fs after the beginning, %v", p, call.Start.Sub(from).Seconds(), call))
		}
	}
}

// throughCutNode says that a client cannot be served well: its way is cut.
func (s *scene) throughCutNode(p *probe.Probe, st step) bool {
	if st.node == "" {
		return false
	}
	nodes, err := s.lab.Ls(s.ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, n := range nodes {
		if n.Name == st.node && strings.Contains(p.Target, n.Address) {
			return true
		}
	}
	return false
}

func (o *outcome) noteFailures(p *probe.Probe, from, until time.Time) {
	for _, s := range p.Failures(from, until) {
		o.failed++
		o.outage = max(o.outage, s.Start.Sub(from))
		o.example = fmt.Sprintf("%v, %.2fs after the beginning, %v", p, s.Start.Sub(from).Seconds(), s)
	}
}

func (o *outcome) noteWrong(p *probe.Probe, want truth, settled, until time.Time) {
	for _, s := range p.Between(settled, until) {
		right := s.OK && slices.Contains(want.hostnames, s.What)
		if p.Lookup {
			right = s.OK && s.What == sortedAs(want.addrs)
		}
		if late := s.Start.Sub(settled); !right && late > o.wrong {
			o.wrong, o.example = late, fmt.Sprintf("%v, %v", p, s)
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
	steps, calls, failed  int
	outage, wrong, settle time.Duration
}

func newReport() *report { return &report{kinds: map[string]*sum{}} }

func (r *report) add(o outcome) {
	k := r.kinds[kindOf(o.step.name)]
	if k == nil {
		k = &sum{}
		r.kinds[kindOf(o.step.name)] = k
	}
	k.steps, k.calls, k.failed = k.steps+1, k.calls+o.calls, k.failed+o.failed
	k.outage, k.wrong, k.settle = max(k.outage, o.outage), max(k.wrong, o.wrong), max(k.settle, o.took)
}

func (r *report) String() string {
	var b strings.Builder
	b.WriteString("kind steps calls failed | longest: settling, failing since the beginning, wrong since the settling\n")
	for _, kind := range slices.Sorted(maps.Keys(r.kinds)) {
		k := r.kinds[kind]
		fmt.Fprintf(&b, "%-7s %d %d %d | %.2fs %.2fs %.2fs\n", kind, k.steps, k.calls, k.failed, k.settle.Seconds(), k.outage.Seconds(), k.wrong.Seconds())
	}
	return b.String()
}
