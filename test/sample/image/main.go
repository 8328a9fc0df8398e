// Command image packs a static program into an image that `docker load` takes, with neither engine nor registry: the sample image, in two
// versions that differ in $VERSION only. The same program gives the same bytes, so the image IDs are the same on every node.
//
//	image PROGRAM OUTPUT.tar
package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: image PROGRAM OUTPUT.tar")
		os.Exit(2)
	}
	if err := build(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func build(program, output string) error {
	binary, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	archive, err := pack(binary, []version{{"meshd/sample:latest", "1"}, {"meshd/sample:2", "2"}})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(output), 0o755); err != nil {
		return err
	}
	return os.WriteFile(output, archive, 0o644)
}

type version struct{ tag, name string }

// epoch stands for every time in the image, so that the same program gives the same bytes.
func epoch() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }

// pack writes a docker-archive: one layer, and a configuration and a manifest entry for each version (the format of `docker save`,
// image-spec v1.2 of moby).
func pack(binary []byte, versions []version) ([]byte, error) {
	layer, err := layer(binary)
	if err != nil {
		return nil, err
	}
	diffID := digest(layer)
	layerPath := diffID + "/layer.tar"
	entries := []entry{{name: diffID + "/", dir: true}, {name: layerPath, data: layer}}
	var manifest []manifestEntry
	for _, v := range versions {
		config, err := json.Marshal(imageConfig(v, diffID))
		if err != nil {
			return nil, err
		}
		path := digest(config) + ".json"
		entries = append(entries, entry{name: path, data: config})
		manifest = append(manifest, manifestEntry{Config: path, RepoTags: []string{v.tag}, Layers: []string{layerPath}})
	}
	raw, err := json.Marshal(manifest)
	if err != nil {
		return nil, err
	}
	return writeTar(append(entries, entry{name: "manifest.json", data: raw}))
}

type manifestEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func imageConfig(v version, diffID string) map[string]any {
	return map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"created":      epoch().Format(time.RFC3339),
		"config": map[string]any{
			"Cmd":          []string{"sample", "serve"},
			"Env":          []string{"PATH=/bin", "VERSION=" + v.name},
			"ExposedPorts": map[string]any{"8080/tcp": struct{}{}, "9000/udp": struct{}{}},
			"Labels":       map[string]string{"meshd.sample.version": v.name},
			"WorkingDir":   "/",
		},
		"rootfs":  map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + diffID}},
		"history": []map[string]any{{"created": epoch().Format(time.RFC3339), "created_by": "test/sample/image"}},
	}
}

func layer(binary []byte) ([]byte, error) {
	return writeTar([]entry{
		{name: "bin/", dir: true},
		{name: "bin/sample", data: binary, mode: 0o755},
		{name: "bin/sleep", link: "sample"},
		{name: "bin/true", link: "sample"},
		{name: "bin/false", link: "sample"},
		{name: "etc/", dir: true},
		{name: "etc/passwd", data: []byte("root:x:0:0:root:/:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n")},
		{name: "etc/group", data: []byte("root:x:0:\nnogroup:x:65534:\n")},
		{name: "tmp/", dir: true, mode: 0o1777},
	})
}

// entry is a directory, a symbolic link or a file.
type entry struct {
	name, link string
	dir        bool
	data       []byte
	mode       int64
}

func (e entry) header() *tar.Header {
	h := &tar.Header{Name: e.name, Mode: e.mode, ModTime: epoch(), Format: tar.FormatUSTAR}
	switch {
	case e.dir:
		h.Typeflag, h.Mode = tar.TypeDir, max(e.mode, 0o755)
	case e.link != "":
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, e.link, 0o777
	default:
		h.Typeflag, h.Size, h.Mode = tar.TypeReg, int64(len(e.data)), max(e.mode, 0o644)
	}
	return h
}

func writeTar(entries []entry) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	var errs []error
	for _, e := range entries {
		errs = append(errs, w.WriteHeader(e.header()))
		_, err := w.Write(e.data)
		errs = append(errs, err)
	}
	errs = append(errs, w.Close())
	return out.Bytes(), errors.Join(errs...)
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
