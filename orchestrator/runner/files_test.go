package runner

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"
	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/orchestrator/agent"
)

// give adds a secret or a config to a task; with text after "tmpl:" it is a template.
func give(t *agent.Task, k key, text string) {
	id, name := fmt.Sprintf("id-%v", k), "n-"+k.target
	var driver *swarm.Driver
	text, found := strings.CutPrefix(text, "tmpl:")
	if found {
		driver = &swarm.Driver{Name: "golang"}
	}
	spec := t.Task.Spec.ContainerSpec
	if k.secret {
		s := swarm.Secret{ID: id}
		s.Spec.Data, s.Spec.Templating = []byte(text), driver
		t.Secrets = append(t.Secrets, s)
		spec.Secrets = append(spec.Secrets, &swarm.SecretReference{SecretID: id, SecretName: name,
			File: &swarm.SecretReferenceFileTarget{Name: k.target, UID: "7", GID: "8", Mode: 0o440}})
		return
	}
	c := swarm.Config{ID: id}
	c.Spec.Data, c.Spec.Templating = []byte(text), driver
	t.Configs = append(t.Configs, c)
	spec.Configs = append(spec.Configs, &swarm.ConfigReference{ConfigID: id, ConfigName: name,
		File: &swarm.ConfigReferenceFileTarget{Name: k.target, Mode: 0o444}})
}

func TestFilesOfATask(t *testing.T) {
	task := testTask("t1")
	task.Task.Spec.ContainerSpec.Env = []string{"WHO={{.Service.Name}}"}
	give(&task, secretKey("key"), "sesame")
	give(&task, secretKey("/etc/tls/key"), "absolute")
	give(&task, secretKey("both"), `tmpl:{{secret "key"}}@{{.Node.Hostname}}/{{.Task.Slot}}`)
	give(&task, configKey("app.conf"), `tmpl:{{.Service.Name}} {{config "raw"}} {{env "WHO"}} {{secret "key" | upper}}`)
	give(&task, configKey("raw"), `{{secret "key"}}`)
	files, err := filesOf(task)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"/run/secrets/key 7:8 440 sesame", "/etc/tls/key 7:8 440 absolute", "/run/secrets/both 7:8 440 sesame@host7/1",
		`/app.conf 0:0 444 web {{secret "key"}} web SESAME`, `/raw 0:0 444 {{secret "key"}}`,
	}
	for i, f := range files {
		if got := fmt.Sprintf("%s %d:%d %o %s", f.target, f.uid, f.gid, f.mode, f.data); got != want[i] {
			t.Errorf("got %s\nwant %s", got, want[i])
		}
	}
	if len(files) != len(want) {
		t.Errorf("%d files, want %d", len(files), len(want))
	}
}

func TestFilesThatCannotBe(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*agent.Task)
		want   string
	}{
		"syntax":   {func(t *agent.Task) { give(t, secretKey("a"), "tmpl:sesame\n{{sesame") }, "secret n-a: its template cannot be read, line 2"},
		"function": {func(t *agent.Task) { give(t, secretKey("a"), "tmpl:{{sesame}}") }, "cannot be read, line 1"},
		"field":    {func(t *agent.Task) { give(t, secretKey("a"), "tmpl:\n\n{{.Sesame}}") }, "fails in line 3"},
		"missing":  {func(t *agent.Task) { give(t, configKey("a"), `tmpl:{{secret "b"}}`) }, `the task has no secret with the target "b"`},
		"variable": {func(t *agent.Task) { give(t, configKey("a"), `tmpl:{{env "B"}}`) }, `no environment variable "B"`},
		"endless": {func(t *agent.Task) {
			give(t, configKey("big"), strings.Repeat("x", 900<<10))
			give(t, configKey("a"), `tmpl:{{config "big"}}{{config "big"}}{{config "big"}}`)
		}, "more than"},
		"removed": {func(t *agent.Task) { give(t, secretKey("a"), "x"); t.Secrets = nil }, "secret n-a does not exist any more"},
		"owner": {func(t *agent.Task) {
			give(t, secretKey("a"), "x")
			t.Task.Spec.ContainerSpec.Secrets[0].File.UID = "bob"
		}, `owner "bob" is not a number`},
		"runtime": {func(t *agent.Task) {
			give(t, configKey("a"), "x")
			t.Task.Spec.ContainerSpec.Configs[0].File = nil
		}, "not supported"},
	} {
		task := testTask("t1")
		tt.change(&task)
		_, err := filesOf(task)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(strings.ToLower(err.Error()), "sesame") {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
		if errdefs.IsUnavailable(err) {
			t.Errorf("%s would be tried again", name)
		}
	}
}

func TestASecretYetToComeIsWaitedFor(t *testing.T) {
	task := testTask("t1")
	give(&task, secretKey("a"), "x")
	task.Secrets[0].Spec.Data = nil
	if _, err := filesOf(task); !errdefs.IsUnavailable(err) {
		t.Errorf("%v", err)
	}
}

func TestFilesStayInTheirFolder(t *testing.T) {
	dir := t.TempDir()
	r := &Runner{cfg: Config{TaskDir: filepath.Join(dir, "a", "tasks"), MemoryDir: filepath.Join(dir, "a", "memory")}}
	victim := filepath.Join(dir, "a", "precious")
	if err := os.MkdirAll(victim, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"", ".", "..", "../precious", "/etc", "a/b"} {
		if err := r.forgetFiles(id); err != nil {
			t.Errorf("%q: %v", id, err)
		}
		if _, err := r.place(id, []file{{}}); err == nil {
			t.Errorf("%q: files were placed", id)
		}
	}
	if _, err := os.Stat(victim); err != nil {
		t.Error(err)
	}
}

// testFiles: secrets and configs arrive, in memory, and go with the process.
func (f *fixture) testFiles(t *testing.T) {
	dir := filepath.Join(f.cfg.MemoryDir, "files1")
	task := testTask("files1", "read", "/run/secrets/key", fmt.Sprintf("440 7:8 %x sesame@web", unix.TMPFS_MAGIC))
	task.Task.Spec.ContainerSpec.ReadOnly = true
	give(&task, secretKey("key"), "tmpl:sesame@{{.Service.Name}}")
	id := f.prepare(t, task)
	if _, err := os.Stat(filepath.Join(dir, "0")); err != nil {
		t.Error(err)
	}
	if _, err := f.Start(f.ctx, id); err != nil {
		t.Fatal(err)
	}
	if e, err := f.Wait(f.ctx, id); err != nil || e.Code != 0 {
		t.Errorf("%+v %v", e, err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("after its end the files are still there: %v", err)
	}
	task = testTask("files2", "read", "/etc/app/x.conf", fmt.Sprintf("444 0:0 %x text", unix.TMPFS_MAGIC))
	give(&task, configKey("/etc/app/x.conf"), "text")
	id = f.prepare(t, task)
	if _, err := f.Start(f.ctx, id); err != nil {
		t.Fatal(err)
	}
	if e, err := f.Wait(f.ctx, id); err != nil || e.Code != 0 {
		t.Errorf("%+v %v", e, err)
	}
	// A task that was made ready and is not wanted any more.
	task = testTask("files3", "serve")
	give(&task, secretKey("key"), "sesame")
	id = f.prepare(t, task)
	if err := f.Stop(f.ctx, id); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(f.cfg.MemoryDir, "files3")); !os.IsNotExist(err) {
		t.Errorf("of a task that never ran: %v", err)
	}
	// What an earlier run left.
	if err := os.MkdirAll(filepath.Join(f.cfg.MemoryDir, "nobodys"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := f.List(f.ctx); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(f.cfg.MemoryDir); err != nil || len(left) != 0 {
		t.Errorf("left over: %v %v", left, err)
	}
}
