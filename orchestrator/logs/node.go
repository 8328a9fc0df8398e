package logs

import (
	"context"
	"net/http"

	"github.com/containerd/errdefs"

	"github.com/meshd/meshd/orchestrator/remote"
)

// pattern is the node's route.
const pattern = "GET /tasks/{task}/logs"

// Source reads the logs of this node's tasks.
type Source interface {
	// Logs calls line for each line of a task until there are no more, or, when
	// following, until its container has ended. It ends with line's error, if any.
	// A task without a container is errdefs.ErrNotFound.
	Logs(ctx context.Context, task string, o Options, line func(Line) error) error
}

// item is one message of a node's answer: a line, or why there are no more.
type item struct {
	Line  *Line  `json:",omitempty"`
	Error string `json:",omitempty"`
}

// Register adds the node's route to those that managers reach through tunnels.
func Register(mux *http.ServeMux, s Source) {
	mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		o, err := parseOptions(r.URL.Query())
		if err != nil {
			remote.Fail(w, remote.Errorf(errdefs.ErrInvalidArgument, "logs: %v", err))
			return
		}
		out := remote.NewSender(w)
		err = s.Logs(r.Context(), r.PathValue("task"), o, func(l Line) error { return out.Send(item{Line: &l}) })
		if err != nil && r.Context().Err() == nil {
			out.Send(item{Error: err.Error()}) // fails when nobody listens any more
		}
	})
}
