package dispatcher

import (
	"github.com/containerd/errdefs"

	"github.com/meshd/meshd/orchestrator/remote"
)

// Why a session ended.
var (
	errStopped  = remote.Errorf(errdefs.ErrUnavailable, "this manager is shutting down")
	errReplaced = remote.Errorf(errdefs.ErrUnavailable, "the node opened another session")
	errRemoved  = remote.Errorf(errdefs.ErrPermissionDenied, "the node is not part of the swarm any more")
	errCutOff   = remote.Errorf(errdefs.ErrUnavailable, "this manager cannot reach the leader")
)
