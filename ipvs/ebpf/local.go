package ebpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// linksDir holds the pinned links of bpf/local.c's programs, inside the layout's directory.
const linksDir = "links"

type localAttachment struct {
	name    string
	program *ebpf.Program
	attach  ebpf.AttachType
}

func (o *objects) localAttachments() []localAttachment {
	l := &o.local
	// Answers first: a socket that is led must find the way back.
	return []localAttachment{
		{"recvmsg4", l.LocalRecvmsg4, ebpf.AttachCGroupUDP4Recvmsg},
		{"recvmsg6", l.LocalRecvmsg6, ebpf.AttachCGroupUDP6Recvmsg},
		{"getpeername4", l.LocalGetpeername4, ebpf.AttachCgroupInet4GetPeername},
		{"getpeername6", l.LocalGetpeername6, ebpf.AttachCgroupInet6GetPeername},
		{"sendmsg4", l.LocalSendmsg4, ebpf.AttachCGroupUDP4Sendmsg},
		{"sendmsg6", l.LocalSendmsg6, ebpf.AttachCGroupUDP6Sendmsg},
		{"connect4", l.LocalConnect4, ebpf.AttachCGroupInet4Connect},
		{"connect6", l.LocalConnect6, ebpf.AttachCGroupInet6Connect},
	}
}

// attachLocal puts our programs into the links that an earlier process pinned, or
// makes and pins them.
func (o *objects) attachLocal(c Config) error {
	dir := filepath.Join(layoutDir(c.PinDir), linksDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	root, closeRoot, err := cgroupRoot(c.CgroupPath)
	if err != nil {
		return err
	}
	defer closeRoot()
	for _, a := range o.localAttachments() {
		if err := a.putInto(filepath.Join(dir, a.name), root); err != nil {
			return fmt.Errorf("%s: %w", a.name, err)
		}
	}
	return nil
}

func (a localAttachment) putInto(pin, root string) error {
	l, err := link.LoadPinnedLink(pin, nil)
	if err == nil {
		err = l.Update(a.program)
		if err == nil {
			return l.Close()
		}
		// Its cgroup is gone, or somebody detached it: begin anew.
		err = errors.Join(l.Unpin(), l.Close())
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l, err = link.AttachCgroup(link.CgroupOptions{Path: root, Attach: a.attach, Program: a.program})
	if err != nil {
		return err
	}
	return errors.Join(l.Pin(pin), l.Close())
}

// cgroupRoot gives a path to the root of the cgroup2 tree. A mount that belongs to
// no directory is used unless one is named: whatever is mounted where, it is the
// root, and with cgroup v1 in use every process is in it as well.
func cgroupRoot(named string) (string, func(), error) {
	if named != "" {
		return named, func() {}, nil
	}
	fsfd, err := unix.Fsopen("cgroup2", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return "", nil, fmt.Errorf("cgroup2: %w", err)
	}
	defer unix.Close(fsfd)
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return "", nil, fmt.Errorf("cgroup2: %w", err)
	}
	mount, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return "", nil, fmt.Errorf("mount cgroup2: %w", err)
	}
	return fmt.Sprintf("/proc/self/fd/%d", mount), func() { unix.Close(mount) }, nil
}

// netnsCookie is the kernel's number of the calling thread's network namespace.
func netnsCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	return unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
}
