package overlay

import (
	"errors"
	"fmt"

	"github.com/meshd/meshd/overlay/link"
	"github.com/meshd/meshd/overlay/nft"
)

// Driver says what carries packets between containers. See DESIGN.md.
type Driver string

// The drivers.
const (
	// DriverEBPF has programs on each device decide and forward.
	DriverEBPF Driver = "ebpf"
	// DriverBridge has the kernel's own routing and packet filter do it, without any eBPF.
	DriverBridge Driver = "bridge"
	// DriverAuto is the first of these that the kernel can do.
	DriverAuto Driver = "auto"
)

// Choose gives the driver that a mode means on this kernel, and why that one. It tries
// what the kernel has, whatever its version says.
func Choose(mode Driver) (d Driver, why string, err error) {
	switch mode {
	case DriverEBPF:
		return mode, "as told by --datapath", nil
	case DriverBridge:
		if err := CanForward(); err != nil {
			return "", "", fmt.Errorf("--datapath=%s: %w", mode, err)
		}
		return mode, "as told by --datapath", nil
	case DriverAuto, "":
		lacks := CanRunPrograms()
		if lacks == nil {
			return DriverEBPF, "the kernel has all of eBPF that is needed", nil
		}
		if err := CanForward(); err != nil {
			return "", "", fmt.Errorf("neither data path works here: %w", errors.Join(lacks, err))
		}
		return DriverBridge, fmt.Sprintf("the kernel refuses eBPF: %v", lacks), nil
	}
	return "", "", fmt.Errorf("--datapath=%s: want %s, %s or %s", mode, DriverAuto, DriverEBPF, DriverBridge)
}

// CanForward says what this kernel lacks for DriverBridge: it makes all kinds of things that
// the driver does, in a namespace that ends at once.
func CanForward() error {
	return link.Apart(func() error {
		door, err := link.Open()
		if err != nil {
			return err
		}
		defer door.Close()
		return tryForwarding(&linuxKernel{door: door})
	})
}

func tryForwarding(k *linuxKernel) error {
	s := trialState()
	w := wantBridgeDevices(s, facts{live: true}, defaultVXLANPort)
	for _, o := range diff(w, nil, 0, lastDeviceRank) {
		if err := k.do(o); err != nil {
			return err
		}
	}
	f, err := k.facts(s, false)
	if err != nil {
		return err
	}
	f.live = true
	for _, o := range diff(wantBridge(s, f, defaultVXLANPort), nil, lastDeviceRank+1, lastRank) {
		if err := k.do(o); err != nil {
			return err
		}
	}
	return nft.DeleteArrive()
}

// driver is the pure half of a Driver: which objects in the kernel a state means.
type driver struct {
	devices func(s State, f facts, vxlanPort uint16) objects
	rest    func(s State, f facts, vxlanPort uint16) objects
	// port adds what a container needs whose packets are to go on.
	port func(w objects, s State, p port)
}

func (d Driver) objects() driver {
	if d == DriverBridge {
		return driver{wantBridgeDevices, wantBridge, wantBridgePort}
	}
	return driver{wantDevices, want, wantPort}
}
