package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/containerd/errdefs"

	"github.com/meshd/meshd/orchestrator/store"
)

// Texts that clients know.
const (
	textInactive = `This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.`
	textWorker   = `This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this command on a manager node or promote the current node to a manager.`
	textLocked   = `Swarm is encrypted and needs to be unlocked before it can be used. Please use "docker swarm unlock" to unlock it.`
	textActive   = `This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join another one.`
	textNoSwarm  = `This node is not part of a swarm`
	textNoLeader = `The swarm does not have a leader. It's possible that too few managers are online. Make sure more than half of the managers are online.`
	// docker-py and the Terraform provider match this text and its status 500.
	textSequence = `rpc error: code = Unknown desc = update out of sequence`
)

// fault is an error with the status and text that the client gets.
type fault struct {
	status int
	text   string
}

func (f *fault) Error() string { return f.text }

func refuse(status int, format string, args ...any) error {
	if len(args) == 0 {
		return &fault{status: status, text: format}
	}
	return &fault{status: status, text: fmt.Sprintf(format, args...)}
}

func invalid(format string, args ...any) error {
	return refuse(http.StatusBadRequest, format, args...)
}

func notFound(kind, ref string) error {
	return refuse(http.StatusNotFound, "%s %s not found", kind, ref)
}

// noLeader is the refusal when the managers cannot agree, with the cause.
func noLeader(err error) error {
	return refuse(http.StatusServiceUnavailable, "%s (%v)", textNoLeader, err)
}

// classes maps error classes to statuses as Docker does.
var classes = []struct {
	is     func(error) bool
	status int
}{
	{errdefs.IsNotFound, http.StatusNotFound},
	{errdefs.IsInvalidArgument, http.StatusBadRequest},
	{errdefs.IsFailedPrecondition, http.StatusBadRequest},
	{errdefs.IsOutOfRange, http.StatusBadRequest},
	{errdefs.IsAlreadyExists, http.StatusConflict},
	{errdefs.IsConflict, http.StatusConflict},
	{errdefs.IsPermissionDenied, http.StatusForbidden},
	{errdefs.IsUnauthorized, http.StatusUnauthorized},
	{errdefs.IsNotImplemented, http.StatusNotImplemented},
	{errdefs.IsUnavailable, http.StatusServiceUnavailable},
}

func faultOf(err error) *fault {
	var f *fault
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &f):
		return f
	case errors.Is(err, store.ErrSequence):
		return &fault{http.StatusInternalServerError, textSequence}
	case errors.Is(err, store.ErrNameConflict), errors.Is(err, store.ErrExists):
		return &fault{http.StatusConflict, err.Error()}
	case errors.As(err, &tooLarge):
		return &fault{http.StatusRequestEntityTooLarge, fmt.Sprintf("request body is larger than %d bytes", tooLarge.Limit)}
	}
	for _, c := range classes {
		if c.is(err) {
			return &fault{c.status, err.Error()}
		}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return &fault{http.StatusServiceUnavailable, textNoLeader}
	}
	return &fault{http.StatusInternalServerError, err.Error()}
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // the client went away; nobody is left to tell
}
