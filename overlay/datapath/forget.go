package datapath

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Forget unpins all below dir, a bpffs, with which programs and maps end that nobody else
// has; no bpffs there is no error. It takes no rights to eBPF itself.
func Forget(dir string) error {
	var at unix.Statfs_t
	if err := unix.Statfs(dir, &at); errors.Is(err, unix.ENOENT) || err == nil && at.Type != unix.BPF_FS_MAGIC {
		return nil
	}
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || strings.HasSuffix(path, ".debug") { // the kernel's own
			return err
		}
		return os.Remove(path)
	})
}
