package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// kernel is one that kernel.sh fetched.
type kernel struct {
	folder  string // what its package holds
	image   string // what boots
	modules string // absolute
}

// findKernel has kernel.sh fetch the kernel if it is not here yet.
func findKernel(ctx context.Context, name string) (kernel, error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return kernel{}, err
	}
	fetch := exec.CommandContext(ctx, filepath.Join(root, "test/vm/kernel.sh"), name)
	fetch.Stdout, fetch.Stderr = os.Stderr, os.Stderr
	if err := fetch.Run(); err != nil {
		return kernel{}, fmt.Errorf("%s: %w", fetch, err)
	}
	k := kernel{folder: filepath.Join(root, "build/vm", name)}
	k.image = filepath.Join(k.folder, "vmlinuz")
	modules, err := filepath.Glob(filepath.Join(k.folder, "lib/modules/*"))
	if err != nil || len(modules) != 1 {
		return kernel{}, fmt.Errorf("%s holds the modules of %d kernels, not of one: delete it, and kernel.sh fetches it anew", k.folder, len(modules))
	}
	k.modules = modules[0]
	return k, nil
}

// moduleRoot is the folder of this project, found from any of its own.
func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("go list -m: %w", err)
	}
	root := strings.TrimSpace(string(out))
	if root == "" {
		return "", errors.New("kernels are kept in this project's build folder: start this in the project, or below")
	}
	return root, nil
}

// withDependencies returns the files of modules in the order in which they load; what is built into the kernel has none.
func (k kernel) withDependencies(ctx context.Context, modules []string) ([]string, error) {
	var files []string
	seen := map[string]bool{}
	for _, module := range modules {
		show := exec.CommandContext(ctx, "modprobe", "-d", k.folder, "-S", filepath.Base(k.modules), "--show-depends", module)
		out, err := show.CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("%s: %w: %s", show, err, out)
		}
		for line := range strings.Lines(string(out)) {
			fields := strings.Fields(line)
			if len(fields) >= 2 && fields[0] == "insmod" && !seen[fields[1]] {
				seen[fields[1]] = true
				files = append(files, fields[1])
			}
		}
	}
	return files, nil
}

// uncompressed reads a module; newer kernels' are packed.
func uncompressed(ctx context.Context, file string) ([]byte, error) {
	if !strings.HasSuffix(file, ".xz") {
		return os.ReadFile(file)
	}
	return exec.CommandContext(ctx, "xz", "-dc", file).Output()
}
