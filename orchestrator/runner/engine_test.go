package runner

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/client"
)

// testImage is of a registry that refuses at once: nobody shall ask the world for it.
const testImage = "127.0.0.1:1/task:1"

// testEngine is a real Docker Engine of the test's own, without networking.
type testEngine struct {
	dir    string
	cgroup string
	cmd    *exec.Cmd
	log    *os.File
	api    *client.Client
}

func (e *testEngine) host() string { return "unix://" + filepath.Join(e.dir, "d.sock") }

// newEngine starts an engine that has the test image.
func newEngine(t *testing.T) *testEngine {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: an engine of its own needs root")
	}
	if _, err := exec.LookPath("dockerd"); err != nil {
		t.Skip("SKIPPED: no dockerd on this machine")
	}
	dir, err := os.MkdirTemp("", "runner") // sockets need a short path
	if err != nil {
		t.Fatal(err)
	}
	e := &testEngine{dir: dir, cgroup: fmt.Sprintf("/runner-test-%d", os.Getpid())}
	if e.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.remove(t) })
	if e.api, err = client.New(client.WithHost(e.host()), client.WithAPIVersionNegotiation()); err != nil {
		t.Fatal(err)
	}
	e.start(t)
	e.importImage(t)
	return e
}

func (e *testEngine) start(t *testing.T) {
	t.Helper()
	d := func(name string) string { return filepath.Join(e.dir, name) }
	e.cmd = exec.Command("dockerd", "--data-root", d("data"), "--exec-root", d("exec"), "--pidfile", d("pid"),
		"-H", e.host(), "--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false",
		"--userland-proxy=false", "--live-restore", "--cgroup-parent="+e.cgroup)
	e.cmd.Stdout, e.cmd.Stderr = e.log, e.log
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := e.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "the engine answers", func() bool {
		_, err := e.api.Ping(context.Background(), client.PingOptions{})
		return err == nil
	})
}

// stop ends the engine; with live-restore its containers go on.
func (e *testEngine) stop(t *testing.T) {
	t.Helper()
	if err := e.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = e.cmd.Wait()
}

func (e *testEngine) remove(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	if list, err := e.api.ContainerList(ctx, client.ContainerListOptions{All: true}); err == nil {
		for _, c := range list.Items {
			_, _ = e.api.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		}
	}
	_ = e.api.Close()
	e.stop(t)
	if t.Failed() {
		if log, err := os.ReadFile(e.log.Name()); err == nil {
			t.Logf("engine:\n%s", log[max(0, len(log)-4000):])
		}
	}
	_ = e.log.Close()
	for _, m := range mountsBelow(e.dir) {
		_ = syscall.Unmount(m, syscall.MNT_DETACH)
	}
	if err := os.RemoveAll(e.dir); err != nil {
		t.Error(err)
	}
	e.removeCgroups(t)
}

func mountsBelow(dir string) []string {
	data, _ := os.ReadFile("/proc/self/mountinfo")
	var out []string
	for l := range strings.Lines(string(data)) {
		if f := strings.Fields(l); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			out = append([]string{f[4]}, out...) // inner ones first
		}
	}
	return out
}

func (e *testEngine) removeCgroups(t *testing.T) {
	for _, pattern := range []string{"/sys/fs/cgroup" + e.cgroup, "/sys/fs/cgroup/*" + e.cgroup} {
		roots, _ := filepath.Glob(pattern)
		for _, root := range roots {
			eventually(t, time.Minute, "cgroup "+root+" goes", func() bool {
				var dirs []string
				_ = filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
					if err == nil && d.IsDir() {
						dirs = append([]string{p}, dirs...)
					}
					return nil
				})
				for _, d := range dirs {
					_ = syscall.Rmdir(d)
				}
				_, err := os.Stat(root)
				return os.IsNotExist(err)
			})
		}
	}
}

func (e *testEngine) importImage(t *testing.T) {
	t.Helper()
	bin := filepath.Join(e.dir, "task")
	build := exec.Command("go", "build", "-o", bin, "./testdata/task")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	data, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, dir := range []string{"etc/", "tmp/", "data/"} {
		if err := w.WriteHeader(&tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: 0o755}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.WriteHeader(&tar.Header{Name: "task", Mode: 0o755, Size: int64(len(data))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	res, err := e.api.ImageImport(context.Background(), client.ImageImportSource{Source: &b, SourceName: "-"}, testImage,
		client.ImageImportOptions{Changes: []string{`ENTRYPOINT ["/task"]`, `CMD ["serve"]`}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, res); err != nil {
		t.Fatal(err)
	}
	_ = res.Close()
}

// eventually polls until ok, or fails the test.
func eventually(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
