package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path"
	"strconv"

	"github.com/cavaliergopher/cpio"

	"github.com/meshd/meshd/test/slowness"
	"github.com/meshd/meshd/test/vm/guest"
)

// early are the modules without which the guest cannot reach this machine's files, nor be heard.
func early() []string { return []string{"virtio_pci", "virtio_console", "virtiofs", "overlay"} }

// timesLonger is what time limits are in the guest. Not the ten times that it is slower: limits leave room.
const timesLonger = 6

// writeInitramfs writes the first file system of the guest: this program as its init, what it is told to do, and the early modules with
// what they need. Everything else the guest finds in this machine's files.
func (k kernel) writeInitramfs(ctx context.Context, file string, command []string) error {
	folder, err := os.Getwd()
	if err != nil {
		return err
	}
	task := guest.Task{Modules: k.modules, Folder: folder, Command: command, Environment: append(os.Environ(), slowness.Variable+"="+strconv.Itoa(timesLonger))}
	var image archive
	for _, f := range guest.Folders() {
		image.add(f, cpio.TypeDir|0o755, nil)
	}
	modules, err := k.withDependencies(ctx, early())
	if err != nil {
		return err
	}
	for _, m := range modules {
		content, err := uncompressed(ctx, m)
		if err != nil {
			return err
		}
		name := path.Join(guest.EarlyFolder, path.Base(m))
		image.add(name, cpio.TypeReg|0o644, content)
		task.Early = append(task.Early, name)
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	image.add(guest.Init, cpio.TypeReg|0o755, self)
	told, err := json.Marshal(task)
	if err != nil {
		return err
	}
	image.add(guest.TaskFile, cpio.TypeReg|0o644, told)
	content, err := image.bytes()
	if err != nil {
		return err
	}
	return os.WriteFile(file, content, 0o600)
}

// archive is a cpio archive in memory; the first error ends it.
type archive struct {
	buffer bytes.Buffer
	writer *cpio.Writer
	err    error
}

func (a *archive) add(name string, mode cpio.FileMode, content []byte) {
	if a.writer == nil {
		a.writer = cpio.NewWriter(&a.buffer)
	}
	if a.err == nil {
		a.err = a.writer.WriteHeader(&cpio.Header{Name: name, Mode: mode, Size: int64(len(content)), Links: 1})
	}
	if a.err == nil {
		_, a.err = a.writer.Write(content)
	}
}

func (a *archive) bytes() ([]byte, error) {
	if a.err == nil {
		a.err = a.writer.Close()
	}
	return a.buffer.Bytes(), a.err
}
