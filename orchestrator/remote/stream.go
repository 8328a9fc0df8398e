package remote

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
