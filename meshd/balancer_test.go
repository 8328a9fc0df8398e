package meshd

import (
	"errors"
	"testing"
)

func TestUnknownBalancerIsRefused(t *testing.T) {
	if _, err := newBalancer(Config{Balancer: "lvs", RunDir: t.TempDir()}, nil, datapath{}); !errors.Is(err, ErrUnknownBalancer) {
		t.Errorf("got %v", err)
	}
}
