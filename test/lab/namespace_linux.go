package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// Goroutines that enter namespaces end with their threads, but the runtime never ends a process's first one, whose namespaces pass for
// the process's: killIn would take it for a node's. So that thread is the main goroutine's alone.
func init() { runtime.LockOSThread() }

// onOwnThread runs f on a thread that nothing else uses and that ends with f, so that f may change the thread's namespaces. Processes
// that f starts inherit them.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the runtime ends the thread with the goroutine
		done <- f()
	}()
	return <-done
}

// InNetns runs f on a thread of its own in a named network namespace; sockets that f opens, and processes that it starts, stay there.
func InNetns(name string, f func() error) error {
	return onOwnThread(func() error {
		if err := enter(filepath.Join(netnsRoot, name)); err != nil {
			return err
		}
		return f()
	})
}

// addNetns makes the named network namespace, as `ip netns add` does.
func addNetns(name string) error {
	if err := shareNetnsRoot(); err != nil {
		return err
	}
	path := filepath.Join(netnsRoot, name)
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o444)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("network namespace %s exists already and is not this lab's (ip netns del %s)", name, name)
	}
	if err != nil {
		return err
	}
	file.Close()
	err = onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		if err := speak6(); err != nil {
			return err
		}
		return unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path, "", unix.MS_BIND, "")
	})
	if err != nil {
		os.Remove(path)
		return fmt.Errorf("make network namespace %s: %w", name, err)
	}
	return nil
}

// speak6 switches IPv6 on in the thread's network namespace, where the machine has it off for its own.
func speak6() error {
	if !hasIPv6() {
		return nil
	}
	return os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("0"), 0)
}

// shareNetnsRoot makes /run/netns a shared mount, once per boot, as ip(8) does: so a namespace unmounted here goes away everywhere.
func shareNetnsRoot() error {
	if err := os.MkdirAll(netnsRoot, 0o755); err != nil {
		return err
	}
	err := unix.Mount("", netnsRoot, "", unix.MS_SHARED|unix.MS_REC, "")
	if !errors.Is(err, unix.EINVAL) { // EINVAL: not a mount point yet
		return err
	}
	if err := unix.Mount(netnsRoot, netnsRoot, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s: %w", netnsRoot, err)
	}
	return unix.Mount("", netnsRoot, "", unix.MS_SHARED|unix.MS_REC, "")
}

// delNetns is idempotent.
func delNetns(name string) error {
	path := filepath.Join(netnsRoot, name)
	err := unix.Unmount(path, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// enter moves the calling thread into the namespaces that the files stand for.
func enter(paths ...string) error {
	// A thread that shares its root directory with others may not change its mount namespace (setns(2)).
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	// All are opened before the first is entered: the mount namespace changes what the paths mean.
	fds := make([]int, 0, len(paths))
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	for _, path := range paths {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open %s: %w", path, err)
		}
		fds = append(fds, fd)
	}
	for i, fd := range fds {
		if err := unix.Setns(fd, 0); err != nil {
			return fmt.Errorf("enter %s: %w", paths[i], err)
		}
	}
	return nil
}

func unmount(path string) error { return unix.Unmount(path, unix.MNT_DETACH) }
