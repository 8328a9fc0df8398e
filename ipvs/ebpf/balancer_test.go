package ebpf

import (
	"testing"

	"github.com/meshd/meshd/ipvs/ipvstest"
)

func TestConforms(t *testing.T) {
	ipvstest.Conform(t, func(t *testing.T) func() ipvstest.Holder {
		r := newRig(t)
		return func() ipvstest.Holder {
			r.restart()
			return r.b
		}
	})
}
