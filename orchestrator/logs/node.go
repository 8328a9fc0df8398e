package logs

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

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

const (
	// beat is how often a node says that it is there, whatever its tasks write.
	beat = time.Second
	// readerPatience is how long lines may wait for somebody who reads them page by page.
	readerPatience = time.Hour
	// enginePatience is how long an engine may search for the next line of what was written before.
	enginePatience = 30 * time.Second
)

var errEngineSilent = fmt.Errorf("the node's engine gave nothing for %v", enginePatience)

// item is one message of a node's answer: a line, why there are no more, or
// nothing but that the node is there.
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
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		out := remote.NewSender(w)
		out.Patience = readerPatience
		var beats sync.WaitGroup
		beats.Go(func() { keepBeating(ctx, out) })
		err = read(ctx, s, r.PathValue("task"), o, func(l Line) error { return out.Send(item{Line: &l}) })
		cancel()
		beats.Wait()
		if err != nil && r.Context().Err() == nil {
			out.Send(item{Error: err.Error()}) // fails when nobody listens any more
		}
	})
}

// keepBeating sends empty items until ctx ends.
func keepBeating(ctx context.Context, out *remote.Sender) {
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for ctx.Err() == nil && out.Send(item{}) == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// read gives a task's lines, and gives up an engine that hangs: of what was written
// before, the next line cannot take long.
func read(ctx context.Context, s Source, task string, o Options, line func(Line) error) error {
	if o.Follow {
		return s.Logs(ctx, task, o, line)
	}
	return patiently(ctx, enginePatience, errEngineSilent, line, func(ctx context.Context, line func(Line) error) error {
		return s.Logs(ctx, task, o, line)
	})
}
