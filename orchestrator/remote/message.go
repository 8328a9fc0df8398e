package remote

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

const (
	// maxBody bounds a request's body and a call's answer.
	maxBody = 4 << 20
	// maxLine bounds one message of a stream: the full picture of a large
	// cluster's networks for one node.
	maxLine = 64 << 20
	// sendTimeout is how long a stream's receiver may not take anything.
	sendTimeout = 10 * time.Second
)

// Read decodes a request's body, at most 4 MiB of it.
func Read(r *http.Request, v any) error {
	data, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		return Errorf(errdefs.ErrInvalidArgument, "read request: %v", err)
	}
	if len(data) > maxBody {
		return Errorf(errdefs.ErrInvalidArgument, "request is larger than %d bytes", maxBody)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return Errorf(errdefs.ErrInvalidArgument, "read request: %v", err)
	}
	return nil
}

// Reply answers a call; a nil v is an empty answer.
func Reply(w http.ResponseWriter, v any) {
	if v == nil {
		v = struct{}{}
	}
	data, err := json.Marshal(v)
	if err == nil && len(data) > maxBody {
		err = errors.New("the answer is too large")
	}
	if err != nil {
		Fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(data) // an error shows on the caller's side
}

// Fail answers a call with an error: its text and its errdefs class.
func Fail(w http.ResponseWriter, err error) {
	c := classOf(err)
	data, merr := json.Marshal(failure{Class: c.name, Message: err.Error()})
	if merr != nil {
		data = []byte(`{}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(c.status)
	w.Write(data) // as in Reply
}

// Encoded is a message of a stream as it is sent; it may be sent to many.
type Encoded []byte

// Encode makes a message ready to be sent.
func Encode(v any) (Encoded, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if len(data) > maxLine {
		return nil, Errorf(errdefs.ErrResourceExhausted, "message of %d bytes is too large for the stream", len(data))
	}
	return append(data, '\n'), nil
}

// Sender writes the messages of a stream. It may be used by several goroutines.
type Sender struct {
	// Patience is how long the receiver may take nothing; ten seconds unless set before the first message.
	Patience time.Duration

	mu  sync.Mutex // held while a message is written
	w   http.ResponseWriter
	ctl *http.ResponseController
	// overdue ends the stream. A timer of ours that is hardly ever due costs less than
	// a deadline, which is the connection's other goroutine's to set and to clear.
	overdue *time.Timer

	waiting sync.Mutex // guards writing: w is the server's again when its handler has returned
	writing bool
}

// NewSender turns the answer to a request into a stream.
func NewSender(w http.ResponseWriter) *Sender {
	w.Header().Set("Content-Type", "application/x-ndjson")
	return &Sender{w: w, ctl: http.NewResponseController(w), Patience: sendTimeout}
}

// Send writes one message and flushes it. It fails when the receiver is gone or
// has taken nothing for too long; the stream is over then.
func (s *Sender) Send(v any) error {
	line, err := Encode(v)
	if err != nil {
		return err
	}
	return s.SendEncoded(line)
}

// SendEncoded is Send for a message that is ready.
func (s *Sender) SendEncoded(line Encoded) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watch(true)
	defer s.watch(false)
	if _, err := s.w.Write(line); err != nil {
		return err
	}
	return s.ctl.Flush()
}

// watch begins and ends a time that must not last longer than Patience.
func (s *Sender) watch(writing bool) {
	s.waiting.Lock()
	s.writing = writing
	s.waiting.Unlock()
	switch {
	case !writing:
		s.overdue.Stop()
	case s.overdue == nil:
		s.overdue = time.AfterFunc(s.Patience, s.giveUp)
	default:
		s.overdue.Reset(s.Patience)
	}
}

// giveUp ends what the receiver does not take.
func (s *Sender) giveUp() {
	s.waiting.Lock()
	defer s.waiting.Unlock()
	if s.writing {
		s.ctl.SetWriteDeadline(time.Now().Add(-time.Second)) // of a server that knows none: the connection's end is all there is
	}
}
