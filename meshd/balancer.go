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

// balancer is what leads this node's connections: eBPF, or nftables where there is none, or IPVS where VIPs are concerned.
type balancer struct {
	edgeBalancer
	// inside are the containers' IPVS, nil if this machine's kernel has none or it was never asked for.
	inside *kernel.Balancer
	// byIPVS: inside leads VIPs. Otherwise it is emptied of what a former daemon put there.
	byIPVS bool
	// marker is the file that tells a later daemon that containers hold IPVS services.
	marker string
	// why is for people.
	why string
}

func newBalancer(cfg Config, o *overlay.Overlay, path datapath) (*balancer, error) {
	b := &balancer{marker: filepath.Join(cfg.RunDir, "ipvs")}
	bridge := path.driver == overlay.DriverBridge
	switch cfg.Balancer {
	case "", BalancerAuto:
		b.why = "eBPF: the kernel has what it needs"
		if bridge {
			b.why = "nftables: the data path has no eBPF"
		}
	case BalancerEBPF:
		if bridge {
			return nil, fmt.Errorf("--balancer=ebpf needs the data path ebpf, and it is %s", path)
		}
		b.why = "eBPF: asked for by --balancer"
	case BalancerIPVS:
		b.why, b.byIPVS = "IPVS for virtual addresses, eBPF for published ports: asked for by --balancer", true
		if bridge {
			b.why = "IPVS for virtual addresses, nftables for published ports: asked for by --balancer"
		}
	default:
		return nil, fmt.Errorf("%w, not %q", ErrUnknownBalancer, cfg.Balancer)
	}
	if _, err := os.Stat(b.marker); err == nil || b.byIPVS {
		b.inside, err = kernel.New(kernel.Config{
			Namespace: func(a ipvs.ClientAddr) (*os.File, error) { return o.Namespace(a.VNI, a.Addr) }, Logger: cfg.Logger,
		})
		if err != nil {
			return nil, err
		}
	}
	if b.byIPVS {
		if err := os.WriteFile(b.marker, nil, 0o600); err != nil {
			return nil, err
		}
	}
	if bridge {
		b.edgeBalancer = uncounted{nat.New()}
		return b, nil
	}
	var err error
	b.edgeBalancer, err = ebpf.New(ebpf.Config{
		HooksPath: o.HooksPath(), PinDir: filepath.Join(cfg.RunDir, "bpf", "ipvs"), Logger: cfg.Logger,
		Mode: ebpf.Mode(cfg.LoadBalancer), Admit: path.admit,
	})
	return b, err
}

func (b *balancer) split() ipvs.Split { return ipvs.Split{VIPs: b.inside, Published: b.edgeBalancer} }

// Set implements ipvs.Balancer.
func (b *balancer) Set(s ipvs.State) error {
	if b.byIPVS {
		return b.split().Set(s)
	}
	err := b.edgeBalancer.Set(s)
	if b.inside != nil {
		err = errors.Join(err, b.clear(s))
	}
	return err
}

// clear takes away what a former daemon led by IPVS; VIPs that are rewritten in a container never get to eBPF.
func (b *balancer) clear(s ipvs.State) error {
	if err := b.inside.Set(ipvs.State{Clients: s.Clients}); err != nil {
		return err
	}
	if err := os.Remove(b.marker); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	b.inside = nil
	return nil
}

// Held implements ipvs.Holder.
func (b *balancer) Held() (ipvs.State, error) {
	if b.byIPVS {
		return b.split().Held()
	}
	return b.edgeBalancer.Held()
}

// Damage implements ipvs.Inspector.
func (b *balancer) Damage() ([]ipvs.Difference, error) {
	if b.byIPVS {
		return b.split().Damage()
	}
	return b.edgeBalancer.Damage()
}

// Run brings VIPs to containers that start, until ctx ends.
func (b *balancer) Run(ctx context.Context) error {
	if b.byIPVS {
		return b.inside.Run(ctx)
	}
	<-ctx.Done()
	return ctx.Err()
}
