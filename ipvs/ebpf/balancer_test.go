package ebpf

import (
	"errors"
	"testing"

	"github.com/meshd/meshd/ipvs/ipvstest"
)

func TestConforms(t *testing.T) {
	for _, mode := range []Mode{ModePacket, ModeSocket} {
		t.Run(string(mode), func(t *testing.T) {
			ipvstest.Conform(t, func(t *testing.T) func() ipvstest.Holder {
				r := newRigIn(t, mode)
				return func() ipvstest.Holder {
					r.restart()
					return r.b
				}
			})
		})
	}
}

func TestUnknownModeIsRefused(t *testing.T) {
	if _, err := New(Config{Mode: "fast"}); !errors.Is(err, ErrUnknownMode) {
		t.Errorf("got %v", err)
	}
}
