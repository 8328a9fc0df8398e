package link

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Silence has a container ask nobody for neighbours: all that it sends has its own MAC
// address for destination, which is the near end's then, too.
func (d *Door) Silence(id string, mac [6]byte) error {
	host, err := d.h.LinkByName(HostName(id))
	if missing(err) {
		return nil
	}
	if err == nil {
		err = d.atPeer(id, host.Attrs(), func(h *netlink.Handle, peer netlink.Link) error { return h.LinkSetARPOff(peer) })
	}
	if err == nil {
		err = d.h.LinkSetHardwareAddr(host, mac[:])
	}
	if err = ignoreMissing(err); err != nil {
		return fmt.Errorf("silence %s: %w", HostName(id), err)
	}
	return nil
}

// atPeer changes the far end of a container's interface, wherever it is.
func (d *Door) atPeer(id string, host *netlink.LinkAttrs, change func(*netlink.Handle, netlink.Link) error) error {
	if host.NetNsID < 0 { // the far end is still here
		peer, err := d.h.LinkByName(PeerName(id))
		if err == nil {
			err = change(d.h, peer)
		}
		return ignoreMissing(err)
	}
	ns, err := d.namespaceOf(host.NetNsID)
	if err != nil || !ns.IsOpen() {
		return err
	}
	defer ns.Close()
	inside, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer inside.Close()
	peer, err := inside.LinkByIndex(host.ParentIndex)
	if err == nil {
		err = change(inside, peer)
	}
	return ignoreMissing(err)
}

// namespaceOf opens the network namespace that this one knows by a number
// (rtnetlink's nsid); a closed handle if no process is in it.
func (d *Door) namespaceOf(nsid int) (netns.NsHandle, error) {
	processes, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return netns.None(), err
	}
	seen := map[string]bool{}
	for _, path := range processes {
		inode, err := os.Readlink(path)
		if err != nil || seen[inode] {
			continue // ended meanwhile
		}
		seen[inode] = true
		ns, err := netns.GetFromPath(path)
		if errors.Is(err, fs.ErrNotExist) {
			seen[inode] = false
			continue
		}
		if err != nil {
			return netns.None(), err
		}
		if got, err := d.h.GetNetNsIdByFd(int(ns)); err == nil && got == nsid {
			return ns, nil
		}
		_ = ns.Close()
	}
	return netns.None(), nil
}

// Namespace opens the network namespace that this one knows by a number; nil if no process is in it.
func (d *Door) Namespace(nsid int) (*os.File, error) {
	ns, err := d.namespaceOf(nsid)
	if err != nil || !ns.IsOpen() {
		return nil, err
	}
	return os.NewFile(uintptr(ns), "network namespace"), nil
}

func ignoreMissing(err error) error {
	if missing(err) {
		return nil
	}
	return err
}
