package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"testing"
)

func TestArchiveIsWholeAndTheSameEachTime(t *testing.T) {
	versions := []version{{"a:1", "1"}, {"a:2", "2"}}
	archive, err := pack([]byte("program"), versions)
	if err != nil {
		t.Fatal(err)
	}
	again, err := pack([]byte("program"), versions)
	if err != nil || !bytes.Equal(archive, again) {
		t.Errorf("two runs differ (%v)", err)
	}
	files := untar(t, archive)
	var manifest []manifestEntry
	if err := json.Unmarshal(files["manifest.json"], &manifest); err != nil || len(manifest) != 2 {
		t.Fatalf("manifest %s: %v", files["manifest.json"], err)
	}
	if manifest[0].Config == manifest[1].Config {
		t.Error("both versions are the same image")
	}
	for _, m := range manifest {
		var config struct {
			RootFS struct {
				DiffIDs []string `json:"diff_ids"`
			} `json:"rootfs"`
		}
		if err := json.Unmarshal(files[m.Config], &config); err != nil {
			t.Fatal(err)
		}
		layer := files[m.Layers[0]]
		if got, want := config.RootFS.DiffIDs, "sha256:"+digest(layer); len(got) != 1 || got[0] != want {
			t.Errorf("layers %v, want %s", got, want)
		}
		if got := string(untar(t, layer)["bin/sample"]); got != "program" {
			t.Errorf("the program in the layer is %q", got)
		}
	}
}

func untar(t *testing.T, archive []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	r := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = data
	}
}
