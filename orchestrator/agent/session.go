package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"
	"golang.org/x/sync/errgroup"

	"github.com/meshd/meshd/certs"
	"github.com/meshd/meshd/orchestrator/protocol"
)

// Client talks to managers; addr is host:port.
type Client interface {
	// Call sends in and reads the answer into out.
	Call(ctx context.Context, addr, path string, in, out any) error
	// Open sends in and returns the stream of answers, which ends with ctx.
	Open(ctx context.Context, addr, path string, in any) (Stream, error)
	// Pour returns a stream of values to the manager, which ends with ctx.
	Pour(ctx context.Context, addr, path string) (Sink, error)
}

// Stream is a sequence of values from a manager.
type Stream interface {
	Next(v any) error
	// Close ends the stream; a Next that waits returns.
	Close() error
}

// Sink is a sequence of values to a manager.
type Sink interface {
	// Send fails when the manager takes nothing more.
	Send(v any) error
	Close() error
}

// firstMessage bounds the silence before a manager has told its heartbeat.
const firstMessage = 5 * time.Second

// logEvery thins the log of failed tries, about one a minute.
const logEvery = 30

// reportFailures in a row make the agent look for another manager, some half a minute
// to a minute. Want of a leader is no reason: where one can be found elsewhere, this
// manager says so by ending the session.
const reportFailures = 12

// link is the way to the managers.
type link struct {
	mu       sync.Mutex
	managers []swarm.Peer
	// addr is the manager that a session stands with, empty without one.
	addr string
}

func newLink(managers []swarm.Peer) *link { return &link{managers: managers} }

func (l *link) set(addr string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.addr = addr
}

func (l *link) current() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.addr
}

// replace takes a new list and says whether it differs.
func (l *link) replace(managers []swarm.Peer) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if slices.Equal(l.managers, managers) {
		return false
	}
	l.managers = managers
	return true
}

// pick chooses a manager: this node's own, else any, but not the one that just
// failed if there is a choice.
func (l *link) pick(self, failed string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var others []string
	for _, m := range l.managers {
		if m.Addr == failed || m.Addr == "" {
			continue
		}
		if m.NodeID == self {
			return m.Addr
		}
		others = append(others, m.Addr)
	}
	if len(others) == 0 {
		if failed == "" || len(l.managers) == 0 {
			return ""
		}
		return failed
	}
	return others[rand.IntN(len(others))]
}

// runSessions keeps a session with some manager until ctx ends.
func (a *Agent) runSessions(ctx context.Context) error {
	failed, tries := "", 0
	for ctx.Err() == nil {
		addr := a.link.pick(a.cfg.NodeID, failed)
		lived, err := a.session(ctx, addr)
		if ctx.Err() != nil {
			break
		}
		if errors.Is(err, certs.ErrBlocked) {
			return a.dismiss(ctx, addr)
		}
		if errors.Is(err, errAnew) {
			failed, tries = "", 0
			continue
		}
		if lived {
			tries = 0
		}
		tries++
		if tries == 1 || tries%logEvery == 0 {
			a.log.Warn("no session with a manager", "manager", addr, "try", tries, "error", err)
		}
		failed = addr
		select {
		case <-ctx.Done():
		case <-time.After(a.cfg.Backoff.delay(tries)):
		}
	}
	return ctx.Err()
}

// errAnew: this node has something else to say of itself.
var errAnew = errors.New("the session begins anew")

// ErrRemoved ends an agent whose node is not part of the swarm any more.
var ErrRemoved = errors.New(`this node was removed from the swarm; "docker swarm leave" frees it to join one again`)

// dismiss stops all tasks, since a manager says that the node was removed: others
// run in their place.
func (a *Agent) dismiss(ctx context.Context, addr string) error {
	a.log.Warn("this node was removed from the swarm; stopping its tasks", "manager", addr)
	if err := a.apply(ctx, protocol.Message{Tasks: &protocol.Tasks{Full: true}}); err != nil {
		return err
	}
	a.group.Wait()
	return ErrRemoved
}

// errSilent: the manager sent nothing for three heartbeats.
var errSilent = errors.New("manager fell silent")

// session runs one session until it breaks; lived says that it stood.
func (a *Agent) session(ctx context.Context, addr string) (lived bool, err error) {
	if addr == "" {
		return false, errors.New("no manager is known")
	}
	sctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// The watchdog covers opening as well: a dead address may not answer at all.
	watchdog := time.AfterFunc(firstMessage, func() { cancel(errSilent) })
	defer watchdog.Stop()
	stream, err := a.cfg.Client.Open(sctx, addr, protocol.PathSession, a.introduction(sctx))
	if err != nil {
		return false, fmt.Errorf("open session: %w", err)
	}
	g, gctx := errgroup.WithContext(sctx)
	var stands atomic.Bool
	heartbeats := make(chan struct{}, 1)
	g.Go(func() error {
		defer a.link.set("")
		return a.receive(ctx, stream, func(m protocol.Message, silence time.Duration) {
			watchdog.Reset(silence)
			if m.Heartbeat > 0 {
				signal(heartbeats)
			}
			if !stands.Swap(true) {
				a.link.set(addr)
				a.log.Info("session with a manager", "manager", addr)
			}
		})
	})
	g.Go(func() error {
		<-gctx.Done()
		return stream.Close()
	})
	g.Go(func() error {
		select {
		case <-gctx.Done():
			return gctx.Err()
		case <-a.anew:
			return errAnew
		}
	})
	g.Go(func() error { return a.runFlusher(gctx, addr) })
	g.Go(func() error { return a.runAcker(gctx, addr, heartbeats) })
	err = g.Wait()
	if cause := context.Cause(sctx); errors.Is(cause, errSilent) {
		err = cause
	}
	return stands.Load(), err
}

// introduction is what this node says of itself. What was announced without a session
// is in it, and ends none.
func (a *Agent) introduction(ctx context.Context) protocol.SessionRequest {
	select {
	case <-a.anew:
	default:
	}
	r := protocol.SessionRequest{Description: a.describe(ctx), DataAddr: a.cfg.DataAddr, Direct: a.cfg.Direct, Stopping: a.stopping.Load()}
	if a.cfg.Keys != nil {
		r.Keys = a.cfg.Keys()
	}
	return r
}

// describe is the machine as it is now, or as it was if the engine is away.
func (a *Agent) describe(ctx context.Context) swarm.NodeDescription {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.CallTimeout/2)
	defer cancel()
	if desc, err := a.cfg.Engine.Describe(ctx); err == nil {
		return desc
	}
	return a.desc
}

// receive applies what the manager says; alive is told the silence to tolerate
// from then on. ctx is the agent's: what is started by a message outlives the session.
func (a *Agent) receive(ctx context.Context, stream Stream, alive func(protocol.Message, time.Duration)) error {
	silence := firstMessage
	for {
		var m protocol.Message
		if err := stream.Next(&m); err != nil {
			return fmt.Errorf("session: %w", err)
		}
		if m.Heartbeat > 0 {
			silence = 3 * m.Heartbeat
		}
		alive(m, silence)
		if len(m.Managers) > 0 && a.link.replace(m.Managers) && a.cfg.SaveManagers != nil {
			a.cfg.SaveManagers(m.Managers)
		}
		if len(m.Tunnels) > 0 && a.cfg.Tunnels != nil {
			a.cfg.Tunnels(m.Tunnels)
		}
		if m.Trust != nil && a.cfg.Trust != nil {
			a.cfg.Trust(*m.Trust)
		}
		if seen, behind := a.picture.behind(m, a.cfg.Now(), a.cfg.LagPatience); behind {
			return fmt.Errorf("the manager lags: it is at index %d, another was at %d", m.Tasks.Index, seen)
		}
		if err := a.apply(ctx, m); err != nil {
			return err
		}
	}
}

// runFlusher delivers the status queue, beginning with what earlier sessions left.
func (a *Agent) runFlusher(ctx context.Context, addr string) error {
	a.reports.poke()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.reports.wake:
		}
		for failures := 0; ; {
			batch := a.reports.take()
			if len(batch) == 0 {
				break
			}
			err := a.call(ctx, addr, protocol.PathStatus, protocol.StatusReport{Updates: batch}, &struct{}{})
			if err == nil {
				failures = 0
				continue
			}
			a.reports.giveBack(batch)
			if failures++; failures == reportFailures || sessionLost(err) {
				return fmt.Errorf("report statuses: %w", err)
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(a.cfg.Backoff.delay(failures)):
			}
		}
	}
}

// runAcker says which revisions the kernel holds, at once when that changed. It answers
// each heartbeat, and if these are late says at least every AckPeriod that this node
// lives: a manager sends the heartbeats of all its nodes at once, and the answers that
// come together wake it once and not a thousand times.
func (a *Agent) runAcker(ctx context.Context, addr string, heartbeats <-chan struct{}) error {
	acks, err := a.cfg.Client.Pour(ctx, addr, protocol.PathAcks)
	if err != nil {
		return fmt.Errorf("acknowledge: %w", err)
	}
	defer acks.Close()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var told map[string]uint64
	for {
		held, changed := a.cfg.Dataplane.Held()
		ack := protocol.Ack{Networks: held}
		if told != nil && maps.Equal(held, told) {
			ack = protocol.Ack{Same: true}
		}
		if err := acks.Send(ack); err != nil {
			return fmt.Errorf("acknowledge: %w", err)
		}
		told = held
		timer.Reset(protocol.Jittered(a.cfg.AckPeriod))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		case <-heartbeats:
		case <-changed:
		}
	}
}

// sessionLost says that the manager does not know this session any more.
func sessionLost(err error) bool {
	return errdefs.IsNotFound(err) || errdefs.IsFailedPrecondition(err)
}

func (a *Agent) call(ctx context.Context, addr, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.CallTimeout)
	defer cancel()
	return a.cfg.Client.Call(ctx, addr, path, in, out)
}

// drain waits until no node sends new connections to a task, as far as a
// manager can be asked, and never long.
func (a *Agent) drain(ctx context.Context, taskID string) {
	addr := a.link.current()
	if addr == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, a.cfg.DrainTimeout)
	defer cancel()
	var reply protocol.DrainedReply
	err := a.cfg.Client.Call(ctx, addr, protocol.PathDrained, protocol.DrainedRequest{TaskID: taskID}, &reply)
	if err != nil || len(reply.Late) > 0 {
		a.log.Warn("stopping a task that some nodes may still send connections to", "task", taskID, "late", reply.Late, "error", err)
	}
}
