package meshd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/meshd/meshd/ipvs"
	"github.com/meshd/meshd/ipvs/ebpf"
	"github.com/meshd/meshd/ipvs/kernel"
	"github.com/meshd/meshd/ipvs/nat"
	"github.com/meshd/meshd/overlay"
)

// The values of Config.Balancer; empty: BalancerAuto.
const (
	BalancerAuto = "auto"
	BalancerEBPF = "ebpf"
	BalancerIPVS = "ipvs"
)

// ErrUnknownBalancer is a Config.Balancer that is none of the above.
var ErrUnknownBalancer = errors.New("balancer must be auto, ebpf or ipvs")

// balancer is what leads this node's connections: eBPF, or nftables where there is none, and before it IPVS inside containers.
type balancer struct {
	edgeBalancer
	layers ipvs.Layers
	// inside is nil if this machine's kernel has no IPVS, or containers never held services of it.
	inside *kernel.Balancer
	// former holds the nftables rules that a daemon without eBPF left; nil: they are gone, or this one's.
	former *nat.Balancer
	// why is for people.
	why string
}

func newBalancer(cfg Config, o *overlay.Overlay, path datapath) (*balancer, error) {
	b := &balancer{layers: ipvs.Layers{Marker: filepath.Join(cfg.RunDir, "ipvs")}}
	var err error
	if b.layers.Leads, b.why, err = chooseBalancer(cfg.Balancer, path, kernel.Supported); err != nil {
		return nil, err
	}
	if b.layers.Leads || b.layers.Left() {
		b.inside, err = kernel.New(kernel.Config{
			Namespace: func(a ipvs.ClientAddr) (*os.File, error) { return o.Namespace(a.VNI, a.Addr) }, Logger: cfg.Logger,
		})
		if err != nil {
			return nil, err
		}
		b.layers.Inside = b.inside
	}
	if path.driver == overlay.DriverBridge {
		b.edgeBalancer = uncounted{nat.New()}
	} else {
		b.former = nat.New()
		b.edgeBalancer, err = ebpf.New(ebpf.Config{
			HooksPath: o.HooksPath(), PinDir: filepath.Join(cfg.RunDir, "bpf", "ipvs"), Logger: cfg.Logger,
			Mode: ebpf.Mode(cfg.LoadBalancer), Admit: path.admit,
		})
	}
	b.layers.Node = b.edgeBalancer
	return b, err
}

// chooseBalancer says whether IPVS leads to virtual addresses, and why what leads does. Where there is no eBPF IPVS is better than nftables
// alone: it counts connections, remembers clients, and keeps nearly all of them where they are when tasks come or go.
func chooseBalancer(asked string, path datapath, supported func() error) (byIPVS bool, why string, err error) {
	const askedFor = "asked for by --balancer"
	bridge := path.driver == overlay.DriverBridge
	switch asked {
	case "", BalancerAuto:
		if !bridge {
			return false, "eBPF: the kernel has what it needs", nil
		}
		if err := supported(); err != nil {
			return false, fmt.Sprintf("nftables: the data path has no eBPF, and %v", err), nil
		}
		why = "the data path has no eBPF, and the kernel has IPVS"
	case BalancerEBPF:
		if bridge {
			return false, "", fmt.Errorf("--balancer=ebpf needs the data path ebpf, and it is %s", path)
		}
		return false, "eBPF: " + askedFor, nil
	case BalancerIPVS:
		why = askedFor
	default:
		return false, "", fmt.Errorf("%w, not %q", ErrUnknownBalancer, asked)
	}
	if bridge {
		return true, "IPVS for virtual addresses, nftables for published ports: " + why, nil
	}
	return true, "IPVS for virtual addresses, eBPF for published ports: " + why, nil
}

// Set implements ipvs.Balancer. What led before is taken away when all is led.
func (b *balancer) Set(s ipvs.State) error {
	err := b.layers.Set(s)
	if err == nil && b.former != nil {
		if err = b.former.Set(ipvs.State{}); err == nil {
			b.former = nil
		}
	}
	return err
}

// Held implements ipvs.Holder.
func (b *balancer) Held() (ipvs.State, error) { return b.layers.Held() }

// Damage implements ipvs.Inspector.
func (b *balancer) Damage() ([]ipvs.Difference, error) { return b.layers.Damage() }

// Run brings VIPs to containers that start, until ctx ends.
func (b *balancer) Run(ctx context.Context) error {
	if b.layers.Leads {
		return b.inside.Run(ctx)
	}
	<-ctx.Done()
	return ctx.Err()
}
