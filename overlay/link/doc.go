// Package link is the overlay's door to netlink (rtnetlink(7)): devices,
// addresses, routes, neighbours, filters, and the switches under /proc/sys/net
// that belong to them.
//
// A Door works on the network namespace of the thread that opened it. What this
// package makes is recognisable, so that a later process can take it over and
// nothing else is ever touched: devices by the names below, routes by their
// protocol number, a container's interface by its alias.
package link

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The names of our devices.
const (
	// VXLANName is the one tunnel device.
	VXLANName = "mesh-vx0"
	// GatewayName is the device that holds the gateway addresses.
	GatewayName = "mesh0"
	// WireGuardPrefix starts the names of the devices that encrypt.
	WireGuardPrefix = "mesh-wg"
	// HostPrefix starts the name of the host side of a container's interface,
	// PeerPrefix that of the other side until the engine renames it.
	HostPrefix = "mv"
	PeerPrefix = "mp"
)

// routeProtocol marks our routes (rtnetlink's rtm_protocol; 'm').
const routeProtocol = netlink.RouteProtocol(0x6d)

// Door talks to the kernel's netlink of one network namespace.
type Door struct {
	h *netlink.Handle
	// frames is a packet socket that only sends; -1 for who may only look.
	frames int
}

// Open opens a door to the calling thread's network namespace.
func Open() (*Door, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	frames, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil && !errors.Is(err, unix.EPERM) { // without rights one can read routes all the same
		h.Close()
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	return &Door{h: h, frames: frames}, nil
}

// Close closes the sockets.
func (d *Door) Close() {
	d.h.Close()
	if d.frames >= 0 {
		_ = unix.Close(d.frames)
	}
}

// SendFrame sends an Ethernet frame as it is.
func (d *Door) SendFrame(ifindex int, frame []byte) error {
	if err := unix.Sendto(d.frames, frame, 0, &unix.SockaddrLinklayer{Ifindex: ifindex}); err != nil {
		return fmt.Errorf("send a frame on device %d: %w", ifindex, err)
	}
	return nil
}

// dump repeats a listing that changed while it was read (NLM_F_DUMP_INTR).
func dump[T any](list func() ([]T, error)) ([]T, error) {
	const tries = 5
	var (
		all []T
		err error
	)
	for range tries {
		all, err = list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

func missing(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ESRCH) ||
		errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EADDRNOTAVAIL)
}
