package agent

import (
	"context"

	"github.com/meshd/meshd/orchestrator/remote"
)

// Remote is the Client that real managers are reached with.
func Remote(c *remote.Client) Client { return remoteClient{c} }

type remoteClient struct{ *remote.Client }

func (c remoteClient) Open(ctx context.Context, addr, path string, in any) (Stream, error) {
	s, err := c.Client.Open(ctx, addr, path, in)
	if err != nil {
		return nil, err // not s: a nil *remote.Stream would be a Stream
	}
	return s, nil
}

func (c remoteClient) Pour(ctx context.Context, addr, path string) (Sink, error) {
	s, err := c.Client.Pour(ctx, addr, path)
	if err != nil {
		return nil, err // as above
	}
	return s, nil
}
