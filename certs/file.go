package certs

import (
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// writeFile replaces a file in one step and makes it last: after a crash the
// old or the new is there, whole.
func writeFile(dir, name string, data []byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := renameio.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
