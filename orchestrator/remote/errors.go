package remote

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/containerd/errdefs"

	"github.com/meshd/meshd/certs"
)

var (
	// ErrElsewhere: this manager did nothing; another one, the leader, must be asked.
	ErrElsewhere = errors.New("another manager must be asked")
	// ErrNotSent: the manager could not be dialled, so it has seen nothing.
	ErrNotSent = errors.New("not sent")
)

// errRemoved is certs.ErrBlocked with the class that older callers know.
var errRemoved = errors.Join(errdefs.ErrPermissionDenied, certs.ErrBlocked)

// Removed refuses a node that was removed from the swarm; certs.ErrBlocked on both sides.
func Removed(nodeID string) error {
	return Errorf(errRemoved, "node %s was removed from the swarm", nodeID)
}

// class ties an error class to its name on the wire and its HTTP status. The
// names travel between versions and must not change.
type class struct {
	name   string
	status int
	is     func(error) bool
	make   func(msg string) error
}

func classes() []class {
	return []class{
		{"not-found", http.StatusNotFound, errdefs.IsNotFound, errdefs.ErrNotFound.WithMessage},
		{"invalid-argument", http.StatusBadRequest, errdefs.IsInvalidArgument, errdefs.ErrInvalidArgument.WithMessage},
		{"already-exists", http.StatusConflict, errdefs.IsAlreadyExists, errdefs.ErrAlreadyExists.WithMessage},
		{"conflict", http.StatusConflict, errdefs.IsConflict, errdefs.ErrConflict.WithMessage},
		{"removed", http.StatusForbidden, func(err error) bool { return errors.Is(err, certs.ErrBlocked) }, wrapper(errRemoved)},
		{"permission-denied", http.StatusForbidden, errdefs.IsPermissionDenied, errdefs.ErrPermissionDenied.WithMessage},
		{"unauthenticated", http.StatusUnauthorized, errdefs.IsUnauthorized, errdefs.ErrUnauthenticated.WithMessage},
		{"failed-precondition", http.StatusPreconditionFailed, errdefs.IsFailedPrecondition, errdefs.ErrFailedPrecondition.WithMessage},
		{"resource-exhausted", http.StatusTooManyRequests, errdefs.IsResourceExhausted, errdefs.ErrResourceExhausted.WithMessage},
		{"not-implemented", http.StatusNotImplemented, errdefs.IsNotImplemented, errdefs.ErrNotImplemented.WithMessage},
		{"elsewhere", http.StatusMisdirectedRequest, func(err error) bool { return errors.Is(err, ErrElsewhere) }, wrapper(ErrElsewhere)},
		{"unavailable", http.StatusServiceUnavailable, errdefs.IsUnavailable, errdefs.ErrUnavailable.WithMessage},
		{"aborted", http.StatusConflict, errdefs.IsAborted, errdefs.ErrAborted.WithMessage},
		{"deadline", http.StatusGatewayTimeout, errdefs.IsDeadlineExceeded, wrapper(context.DeadlineExceeded)},
		{"canceled", http.StatusRequestTimeout, errdefs.IsCanceled, wrapper(context.Canceled)},
		{"unknown", http.StatusInternalServerError, func(error) bool { return true }, errors.New},
	}
}

// Error has a clean text and a class for errors.Is.
type Error struct {
	Text  string
	Class error
}

func (e *Error) Error() string { return e.Text }

// Unwrap makes the class visible to errors.Is and errdefs.
func (e *Error) Unwrap() error { return e.Class }

// Errorf returns an error of a class (errdefs.ErrNotFound, say) whose text is
// the formatted one alone.
func Errorf(class error, format string, args ...any) error {
	return &Error{Text: fmt.Sprintf(format, args...), Class: class}
}

func wrapper(class error) func(string) error {
	return func(msg string) error { return &Error{Text: msg, Class: class} }
}

// failure is an error on the wire.
type failure struct {
	Class   string
	Message string
}

func classOf(err error) class {
	all := classes()
	for _, c := range all {
		if c.is(err) {
			return c
		}
	}
	return all[len(all)-1]
}

// restore makes the error that the other side failed with.
func (f failure) restore() error {
	for _, c := range classes() {
		if c.name == f.Class {
			return c.make(f.Message)
		}
	}
	return errors.New(f.Message)
}
