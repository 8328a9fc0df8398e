package runner

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/mount"

	"github.com/meshd/meshd/orchestrator/agent"
)

// Where the targets of secrets and configs start unless they are absolute.
const (
	secretsDir = "/run/secrets"
	configsDir = "/"
)

// file is a secret or a config as a task's container sees it.
type file struct {
	target   string
	data     []byte
	uid, gid int
	mode     fs.FileMode
}

// filesOf works out the files that a task's secrets and configs give. The class
// errdefs.ErrUnavailable means that a secret is yet to come: it is not kept on
// disk, so a restarted agent has to hear of it again.
func filesOf(t agent.Task) ([]file, error) {
	spec := t.Task.Spec.ContainerSpec
	if spec == nil || len(spec.Secrets)+len(spec.Configs) == 0 {
		return nil, nil
	}
	p, err := payloadsOf(t)
	if err != nil {
		return nil, err
	}
	var out []file
	for _, ref := range spec.Secrets {
		if ref.File == nil {
			return nil, fmt.Errorf("secret %s has no target", ref.SecretName)
		}
		f, err := p.file(secretKey(ref.File.Name), secretsDir)
		if err != nil {
			return nil, err
		}
		if err := f.own(ref.File.UID, ref.File.GID, ref.File.Mode); err != nil {
			return nil, fmt.Errorf("secret %s: %w", ref.SecretName, err)
		}
		out = append(out, f)
	}
	for _, ref := range spec.Configs {
		if ref.File == nil {
			return nil, fmt.Errorf("config %s: a config that is no file (Runtime) is not supported", ref.ConfigName)
		}
		f, err := p.file(configKey(ref.File.Name), configsDir)
		if err != nil {
			return nil, err
		}
		if err := f.own(ref.File.UID, ref.File.GID, ref.File.Mode); err != nil {
			return nil, fmt.Errorf("config %s: %w", ref.ConfigName, err)
		}
		out = append(out, f)
	}
	return out, nil
}

// own sets whose the file is; absent numbers mean root, as in Swarm.
func (f *file) own(uid, gid string, mode os.FileMode) error {
	for _, n := range []struct {
		text string
		to   *int
	}{{uid, &f.uid}, {gid, &f.gid}} {
		if n.text == "" {
			continue
		}
		v, err := strconv.ParseUint(n.text, 10, 31)
		if err != nil {
			return fmt.Errorf("owner %q is not a number", n.text)
		}
		*n.to = int(v)
	}
	f.mode = mode.Perm() | mode&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky)
	return nil
}

// targetPath is where a file goes in the container.
func targetPath(name, dir string) string {
	if path.IsAbs(name) {
		return path.Clean(name)
	}
	return path.Join(dir, name)
}

// addFiles makes the files of a task's secrets and configs and has them mounted.
func (r *Runner) addFiles(t agent.Task, p *plan) error {
	files, err := filesOf(t)
	if err != nil {
		return err
	}
	mounts, err := r.place(t.Task.ID, files)
	if err != nil {
		return err
	}
	host := p.Create.HostConfig
	host.Mounts = append(slices.Clone(host.Mounts), mounts...)
	return nil
}

// place writes a task's files into memory and returns the mounts that show them.
func (r *Runner) place(taskID string, files []file) ([]mount.Mount, error) {
	if len(files) == 0 {
		return nil, nil
	}
	dir, ok := r.filesDir(taskID)
	if !ok {
		return nil, fmt.Errorf("task %q: this ID cannot name a folder", taskID)
	}
	if err := r.memory(); err != nil {
		return nil, fmt.Errorf("files of secrets and configs: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("files of secrets and configs: %w", err)
	}
	var out []mount.Mount
	for i, f := range files {
		source := filepath.Join(dir, strconv.Itoa(i))
		if err := f.write(source); err != nil {
			return nil, fmt.Errorf("file for %s: %w", f.target, err)
		}
		out = append(out, mount.Mount{Type: mount.TypeBind, Source: source, Target: f.target, ReadOnly: true})
	}
	return out, nil
}

// write replaces the content in place: a container that was made before shows
// this very inode.
func (f file) write(path string) error {
	if err := os.WriteFile(path, f.data, 0o600); err != nil {
		return err
	}
	if err := os.Chown(path, f.uid, f.gid); err != nil {
		return err
	}
	return os.Chmod(path, f.mode)
}

// filesDir is the folder of a task's files; false if the ID, which may be what
// somebody wrote on a container, would lead elsewhere.
func (r *Runner) filesDir(taskID string) (string, bool) {
	if taskID == "" || taskID == "." || taskID == ".." || filepath.Base(taskID) != taskID {
		return "", false
	}
	return filepath.Join(r.cfg.MemoryDir, taskID), true
}

// forgetFiles removes what was made for one task.
func (r *Runner) forgetFiles(taskID string) error {
	dir, ok := r.filesDir(taskID)
	if !ok {
		return nil
	}
	if err := os.Remove(r.resolvPath(taskID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("files of task %s: %w", taskID, err)
	}
	return r.forgetSecrets(dir)
}

// forgetSecrets removes the files of a task that has ended: its secrets must not
// outlive it, though its container may stay.
func (r *Runner) forgetSecrets(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("files of secrets and configs: %w", err)
	}
	return nil
}

// ended cleans up behind a container that stopped.
func (r *Runner) ended(taskID string) {
	dir, ok := r.filesDir(taskID)
	if !ok {
		return
	}
	if err := r.forgetSecrets(dir); err != nil {
		r.log.Warn("secrets of an ended task stay in memory until it is removed", "task", taskID, "error", err)
	}
}

// yetToCome is the error for a secret that only its name is known of.
func yetToCome(name string) error {
	return fmt.Errorf("secret %s has not come from a manager yet: %w", name, errdefs.ErrUnavailable)
}

// sweep removes the files of tasks that have no container: an earlier run of this
// program ended in between.
func (r *Runner) sweep(tasks map[string]bool) {
	entries, err := os.ReadDir(r.cfg.MemoryDir)
	if err != nil {
		return // none were made
	}
	for _, e := range entries {
		if !tasks[e.Name()] {
			r.ended(e.Name())
		}
	}
}
