package runner

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
)

// engineError is an error of the engine with the text that users know from
// Swarm, and its class.
type engineError struct {
	text  string
	class error
}

func (e *engineError) Error() string        { return e.text }
func (e *engineError) Is(target error) bool { return errors.Is(e.class, target) }

// plain takes the client's decoration off an engine's error and marks those
// with ErrUnavailable that say nothing of the request but that the engine is away.
func plain(err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	text := said(err)
	if engineAway(err) || errdefs.IsUnavailable(err) {
		return &engineError{text: text, class: errdefs.ErrUnavailable}
	}
	return &engineError{text: text, class: err}
}

// said is an engine's error without the client's decoration.
func said(err error) string { return strings.TrimPrefix(err.Error(), "Error response from daemon: ") }

// engineAway says that a request or its answer did not arrive.
func engineAway(err error) bool {
	var op *net.OpError
	return client.IsErrConnectionFailed(err) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.As(err, &op)
}
