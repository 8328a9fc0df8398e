package link

import (
	"fmt"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Apart runs fn in a network namespace of its own, which ends with it.
func Apart(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and the namespace with it
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("namespace: %w", err)
			return
		}
		done <- fn()
	}()
	return <-done
}

// CanTunnel makes a VXLAN device in a namespace of its own.
func CanTunnel() error {
	return try(func(h *netlink.Handle) error {
		return h.LinkAdd(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: VXLANName}, FlowBased: true, Port: 4789})
	})
}

// try has a namespace of its own changed.
func try(change func(*netlink.Handle) error) error {
	return Apart(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("netlink: %w", err)
		}
		defer h.Close()
		return change(h)
	})
}
