package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// show prints of each file its mode, owner, whether it is in memory, and what is
// in it.
func show(paths []string) error {
	for _, path := range paths {
		var st unix.Stat_t
		var fs unix.Statfs_t
		if err := unix.Stat(path, &st); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if err := unix.Statfs(path, &fs); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		where := "disk"
		if fs.Type == unix.TMPFS_MAGIC || fs.Type == unix.RAMFS_MAGIC {
			where = "memory"
		}
		fmt.Printf("%04o %d:%d %s %s\n", st.Mode&0o7777, st.Uid, st.Gid, where, data)
	}
	return nil
}
