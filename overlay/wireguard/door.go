package wireguard

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// Door configures and reads the devices of the network namespace that it was opened in.
type Door struct {
	c *wgctrl.Client
	// published are the endpoints that peers were given, by device.
	published map[string]map[Key]netip.AddrPort
}

// ErrNoDevice means that there is no such device, or no process behind it any more.
var ErrNoDevice = errors.New("no WireGuard device")

// Open opens a door.
func Open() (*Door, error) {
	c, err := wgctrl.New()
	if err != nil {
		return nil, fmt.Errorf("wireguard: %w", err)
	}
	return &Door{c: c, published: map[string]map[Key]netip.AddrPort{}}, nil
}

// Close closes it; devices stay as they are.
func (d *Door) Close() error { return d.c.Close() }

// Put makes a device that is up as it is wanted, and says how it stands with its peers.
func (d *Door) Put(want Device) (map[Key]Status, error) {
	have, err := d.read(want.Name)
	if err != nil {
		return nil, err
	}
	if c := change(want, have, d.published[want.Name], time.Now()); c != nil {
		if err := d.c.ConfigureDevice(want.Name, *c); err != nil {
			return nil, fmt.Errorf("configure %s: %w", want.Name, gone(err))
		}
	}
	said := make(map[Key]netip.AddrPort, len(want.Peers))
	for key, p := range want.Peers {
		said[key] = p.Endpoint
	}
	d.published[want.Name] = said
	return statuses(have), nil
}

// Status says how it stands with a device's peers.
func (d *Door) Status(name string) (map[Key]Status, error) {
	have, err := d.read(name)
	if err != nil {
		return nil, err
	}
	return statuses(have), nil
}

func (d *Door) read(name string) (*wgtypes.Device, error) {
	have, err := d.c.Device(name)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, gone(err))
	}
	return have, nil
}

// gone tells who asks that the device has to be made anew.
func gone(err error) error {
	if errors.Is(err, os.ErrNotExist) || refused(err) {
		return fmt.Errorf("%w: %w", ErrNoDevice, err)
	}
	return err
}

func statuses(have *wgtypes.Device) map[Key]Status {
	out := make(map[Key]Status, len(have.Peers))
	for _, p := range have.Peers {
		s := Status{Handshake: p.LastHandshakeTime, Received: uint64(p.ReceiveBytes), Sent: uint64(p.TransmitBytes)}
		if p.Endpoint != nil {
			s.Endpoint = endpointOf(p.Endpoint)
		}
		out[Key(p.PublicKey)] = s
	}
	return out
}
