package overlaytest

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// OwnRun gives this process, which has a mount namespace of its own, a /run of its own, with the sockets of its WireGuard processes in dir,
// where they survive it: other nodes on this machine have such of the same names.
func OwnRun(dir string) error {
	sockets := filepath.Join(dir, "wireguard")
	if err := os.MkdirAll(sockets, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount a /run of its own: %w", err)
	}
	if err := os.Mkdir("/run/wireguard", 0o700); err != nil {
		return err
	}
	return unix.Mount(sockets, "/run/wireguard", "", unix.MS_BIND, "")
}
