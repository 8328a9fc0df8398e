package lab

import (
	"context"
	"fmt"
	"time"
)

const pollEvery = 20 * time.Millisecond

// poll calls try until it returns nil; when ctx ends first, the error tells what try said last.
func poll(ctx context.Context, try func() error) error {
	ticker := time.NewTicker(pollEvery)
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
