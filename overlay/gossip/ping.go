package gossip

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"
)

// ErrNotOpen: gossip has no port yet.
var ErrNotOpen = errors.New("gossip: the managers have sent no key yet")

// Ping asks a member over UDP alone, and again until it answers or ctx ends: what
// watches members goes on over TCP and over others when UDP is lost.
func (g *Gossip) Ping(ctx context.Context, id string, addr netip.AddrPort) error {
	list := g.open()
	if list == nil {
		return ErrNotOpen
	}
	for {
		_, err := list.Ping(id, net.UDPAddrFromAddrPort(addr))
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(probeTimeout):
		}
	}
}
