package control_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshd/meshd/orchestrator/control"
	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/store/storetest"
)

type probe struct {
	resets, events, rounds int
	round                  func(n int) (time.Time, error)
}

func (p *probe) Reset(*store.View)   { p.resets++ }
func (p *probe) Observe(store.Event) { p.events++ }
func (p *probe) Round(context.Context) (time.Time, error) {
	p.rounds++
	if p.round == nil {
		return time.Time{}, nil
	}
	return p.round(p.rounds)
}

func node(id string) *store.Node {
	n := &store.Node{}
	n.ID = id
	return n
}

// run starts the loop in a bubble and returns what stops it.
func run(t *testing.T, s *store.Store, p *probe) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- control.Run(ctx, s, slog.New(slog.DiscardHandler), p) }()
	synctest.Wait()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestRoundsFollowChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, prop := storetest.New()
		p := &probe{}
		run(t, s, p)
		if p.resets != 1 || p.rounds != 1 {
			t.Fatalf("at start: %+v", p)
		}
		storetest.Create(t, s, prop, node("a"), node("b"))
		synctest.Wait()
		if p.events != 2 || p.rounds != 2 {
			t.Fatalf("after a commit: %+v", p)
		}
		<-time.After(time.Hour) // virtual time
		if p.rounds != 2 {
			t.Fatalf("rounds without a reason: %+v", p)
		}
	})
}

func TestRoundsComeAgainWhenAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := storetest.New()
		start := time.Now()
		var at []time.Duration
		p := &probe{round: func(n int) (time.Time, error) {
			at = append(at, time.Since(start))
			if n < 3 {
				return time.Now().Add(time.Minute), nil
			}
			return time.Time{}, nil
		}}
		run(t, s, p)
		<-time.After(time.Hour)
		if len(at) != 3 || at[2] != 2*time.Minute {
			t.Fatalf("rounds at %v", at)
		}
	})
}

func TestFailedRoundsAreRepeatedWithPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := storetest.New()
		p := &probe{round: func(n int) (time.Time, error) {
			if n < 12 {
				return time.Time{}, errors.New("no quorum")
			}
			return time.Time{}, nil
		}}
		run(t, s, p)
		<-time.After(time.Minute)
		if p.rounds != 12 {
			t.Fatalf("%d rounds in a minute", p.rounds)
		}
	})
}

func restore(s *store.Store, write func(io.Writer) error) error {
	var buf bytes.Buffer
	if err := write(&buf); err != nil {
		return err
	}
	return s.Restore(&buf)
}

func TestCutOffLoopStartsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, prop := storetest.New()
		p := &probe{}
		storetest.Create(t, s, prop, node("a"))
		run(t, s, p)
		snapshot := s.Snapshot()
		if err := restore(s, snapshot); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if p.resets != 2 || p.rounds != 2 {
			t.Fatalf("after a restore: %+v", p)
		}
	})
}
