package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// ErrNoTCX means that this kernel has no tcx (Linux before 6.6).
var ErrNoTCX = errors.New("kernel has no tcx")

// Hook is a program's place on a device.
type Hook struct {
	Program Program
	Ifindex int
}

// Attach puts the program first on the device's ingress and pins the link.
func (d *Datapath) Attach(h Hook) error {
	l, err := link.AttachTCX(link.TCXOptions{
		Interface: h.Ifindex,
		Program:   d.program(h.Program),
		Attach:    ebpf.AttachTCXIngress,
		Anchor:    link.Head(),
	})
	if errors.Is(err, ebpf.ErrNotSupported) {
		return ErrNoTCX
	}
	if err != nil {
		return fmt.Errorf("attach %s to device %d: %w", h.Program, h.Ifindex, err)
	}
	defer l.Close()
	if err := os.MkdirAll(d.linkDir(), 0o700); err != nil {
		return err
	}
	if err := l.Pin(d.linkPath(h)); err != nil {
		return fmt.Errorf("pin %s on device %d: %w", h.Program, h.Ifindex, err)
	}
	return nil
}

// Detach takes the program off the device; one that is not there is no error.
func (d *Datapath) Detach(h Hook) error {
	if err := os.Remove(d.linkPath(h)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// Attached lists the hooks that hold, all with this process's programs: those
// of an earlier process are swapped in place, without a packet between, and
// links whose device is gone are forgotten.
func (d *Datapath) Attached() (map[Hook]bool, error) {
	files, err := os.ReadDir(d.linkDir())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	hooks := map[Hook]bool{}
	for _, f := range files {
		h, err := parseHook(f.Name())
		if err != nil {
			continue // not ours
		}
		alive, err := d.refresh(h)
		if err != nil {
			return nil, fmt.Errorf("%s on device %d: %w", h.Program, h.Ifindex, err)
		}
		if alive {
			hooks[h] = true
		} else if err := d.Detach(h); err != nil {
			return nil, err
		}
	}
	return hooks, nil
}

// refresh says whether the pinned link still has its device, and makes it run
// this process's program.
func (d *Datapath) refresh(h Hook) (bool, error) {
	l, err := link.LoadPinnedLink(d.linkPath(h), nil)
	if err != nil {
		return false, err
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return false, err
	}
	if tcx := info.TCX(); tcx == nil || int(tcx.Ifindex) != h.Ifindex {
		return false, nil
	}
	id, err := d.ID(h.Program)
	if err != nil {
		return false, err
	}
	if uint32(info.Program) == id {
		return true, nil
	}
	return true, l.Update(d.program(h.Program))
}

func (d *Datapath) linkDir() string { return filepath.Join(d.dir, "links") }

// linkPath holds the index, since a device's name may have dots, which bpffs
// does not take.
func (d *Datapath) linkPath(h Hook) string {
	return filepath.Join(d.linkDir(), fmt.Sprintf("%s-%d", h.Program, h.Ifindex))
}

func parseHook(name string) (Hook, error) {
	p, index, _ := strings.Cut(name, "-")
	n, err := strconv.Atoi(index)
	return Hook{Program: Program(p), Ifindex: n}, err
}
