package link

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Our clsact filters: where they stand, and how their names start.
const (
	filterHandle   = 0x6d
	filterPriority = 0x6d
	filterPrefix   = "mesh-"
)

// PutFilter attaches a tc program to the device's ingress, or swaps the one that
// PutFilter attached before. The device keeps the program.
func (d *Door) PutFilter(ifindex int, name string, fd int) error {
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	if err := d.h.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("clsact on device %d: %w", ifindex, err)
	}
	f := filter(ifindex)
	f.Fd, f.Name, f.DirectAction = fd, filterPrefix+name, true
	if err := d.h.FilterReplace(f); err != nil {
		return fmt.Errorf("filter on device %d: %w", ifindex, err)
	}
	return nil
}

// DeleteFilter takes our program off the device; the qdisc may serve others and stays.
func (d *Door) DeleteFilter(ifindex int) error {
	if err := d.h.FilterDel(filter(ifindex)); err != nil && !missing(err) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("delete filter on device %d: %w", ifindex, err)
	}
	return nil
}

// Filter gives the name and the program ID of our filter on a device, or "".
func (d *Door) Filter(ifindex int) (name string, id uint32, err error) {
	dev := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}
	filters, err := dump(func() ([]netlink.Filter, error) { return d.h.FilterList(dev, netlink.HANDLE_MIN_INGRESS) })
	if err != nil {
		if missing(err) || errors.Is(err, unix.EINVAL) {
			return "", 0, nil // no such device, or no clsact on it
		}
		return "", 0, fmt.Errorf("filters of device %d: %w", ifindex, err)
	}
	for _, f := range filters {
		if b, ok := f.(*netlink.BpfFilter); ok && b.Priority == filterPriority && len(b.Name) > len(filterPrefix) {
			return b.Name[len(filterPrefix):], uint32(b.Id), nil
		}
	}
	return "", 0, nil
}

func filter(ifindex int) *netlink.BpfFilter {
	return &netlink.BpfFilter{FilterAttrs: netlink.FilterAttrs{
		LinkIndex: ifindex, Parent: netlink.HANDLE_MIN_INGRESS, Handle: filterHandle,
		Protocol: unix.ETH_P_ALL, Priority: filterPriority,
	}}
}
