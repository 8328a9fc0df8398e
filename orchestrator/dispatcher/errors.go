package dispatcher

import (
	"github.com/containerd/errdefs"

	"github.com/meshd/meshd/orchestrator/remote"
)

// Why a session ended.
var (
	errStopped  = remote.Errorf(errdefs.ErrUnavailable, "this manager is shutting down")
	errReplaced = remote.Errorf(errdefs.ErrUnavailable, "the node opened another session")
	errCutOff   = remote.Errorf(errdefs.ErrUnavailable, "this manager cannot reach the leader")
)
