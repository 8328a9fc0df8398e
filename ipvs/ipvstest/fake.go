// Package ipvstest has a Balancer without a kernel, and the tests that every
// Balancer passes.
package ipvstest

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/meshd/meshd/ipvs"
)

// ErrClosed is what a closed Fake says.
var ErrClosed = errors.New("balancer is closed")

// Fake is a Balancer that only remembers. Its methods may be called from several
// goroutines.
type Fake struct {
	mu     sync.Mutex // guards all below
	held   ipvs.State
	sets   int
	err    error
	closed bool
	report func(ipvs.Suspect)
}

var (
	_ ipvs.Balancer = (*Fake)(nil)
	_ ipvs.Witness  = (*Fake)(nil)
)

// Suspects waits for Accuse.
func (f *Fake) Suspects(ctx context.Context, report func(ipvs.Suspect)) error {
	f.mu.Lock()
	f.report = report
	f.mu.Unlock()
	<-ctx.Done()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.report = nil
	return ctx.Err()
}

// Accuse reports a failing backend; false: nobody listens.
func (f *Fake) Accuse(s ipvs.Suspect) bool {
	f.mu.Lock()
	report := f.report
	f.mu.Unlock()
	if report != nil {
		report(s)
	}
	return report != nil
}

// Set holds the state, or fails as Fail said.
func (f *Fake) Set(s ipvs.State) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sets++
	if f.closed {
		return ErrClosed
	}
	if f.err != nil {
		return f.err
	}
	n, err := ipvs.Normalize(s)
	if err != nil {
		return err
	}
	f.held = n
	return nil
}

// Close makes every later Set fail.
func (f *Fake) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	return nil
}

// Fail makes every later Set return err; nil ends that.
func (f *Fake) Fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

// Held is the state that the last good Set gave, normalized.
func (f *Fake) Held() (ipvs.State, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.held
	out.Services = slices.Clone(out.Services)
	return out, nil
}

// Sets counts calls of Set.
func (f *Fake) Sets() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sets
}
