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

// Sender writes the messages of a stream. It may be used by several goroutines.
type Sender struct {
	// Patience is how long the receiver may take nothing; ten seconds unless set before the first message.
	Patience time.Duration

	mu  sync.Mutex
	w   http.ResponseWriter
	ctl *http.ResponseController
}

// NewSender turns the answer to a request into a stream.
func NewSender(w http.ResponseWriter) *Sender {
	w.Header().Set("Content-Type", "application/x-ndjson")
	return &Sender{w: w, ctl: http.NewResponseController(w), Patience: sendTimeout}
}

// Send writes one message and flushes it. It fails when the receiver is gone or
// has taken nothing for too long; the stream is over then.
func (s *Sender) Send(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(data) > maxLine {
		return Errorf(errdefs.ErrResourceExhausted, "message of %d bytes is too large for the stream", len(data))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.ctl.SetWriteDeadline(time.Now().Add(s.Patience)); err != nil {
		return err
	}
	if _, err := s.w.Write(append(data, '\n')); err != nil {
		return err
	}
	if err := s.ctl.Flush(); err != nil {
		return err
	}
	// Without this the deadline would end a stream that is merely silent.
	return s.ctl.SetWriteDeadline(time.Time{})
}
