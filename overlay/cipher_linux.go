package overlay

import (
	"errors"

	"github.com/meshd/meshd/overlay/link"
	"github.com/meshd/meshd/overlay/wireguard"
)

// putCipher makes the kernel's device or, where the kernel has no WireGuard, has a
// helper make one. One whose helper has ended is gone, or goes now: the next try makes
// it anew.
func (k *linuxKernel) putCipher(d wireguard.Device, mtu int) (cipher, error) {
	if k.wg == nil {
		door, err := wireguard.Open()
		if err != nil {
			return cipher{}, err
		}
		k.wg = door
	}
	err := k.door.PutWireGuard(d.Name, mtu)
	if errors.Is(err, link.ErrNoWireGuard) {
		if err = wireguard.Start(d.Name, mtu); err == nil {
			err = k.door.PutWireGuard(d.Name, mtu)
		}
	}
	if err != nil {
		return cipher{}, err
	}
	if d.Addr.IsValid() {
		if err := k.door.PutAddr(d.Name, d.Addr); err != nil {
			return cipher{}, err
		}
	}
	peers, err := k.wg.Put(d)
	if errors.Is(err, wireguard.ErrNoDevice) {
		return cipher{}, errors.Join(err, k.removeCipher(d.Name))
	}
	if err != nil {
		return cipher{}, err
	}
	devices, err := k.door.Devices()
	for _, dev := range devices {
		if dev.Name == d.Name {
			return cipher{ifindex: dev.Index, peers: peers}, err
		}
	}
	return cipher{}, errors.Join(err, wireguard.ErrNoDevice)
}

func (k *linuxKernel) removeCipher(name string) error { return k.door.DeleteDevice(name) }
