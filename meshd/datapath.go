package meshd

import (
	"context"
	"fmt"

	"github.com/meshd/meshd/ipvs"
	"github.com/meshd/meshd/ipvs/ebpf"
	"github.com/meshd/meshd/ipvs/nat"
	"github.com/meshd/meshd/meshd/observe"
	"github.com/meshd/meshd/overlay"
)

// datapath is what carries this node's packets, and why that.
type datapath struct {
	driver overlay.Driver
	why    string
	// admit: the host's rules for its own ports decide on published ones.
	admit bool
}

// String says it for people.
func (d datapath) String() string { return fmt.Sprintf("%s: %s", d.driver, d.why) }

// openOverlay chooses the data path and takes over what an earlier process left of it. A node
// without eBPF takes no direct frames, and says so to the others.
func (d *Daemon) openOverlay() (err error) {
	if d.datapath.driver, d.datapath.why, err = overlay.Choose(overlay.Driver(d.cfg.Datapath)); err != nil {
		return err
	}
	d.log.Info("data path", "driver", d.datapath.driver, "why", d.datapath.why)
	if d.datapath.driver == overlay.DriverBridge {
		d.cfg.DirectRouting = false
		d.log.Warn("without eBPF: no backend is ejected for failures, flows are not counted, published ports do not answer on 127.0.0.1, and nodes on one link use the tunnel all the same; see docs/networking.md")
	} else if d.datapath.admit = !d.cfg.BypassFirewall && overlay.CanAdmit(); !d.datapath.admit && !d.cfg.BypassFirewall {
		d.log.Warn("published ports answer whatever the host's packet filter says: the kernel lacks nftables' dup (NFT_DUP_IPV4, NFT_DUP_IPV6)")
	}
	d.overlay, err = overlay.New(overlay.Config{
		Driver: d.datapath.driver, KeyFile: d.cfg.keyFile(), WireGuardPort: d.cfg.WireGuardPort, Admit: d.datapath.admit, RunDir: d.cfg.RunDir, VXLANPort: d.cfg.DataPathPort,
		Direct: d.cfg.DirectRouting, Logger: d.cfg.Logger,
	})
	return err
}

// edgeBalancer is the half of a balancer that works on the node's own packets.
type edgeBalancer interface {
	ipvs.Balancer
	ipvs.Inspector
	ipvs.Witness
	observe.Balancer
	// Fill says how full its maps in the kernel are, by their names.
	Fill() (map[string]ebpf.Fill, error)
}

// uncounted is a balancer that the kernel counts nothing for.
type uncounted struct{ *nat.Balancer }

func (uncounted) Stats() (ebpf.Stats, error)         { return ebpf.Stats{}, nil }
func (uncounted) Flows() ([]ebpf.Flow, error)        { return nil, nil }
func (uncounted) Damage() ([]ipvs.Difference, error) { return nil, nil }

// Suspects reports none, since failures are not counted either.
func (uncounted) Suspects(ctx context.Context, _ func(ipvs.Suspect)) error {
	<-ctx.Done()
	return ctx.Err()
}

func (uncounted) Fill() (map[string]ebpf.Fill, error) { return nil, nil }
