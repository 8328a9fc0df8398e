package overlay

import (
	"errors"

	"github.com/meshd/meshd/overlay/datapath"
	"github.com/meshd/meshd/overlay/link"
	"github.com/meshd/meshd/overlay/nft"
	"github.com/meshd/meshd/overlay/wireguard"
)

// What the kernel must have can be tried without a data plane, and leaves nothing
// behind. Without rights the errors are os.ErrPermission.

// CanRunPrograms says what of eBPF the kernel lacks.
func CanRunPrograms() error { return datapath.Supported() }

// CanTunnel says whether the kernel has VXLAN.
func CanTunnel() error { return link.CanTunnel() }

// CanEncrypt says what WireGuard needs and this machine lacks; inKernel: nothing but
// what the kernel has.
func CanEncrypt() (inKernel bool, err error) {
	err = link.CanEncrypt()
	if errors.Is(err, link.ErrNoWireGuard) {
		return false, wireguard.CanServe()
	}
	return err == nil, err
}

// CanFilter says whether the kernel has nftables.
func CanFilter() error { return link.Apart(nft.CanFilter) }

// ClosedChains lists the packet filter's chains that drop what comes in to this
// machine unless a rule accepts it.
func ClosedChains() ([]string, error) { return nft.Closed() }
