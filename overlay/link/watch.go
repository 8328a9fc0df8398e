package link

import (
	"context"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Watch calls changed whenever something that is ours, or that the underlay is
// found by, was taken away or altered; it returns when ctx ends or netlink
// refuses. It may call too often, and the caller is to look for itself.
func Watch(ctx context.Context, changed func()) error {
	done := make(chan struct{})
	defer close(done)
	links := make(chan netlink.LinkUpdate, 64)
	routes := make(chan netlink.RouteUpdate, 64)
	addrs := make(chan netlink.AddrUpdate, 64)
	if err := netlink.LinkSubscribeWithOptions(links, done, netlink.LinkSubscribeOptions{ListExisting: true}); err != nil {
		return fmt.Errorf("watch devices: %w", err)
	}
	if err := netlink.RouteSubscribe(routes, done); err != nil {
		return fmt.Errorf("watch routes: %w", err)
	}
	if err := netlink.AddrSubscribe(addrs, done); err != nil {
		return fmt.Errorf("watch addresses: %w", err)
	}
	defer drain(links, routes, addrs)
	sizes := mtus{}
	for {
		var hit, open bool
		select {
		case <-ctx.Done():
			return nil
		case u, ok := <-links:
			open, hit = ok, ok && (sizes.changed(u) || linkMatters(u))
		case u, ok := <-routes:
			open, hit = ok, ok && routeMatters(u)
		case u, ok := <-addrs:
			open, hit = ok, ok && (!u.NewAddr || u.LinkAddress.IP.IsGlobalUnicast())
		}
		if !open {
			return fmt.Errorf("netlink closed the subscription")
		}
		if hit {
			changed()
		}
	}
}

// drain lets the subscriptions' senders end: they stop at the next message after done.
func drain(links chan netlink.LinkUpdate, routes chan netlink.RouteUpdate, addrs chan netlink.AddrUpdate) {
	for {
		select {
		case <-links:
		case <-routes:
		case <-addrs:
		default:
			return
		}
	}
}

func linkMatters(u netlink.LinkUpdate) bool {
	a := u.Attrs()
	name := a.Name
	ours := name == VXLANName || name == GatewayName || strings.HasPrefix(name, HostPrefix) && a.Alias != ""
	return ours && (u.Header.Type == unix.RTM_DELLINK || a.Flags&unix.IFF_UP == 0)
}

// mtus remembers the MTU of each device that is not ours, by index.
type mtus map[int32]int

// changed says whether a known device's MTU is another one now.
func (m mtus) changed(u netlink.LinkUpdate) bool {
	a := u.Attrs()
	if u.Header.Type == unix.RTM_DELLINK {
		delete(m, u.Index)
		return false
	}
	before, known := m[u.Index]
	m[u.Index] = a.MTU
	return known && before != a.MTU
}

// routeMatters: others' routes may lead to peers, and carry an MTU.
func routeMatters(u netlink.RouteUpdate) bool {
	if u.Dst == nil || isDefault(u.Dst) {
		return true
	}
	if u.Protocol == routeProtocol {
		return u.Type == unix.RTM_DELROUTE
	}
	return u.Table == unix.RT_TABLE_MAIN && !u.Dst.IP.IsLinkLocalUnicast() && !u.Dst.IP.IsMulticast()
}

// WatchAddrs calls changed whenever an address of this machine came or went, except
// for those that never leave a link or the machine; it returns when ctx ends or
// netlink refuses.
func WatchAddrs(ctx context.Context, changed func()) error {
	done := make(chan struct{})
	defer close(done)
	addrs := make(chan netlink.AddrUpdate, 64)
	if err := netlink.AddrSubscribe(addrs, done); err != nil {
		return fmt.Errorf("watch addresses: %w", err)
	}
	defer drain(nil, nil, addrs)
	for {
		select {
		case <-ctx.Done():
			return nil
		case u, ok := <-addrs:
			if !ok {
				return fmt.Errorf("netlink closed the subscription")
			}
			if ip := u.LinkAddress.IP; !ip.IsLinkLocalUnicast() && !ip.IsLoopback() {
				changed()
			}
		}
	}
}
