package ipvs_test

import (
	"testing"

	"github.com/meshd/meshd/ipvs"
	"github.com/meshd/meshd/ipvs/ipvstest"
)

func TestSplitConforms(t *testing.T) {
	ipvstest.Conform(t, func(*testing.T) func() ipvstest.Holder {
		return func() ipvstest.Holder { return ipvs.Split{VIPs: &ipvstest.Fake{}, Published: &ipvstest.Fake{}} }
	})
}
