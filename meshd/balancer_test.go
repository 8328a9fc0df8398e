package meshd

import (
	"errors"
	"strings"
	"testing"

	"github.com/meshd/meshd/ipvs/kernel"
	"github.com/meshd/meshd/overlay"
)

func TestTheBalancerIsChosenByWhatTheKernelHas(t *testing.T) {
	there := func() error { return nil }
	missing := func() error { return kernel.ErrUnsupported }
	for _, c := range []struct {
		asked     string
		driver    overlay.Driver
		supported func() error
		byIPVS    bool
		why       string
	}{
		{"", overlay.DriverEBPF, there, false, "eBPF: the kernel has"},
		{BalancerAuto, overlay.DriverEBPF, there, false, "eBPF: the kernel has"},
		{BalancerAuto, overlay.DriverBridge, there, true, "IPVS for virtual addresses, nftables for published ports: the data path has no eBPF"},
		{BalancerAuto, overlay.DriverBridge, missing, false, "nftables: the data path has no eBPF, and this kernel has no IPVS"},
		{BalancerEBPF, overlay.DriverEBPF, there, false, "eBPF: asked for"},
		{BalancerIPVS, overlay.DriverEBPF, there, true, "IPVS for virtual addresses, eBPF for published ports: asked for"},
		{BalancerIPVS, overlay.DriverBridge, there, true, "IPVS for virtual addresses, nftables for published ports: asked for"},
	} {
		byIPVS, why, err := chooseBalancer(c.asked, datapath{driver: c.driver}, c.supported)
		if err != nil || byIPVS != c.byIPVS || !strings.HasPrefix(why, c.why) {
			t.Errorf("%q with %s: IPVS %v, %q, %v", c.asked, c.driver, byIPVS, why, err)
		}
	}
	if _, _, err := chooseBalancer(BalancerEBPF, datapath{driver: overlay.DriverBridge}, there); err == nil {
		t.Error("eBPF is promised where there is none")
	}
}

func TestUnknownBalancerIsRefused(t *testing.T) {
	if _, err := newBalancer(Config{Balancer: "lvs", RunDir: t.TempDir()}, nil, datapath{}); !errors.Is(err, ErrUnknownBalancer) {
		t.Errorf("got %v", err)
	}
}
