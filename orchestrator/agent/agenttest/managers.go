package agenttest

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/agent"
	"github.com/meshd/meshd/orchestrator/protocol"
)

// Managers is a fake agent.Client: managers by address that share one mind.
type Managers struct {
	// Calls gets "status t1 running", "drained t1", "session <addr>" in order.
	Calls *Log

	mu       sync.Mutex
	down     map[string]bool
	sessions []*session
	statuses map[string][]swarm.TaskStatus
	acks     []protocol.Ack
	refuse   error
	drained  chan struct{} // nil: answer at once

	attachReply protocol.AttachReply
	refused     []protocol.Refused
	reports     []protocol.AttachedReport
	request     protocol.SessionRequest
}

type session struct {
	addr string
	out  chan protocol.Message
	done chan struct{}
	end  sync.Once
}

// NewManagers returns managers that log into calls.
func NewManagers(calls *Log) *Managers {
	return &Managers{Calls: calls, down: map[string]bool{}, statuses: map[string][]swarm.TaskStatus{}}
}

// SetDown takes a manager away, its sessions with it, or brings it back.
func (m *Managers) SetDown(addr string, down bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.down[addr] = down
	for _, s := range m.sessions {
		if down && s.addr == addr {
			s.close()
		}
	}
}

// Refuse makes calls (not sessions) fail; nil heals them.
func (m *Managers) Refuse(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refuse = err
}

// HoldDrained makes requests to drain wait until release is called.
func (m *Managers) HoldDrained() (release func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := make(chan struct{})
	m.drained = c
	return sync.OnceFunc(func() { close(c) })
}

// Send sends a message on the open session; false if there is none.
func (m *Managers) Send(msg protocol.Message) bool {
	m.mu.Lock()
	s := m.openLocked()
	m.mu.Unlock()
	if s == nil {
		return false
	}
	select {
	case s.out <- msg:
		return true
	case <-s.done:
		return false
	}
}

// Session is the address that a session is open with, empty if none is.
func (m *Managers) Session() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.openLocked(); s != nil {
		return s.addr
	}
	return ""
}

func (m *Managers) openLocked() *session {
	for i := len(m.sessions) - 1; i >= 0; i-- {
		select {
		case <-m.sessions[i].done:
		default:
			return m.sessions[i]
		}
	}
	return nil
}

// Statuses are those reported of a task, in order.
func (m *Managers) Statuses(taskID string) []swarm.TaskStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]swarm.TaskStatus(nil), m.statuses[taskID]...)
}

// Status is the last one reported of a task.
func (m *Managers) Status(taskID string) swarm.TaskStatus {
	all := m.Statuses(taskID)
	if len(all) == 0 {
		return swarm.TaskStatus{}
	}
	return all[len(all)-1]
}

// Acks are all acknowledgements so far.
func (m *Managers) Acks() []protocol.Ack {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]protocol.Ack(nil), m.acks...)
}

// Request is what the node said when it opened its last session.
func (m *Managers) Request() protocol.SessionRequest {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.request
}

// Open implements agent.Client.
func (m *Managers) Open(ctx context.Context, addr, path string, in any) (agent.Stream, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down[addr] || path != protocol.PathSession {
		return nil, errors.Join(errors.New("connection refused"), errdefs.ErrUnavailable)
	}
	m.Calls.Add("session " + addr)
	m.request, _ = in.(protocol.SessionRequest)
	s := &session{addr: addr, out: make(chan protocol.Message), done: make(chan struct{})}
	m.sessions = append(m.sessions, s)
	context.AfterFunc(ctx, s.close)
	return s, nil
}

func (s *session) close() { s.end.Do(func() { close(s.done) }) }

// Next implements agent.Stream.
func (s *session) Next(v any) error {
	select {
	case msg := <-s.out:
		return recode(msg, v)
	case <-s.done:
		return io.EOF
	}
}

// Close implements agent.Stream.
func (s *session) Close() error { s.close(); return nil }

// Call implements agent.Client.
func (m *Managers) Call(ctx context.Context, addr, path string, in, out any) error {
	m.mu.Lock()
	down, refuse, drained := m.down[addr], m.refuse, m.drained
	m.mu.Unlock()
	if down {
		return errors.Join(errors.New("connection refused"), errdefs.ErrUnavailable)
	}
	if refuse != nil {
		return refuse
	}
	switch in := in.(type) {
	case protocol.StatusReport:
		m.record(in)
	case protocol.Ack:
		m.mu.Lock()
		m.acks = append(m.acks, in)
		m.mu.Unlock()
	case protocol.AttachRequest:
		return recode(m.attach(in), out)
	case protocol.AttachedReport:
		return recode(m.attached(in), out)
	case protocol.DrainedRequest:
		m.Calls.Add("drained " + in.TaskID)
		if drained != nil {
			select {
			case <-drained:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	default:
		return errors.New("unknown path " + path)
	}
	return nil
}

// Pour implements agent.Client.
func (m *Managers) Pour(ctx context.Context, addr, path string) (agent.Sink, error) {
	return sink{ctx, m, addr, path}, nil
}

type sink struct {
	ctx        context.Context //nolint:containedctx // that of the stream
	to         *Managers
	addr, path string
}

// Send implements agent.Sink.
func (s sink) Send(v any) error { return s.to.Call(s.ctx, s.addr, s.path, v, nil) }

// Close implements agent.Sink.
func (sink) Close() error { return nil }

// Attach sets what requests to attach are answered with; networks of refused
// containers are refused in the answer to the next report.
func (m *Managers) Attach(reply protocol.AttachReply, refused ...protocol.Refused) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.attachReply, m.refused = reply, refused
}

// Reports are those of attached containers.
func (m *Managers) Reports() []protocol.AttachedReport {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.reports)
}

func (m *Managers) attach(protocol.AttachRequest) protocol.AttachReply {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.attachReply
}

func (m *Managers) attached(r protocol.AttachedReport) (out protocol.AttachedReply) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reports = append(m.reports, r)
	out.Refused, m.refused = m.refused, nil
	return out
}

func (m *Managers) record(r protocol.StatusReport) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, u := range r.Updates {
		m.statuses[u.TaskID] = append(m.statuses[u.TaskID], u.Status)
		m.Calls.Add("status " + u.TaskID + " " + string(u.Status.State))
	}
}

// recode hands a value over as the wire would.
func recode(from, to any) error {
	data, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, to)
}
