package lab

import (
	"context"
	"fmt"
	"time"

	"github.com/meshd/meshd/test/slowness"
)

const pollEvery = 20 * time.Millisecond

// limited ends ctx after a time, which is longer on slow machines.
func limited(ctx context.Context, usual time.Duration) (context.Context, context.CancelFunc) {
	limit := slowness.Stretch(usual)
	return context.WithTimeoutCause(ctx, limit, fmt.Errorf("not within %s", limit))
}

// poll calls try until it returns nil; when ctx ends first, the error tells what try said last.
func poll(ctx context.Context, try func() error) error {
	ticker := time.NewTicker(slowness.Stretch(pollEvery))
	defer ticker.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (%w)", err, context.Cause(ctx))
		case <-ticker.C:
		}
	}
}
