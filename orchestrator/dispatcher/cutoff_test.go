package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"github.com/meshd/meshd/orchestrator/protocol"
)

// asked answers what managers ask each other, by address.
type asked func(addr, path string) (reaches bool, err error)

func (a asked) Call(_ context.Context, addr, path string, _, out any) error {
	reaches, err := a(addr, path)
	if r, ok := out.(*reachesReply); ok && err == nil {
		r.Reaches = reaches
	}
	return err
}

// crowd opens sessions of so many nodes, which read all they are sent; it counts those
// that stand.
func crowd(t *testing.T, d *Dispatcher, count int) *atomic.Int64 {
	var stand atomic.Int64
	for i := range count {
		a := connect(t, d, fmt.Sprint("node", i))
		stand.Add(1)
		go func() {
			for {
				select {
				case <-a.messages:
				case err := <-a.ended:
					stand.Add(-1)
					if !errors.Is(err, errCutOff) && err != context.Canceled {
						t.Errorf("a session ended: %v", err)
					}
					return
				}
			}
		}()
	}
	return &stand
}

// Sessions end if their nodes are better off with another manager, and only then.
func TestSessionsWithoutALeader(t *testing.T) {
	const nodes = 60
	nobody := func(string, string) (bool, error) { return false, nil }
	for _, c := range []struct {
		name   string
		others map[string]string
		ask    asked
		end    bool
	}{
		{"nobody reaches a leader", map[string]string{"n2": "n2:1", "n3": "n3:1"}, nobody, false},
		{"one reaches it", map[string]string{"n2": "n2:1", "n3": "n3:1"}, func(addr, _ string) (bool, error) { return addr == "n3:1", nil }, true},
		{"one answers, nobody reaches it", map[string]string{"n2": "n2:1", "n3": "n3:1"}, func(addr, _ string) (bool, error) {
			if addr == "n2:1" {
				return false, errdefs.ErrUnavailable
			}
			return false, nil
		}, false},
		{"nobody answers", map[string]string{"n2": "n2:1", "n3": "n3:1"}, func(string, string) (bool, error) { return false, errdefs.ErrUnavailable }, true},
		{"the others are of an earlier version", map[string]string{"n2": "n2:1"}, func(string, string) (bool, error) { return false, errdefs.ErrNotImplemented }, true},
		{"there are no others", nil, nobody, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				members := map[string]string{"n1": "n1:1"}
				for id, addr := range c.others {
					members[id] = addr
				}
				d := newWorld(t).start(Config{
					NodeID: "n1", Members: func() map[string]string { return members }, Lease: 3 * time.Second,
					Leader: func() (string, string, bool) { return "", "", false }, Caller: c.ask,
				})
				stand := crowd(t, d, nodes)
				time.Sleep(3500 * time.Millisecond)
				synctest.Wait()
				if got := stand.Load(); got < nodes/2 {
					t.Errorf("only %d of %d sessions stand soon after the leader is missed for a lease", got, nodes)
				}
				time.Sleep(5 * time.Second)
				synctest.Wait()
				if got := stand.Load(); c.end && got > 0 || !c.end && got < nodes {
					t.Errorf("%d of %d sessions stand", got, nodes)
				}
			})
		})
	}
}

// When the leader is back no further session ends.
func TestSessionsStayWhenTheLeaderIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var leader atomic.Value
		leader.Store("")
		d := newWorld(t).start(Config{
			NodeID: "n1", Members: func() map[string]string { return map[string]string{"n1": "", "n2": "n2:1"} }, Lease: 3 * time.Second,
			Leader: func() (string, string, bool) { l := leader.Load().(string); return l, l, false },
			Caller: asked(func(string, string) (bool, error) { return true, nil }),
		})
		stand := crowd(t, d, 60)
		time.Sleep(4500 * time.Millisecond)
		leader.Store("n2")
		time.Sleep(time.Second)
		synctest.Wait()
		some := stand.Load()
		if some == 0 || some == 60 {
			t.Errorf("%d of 60 sessions stand half a lease after the first ended", some)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := stand.Load(); got != some {
			t.Errorf("of %d sessions %d stand", some, got)
		}
	})
}

// The pictures of many nodes are made a few at a time; who waits hears heartbeats, and
// who takes nothing holds the others up for a moment only.
func TestBeginningsArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newWorld(t).start(Config{})
		slow := cap(d.turns)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var pictures, taking, heartbeats atomic.Int64
		begin := func(i int, took time.Duration) {
			s, err := d.open(fmt.Sprint("node", i), func(error) {})
			if err != nil {
				t.Error(err)
				return
			}
			go func() {
				defer d.close(s)
				d.begin(ctx, s, func(m *protocol.Message) error {
					if m.Tasks == nil {
						heartbeats.Add(1)
						return nil
					}
					if n := taking.Add(1); n > int64(2*slow) {
						t.Errorf("%d pictures at a time", n)
					}
					pictures.Add(1)
					select {
					case <-ctx.Done():
					case <-time.After(took):
					}
					taking.Add(-1)
					return nil
				})
			}()
		}
		for i := range slow {
			begin(i, time.Hour)
		}
		synctest.Wait()
		for i := range 40 * slow {
			begin(slow+i, 100*time.Millisecond)
		}
		time.Sleep(turnTime + 2*time.Second)
		synctest.Wait()
		if n := pictures.Load(); n < int64(10*slow) || n > int64(30*slow) {
			t.Errorf("%d nodes of %d have their pictures after some 2 s", n, 41*slow)
		}
		if heartbeats.Load() == 0 {
			t.Error("those that wait hear nothing")
		}
		time.Sleep(4 * time.Second)
		synctest.Wait()
		if n := pictures.Load(); n != int64(41*slow) {
			t.Errorf("%d nodes of %d have their pictures", n, 41*slow)
		}
		cancel()
		synctest.Wait()
	})
}
