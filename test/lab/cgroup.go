package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// removeCgroups removes the tree of that name from every hierarchy. Their processes have ended; the kernel may need a moment to notice.
func removeCgroups(ctx context.Context, name string) error {
	roots, err := cgroupRoots()
	if err != nil {
		return err
	}
	return poll(ctx, func() error {
		var errs []error
		for _, root := range roots {
			if err := removeTree(filepath.Join(root, name)); err != nil {
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	})
}

// removeTree removes directories bottom-up; the files in a cgroup vanish with it.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove cgroup %s: %w", dir, err)
	}
	return nil
}

func cgroupRoots() ([]string, error) {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var roots []string
	for _, m := range parseMountinfo(string(raw)) {
		if m.fsType == "cgroup" || m.fsType == "cgroup2" {
			roots = append(roots, m.target)
		}
	}
	return roots, nil
}

type mount struct{ target, fsType string }

// parseMountinfo reads proc_pid_mountinfo(5): field 5 is the mount point, the type follows the separator "-".
func parseMountinfo(text string) []mount {
	var mounts []mount
	for line := range strings.Lines(text) {
		before, after, ok := strings.Cut(line, " - ")
		fields, types := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(types) == 0 {
			continue
		}
		unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
		mounts = append(mounts, mount{target: unescape.Replace(fields[4]), fsType: types[0]})
	}
	return mounts
}
