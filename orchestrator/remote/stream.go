package remote

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Stream receives the messages that answer an Open. One goroutine at a time
// may call Next; Close may be called from another.
type Stream struct {
	body   io.ReadCloser
	r      *bufio.Reader
	cancel context.CancelFunc
	broken func(error) error
}

func newStream(body io.ReadCloser, cancel context.CancelFunc, broken func(error) error) *Stream {
	return &Stream{body: body, r: bufio.NewReaderSize(body, 64<<10), cancel: cancel, broken: broken}
}

// Next waits for a message and decodes it. io.EOF says that the other side
// ended the stream.
func (s *Stream) Next(v any) error {
	line, err := s.line()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(line, v); err != nil {
		return fmt.Errorf("remote: read message: %w", err)
	}
	return nil
}

// Close ends the stream.
func (s *Stream) Close() error {
	s.cancel()
	return s.body.Close()
}

func (s *Stream) line() ([]byte, error) {
	var whole []byte
	for {
		part, err := s.r.ReadSlice('\n')
		whole = append(whole, part...)
		switch {
		case len(whole) > maxLine+1:
			return nil, fmt.Errorf("remote: a message is larger than %d bytes", maxLine)
		case err == nil:
			return whole, nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(whole) == 0:
			return nil, io.EOF
		default:
			return nil, s.broken(err)
		}
	}
}

// Take begins to read the messages of a Pour: it tells the caller that they are
// awaited. The stream ends with the request's context; the handler must close it.
func Take(w http.ResponseWriter, r *http.Request) (*Stream, error) {
	ctl := http.NewResponseController(w)
	w.WriteHeader(http.StatusOK)
	if err := ctl.Flush(); err != nil {
		return nil, err
	}
	ctx, interrupted := r.Context(), make(chan struct{})
	// A read does not notice the end of the context by itself.
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		ctl.SetReadDeadline(time.Now())
	})
	end := func() {
		if !stop() {
			<-interrupted // the handler must not return before
		}
	}
	return newStream(r.Body, end, func(err error) error {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return err
	}), nil
}

// Sink sends the messages of a Pour. One goroutine at a time may call Send.
type Sink struct {
	w      *io.PipeWriter
	answer io.ReadCloser
	cancel context.CancelFunc
	broken func(error) error
}

// Send hands a message to the connection. It fails when the stream is over; what was
// sent shortly before that may not have arrived.
func (s *Sink) Send(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("remote: encode message: %w", err)
	}
	if _, err := s.w.Write(append(data, '\n')); err != nil {
		return s.broken(err)
	}
	return nil
}

// Close ends the stream.
func (s *Sink) Close() error {
	s.cancel()
	return errors.Join(s.w.Close(), s.answer.Close())
}
