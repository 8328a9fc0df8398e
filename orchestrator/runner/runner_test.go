package runner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"

	"github.com/meshd/meshd/orchestrator/agent"
	"github.com/meshd/meshd/orchestrator/logs"
	"github.com/meshd/meshd/orchestrator/protocol"
)

const testNode = "node0000000000000000000001"

func testTask(id string, args ...string) agent.Task {
	return agent.Task{
		Assignment: protocol.Assignment{
			ServiceName: "web",
			Task: swarm.Task{
				ID: id, ServiceID: "svc1", NodeID: testNode, Slot: 1,
				Spec: swarm.TaskSpec{
					ContainerSpec: &swarm.ContainerSpec{Image: testImage, Args: args},
					Networks:      []swarm.NetworkAttachmentConfig{{Target: "none"}},
				},
			},
		},
		Node: swarm.NodeDescription{Hostname: "host7"},
	}
}

type fixture struct {
	*Runner
	engine *testEngine
	ctx    context.Context
	halt   func() // ends the runner's Run
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	e := newEngine(t)
	r, err := New(Config{Socket: e.host(), Driver: stubName(), TaskDir: filepath.Join(e.dir, "tasks"),
		Logger: slog.New(slog.NewTextHandler(testWriter{t}, nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	done := make(chan struct{})
	t.Cleanup(cancel)
	follow, halt := context.WithCancel(ctx)
	go func() { defer close(done); _ = r.Run(follow) }()
	f := &fixture{Runner: r, engine: e, ctx: ctx, halt: func() { halt(); <-done }}
	t.Cleanup(f.halt)
	return f
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func (f *fixture) prepare(t *testing.T, task agent.Task) string {
	t.Helper()
	id, err := f.Prepare(f.ctx, task)
	if err != nil {
		t.Fatalf("prepare: %v", err)
	}
	return id
}

func (f *fixture) run(t *testing.T, task agent.Task) string {
	t.Helper()
	id := f.prepare(t, task)
	if pid, err := f.Start(f.ctx, id); err != nil || pid == 0 {
		t.Fatalf("start: pid %d, %v", pid, err)
	}
	return id
}

// TestEngine shares one engine: starting one costs more than all tests on it.
func TestEngine(t *testing.T) {
	f := newFixture(t)
	t.Run("life", f.testLife)
	t.Run("exit codes", f.testExitCodes)
	t.Run("start fails", f.testStartFails)
	t.Run("no such image", f.testNoImage)
	t.Run("health", f.testHealth)
	t.Run("take over", f.testTakeOver)
	t.Run("list", f.testList)
	t.Run("spec arrives", f.testSpec)
	t.Run("secrets and configs", f.testFiles)
	t.Run("kill grace", f.testGrace)
	t.Run("parallel", f.testParallel)
	t.Run("networks", f.testNetworks)
	t.Run("describe", f.testDescribe)
	t.Run("engine restart", f.testEngineRestart)
	f.halt() // the agent runs the runner itself
	t.Run("agent", f.testAgent)
}

func (f *fixture) testLife(t *testing.T) {
	task := testTask("life1")
	task.Task.Spec.ContainerSpec.Env = []string{"WHO={{.Task.Name}}"}
	id := f.run(t, task)
	got := make(chan agent.Exit, 1)
	go func() { e, _ := f.Wait(f.ctx, id); got <- e }()
	if err := f.Stop(f.ctx, id); err != nil {
		t.Fatal(err)
	}
	if e := <-got; e.Code != 0 || e.Err() != nil {
		t.Fatalf("exit %+v", e)
	}
	f.checkLogs(t, task.Task.ID, "env web.1.life1\n")
	for range 2 { // the second finds nothing, which is no error
		if err := f.Remove(f.ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	if e, err := f.Wait(f.ctx, id); err != nil || e.Code != exitUnknown {
		t.Fatalf("wait for a removed container: %+v %v", e, err)
	}
}

// checkLogs looks for a line on standard output, with the time when it was written.
func (f *fixture) checkLogs(t *testing.T, task, want string) {
	t.Helper()
	var got []string
	err := f.Logs(f.ctx, task, logs.Options{Stdout: true, Tail: -1}, func(l logs.Line) error {
		if age := time.Since(l.Time); age < 0 || age > time.Hour || l.Stderr {
			t.Errorf("line %+v", l)
		}
		got = append(got, string(l.Data))
		return nil
	})
	if err != nil || !slices.Contains(got, want) {
		t.Errorf("logs %q, %v; want %q", got, err, want)
	}
	err = f.Logs(f.ctx, "other", logs.Options{Stdout: true}, func(logs.Line) error { return nil })
	if !errdefs.IsNotFound(err) {
		t.Errorf("logs of a task without a container: %v", err)
	}
}

func (f *fixture) testExitCodes(t *testing.T) {
	id := f.prepare(t, testTask("exit3", "exit", "3"))
	_, err := f.Start(f.ctx, id)
	if err == nil { // it ended after the look that Start takes
		var e agent.Exit
		if e, err = f.Wait(f.ctx, id); err == nil {
			err = e.Err()
		}
	}
	if err == nil || err.Error() != "task: non-zero exit (3)" {
		t.Fatalf("got %v", err)
	}
}

func (f *fixture) testStartFails(t *testing.T) {
	task := testTask("badcmd")
	task.Task.Spec.ContainerSpec.Command = []string{"/nope"}
	id := f.prepare(t, task)
	if _, err := f.Start(f.ctx, id); err == nil || !strings.Contains(err.Error(), "/nope") || errdefs.IsUnavailable(err) {
		t.Fatalf("got %v", err)
	}
}

func (f *fixture) testNoImage(t *testing.T) {
	task := testTask("noimage")
	task.Task.Spec.ContainerSpec.Image = "127.0.0.1:1/none:1"
	_, err := f.Prepare(f.ctx, task)
	if !errors.Is(err, agent.ErrImage) || !strings.HasPrefix(err.Error(), "No such image: 127.0.0.1:1/none:1: ") || !strings.Contains(err.Error(), "connection refused") {
		t.Fatalf("got %v", err)
	}
}

func (f *fixture) testHealth(t *testing.T) {
	dir := t.TempDir()
	task := testTask("health1")
	task.Task.Spec.ContainerSpec.Mounts = []mount.Mount{{Type: mount.TypeBind, Source: dir, Target: "/data"}}
	task.Task.Spec.ContainerSpec.Healthcheck = &container.HealthConfig{
		Test: []string{"CMD", "/task", "check", "/data/ok"}, Interval: 200 * time.Millisecond, Timeout: 5 * time.Second, Retries: 2,
		StartPeriod: time.Minute,
	}
	id := f.prepare(t, task)
	started := make(chan error, 1)
	go func() { _, err := f.Start(f.ctx, id); started <- err }()
	eventually(t, 20*time.Second, "the container runs", func() bool {
		s, err := f.inspect(f.ctx, id)
		return err == nil && s.Running
	})
	select {
	case err := <-started:
		t.Fatalf("started before it is healthy: %v", err)
	default:
	}
	file := filepath.Join(dir, "ok")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := <-started; err != nil {
		t.Fatalf("start: %v", err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Wait(f.ctx, id); !errors.Is(err, agent.ErrUnhealthy) {
		t.Fatalf("wait: %v", err)
	}
	if err := f.Stop(f.ctx, id); err != nil {
		t.Fatal(err)
	}
	if e, err := f.Wait(f.ctx, id); err != nil || e.Code != 0 {
		t.Fatalf("wait after stop: %+v %v", e, err)
	}
}

func (f *fixture) testTakeOver(t *testing.T) {
	task := testTask("again1")
	first := f.prepare(t, task)
	second := f.prepare(t, task)
	if first == second {
		t.Fatal("a container that was only made must be made anew: it may be incomplete")
	}
	if _, err := f.Start(f.ctx, second); err != nil {
		t.Fatal(err)
	}
	if third := f.prepare(t, task); third != second {
		t.Fatal("a running container must be taken as it is")
	}
	// Start of a running container is how a new agent takes it up.
	if pid, err := f.Start(f.ctx, second); err != nil || pid == 0 {
		t.Fatalf("pid %d, %v", pid, err)
	}
	if err := f.Kill(f.ctx, second); err != nil {
		t.Fatal(err)
	}
	if e, err := f.Wait(f.ctx, second); err != nil || e.Err().Error() != "task: non-zero exit (137)" {
		t.Fatalf("%+v %v", e, err)
	}
}

func (f *fixture) testList(t *testing.T) {
	// A container of the engine's own swarm mode has Swarm's labels, too.
	if _, err := f.engine.api.ContainerCreate(f.ctx, client.ContainerCreateOptions{Config: &container.Config{
		Image: testImage, Labels: map[string]string{labelTaskID: "other1"}}}); err != nil {
		t.Fatal(err)
	}
	id := f.run(t, testTask("list1"))
	list, err := f.List(f.ctx)
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, c := range list {
		if c.TaskID == "other1" {
			t.Error("container of somebody else listed")
		}
		found = found || c == (agent.Container{ID: id, TaskID: "list1", State: agent.ContainerRunning})
	}
	if !found {
		t.Fatalf("not in %+v", list)
	}
}

func (f *fixture) testSpec(t *testing.T) {
	task := testTask("spec1", "serve")
	yes, grace := true, 1500*time.Millisecond
	s := task.Task.Spec.ContainerSpec
	s.Hostname, s.Labels, s.Dir, s.User, s.Groups = "{{.Node.Hostname}}-{{.Task.Slot}}", map[string]string{"a": "b"}, "/tmp", "7:8", []string{"9"}
	s.StopSignal, s.StopGracePeriod, s.ReadOnly, s.TTY, s.OpenStdin = "SIGUSR1", &grace, true, true, true
	s.Hosts = []string{"10.1.1.1 db db.local"}
	s.CapabilityAdd, s.CapabilityDrop = []string{"CAP_NET_ADMIN"}, []string{"CAP_MKNOD"}
	s.Ulimits = []*container.Ulimit{{Name: "nofile", Soft: 100, Hard: 200}}
	s.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "5"}
	s.Privileges = &swarm.Privileges{NoNewPrivileges: true, Seccomp: &swarm.SeccompOpts{Mode: swarm.SeccompModeUnconfined}}
	s.Mounts = []mount.Mount{{Type: mount.TypeVolume, Source: "vol-{{.Service.Name}}", Target: "/data"},
		{Type: mount.TypeTmpfs, Target: "/scratch", TmpfsOptions: &mount.TmpfsOptions{SizeBytes: 1 << 20}}}
	task.Task.Spec.Resources = &swarm.ResourceRequirements{
		Limits:       &swarm.Limit{NanoCPUs: 5e8, MemoryBytes: 64 << 20, Pids: 50},
		Reservations: &swarm.Resources{MemoryBytes: 32 << 20},
	}
	task.Task.Spec.LogDriver = &swarm.Driver{Name: "json-file", Options: map[string]string{"max-size": "1m"}}
	s.Init = &yes
	if _, err := os.Stat("/usr/bin/docker-init"); err != nil {
		s.Init = nil
	}
	id := f.run(t, task)
	res, err := f.engine.api.ContainerInspect(f.ctx, id, client.ContainerInspectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c, h := res.Container.Config, res.Container.HostConfig
	got := fmt.Sprintln(res.Container.Name, c.Hostname, c.WorkingDir, c.User, h.GroupAdd, c.StopSignal, *c.StopTimeout,
		h.ReadonlyRootfs, c.Tty, c.OpenStdin, h.ExtraHosts, h.CapAdd, h.CapDrop, *h.Ulimits[0], h.Sysctls, h.SecurityOpt,
		h.NanoCPUs, h.Memory, h.MemoryReservation, *h.PidsLimit, h.LogConfig, h.RestartPolicy.Name, c.Labels["a"],
		c.Labels[labelServiceName], c.Labels[labelTaskName])
	want := fmt.Sprintln("/web.1.spec1", "host7-1", "/tmp", "7:8", "[9]", "SIGUSR1", 2,
		true, true, true, "[db:10.1.1.1 db.local:10.1.1.1]", "[CAP_NET_ADMIN]", "[CAP_MKNOD]", container.Ulimit{Name: "nofile", Soft: 100, Hard: 200},
		"map[net.ipv4.ip_unprivileged_port_start:5]", "[no-new-privileges=true seccomp=unconfined]",
		int64(5e8), 64<<20, 32<<20, 50, "{json-file map[max-size:1m]}", "no", "b", "web", "web.1.spec1")
	if got != want {
		t.Fatalf("got  %s\nwant %s", got, want)
	}
	if len(res.Container.Mounts) == 0 || res.Container.Mounts[0].Name != "vol-web" && res.Container.Mounts[1].Name != "vol-web" {
		t.Fatalf("mounts %+v", res.Container.Mounts)
	}
	if err := f.Stop(f.ctx, id); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) testGrace(t *testing.T) {
	task := testTask("grace1", "stubborn")
	grace := time.Second
	task.Task.Spec.ContainerSpec.StopGracePeriod = &grace
	id := f.run(t, task)
	begin := time.Now()
	if err := f.Stop(f.ctx, id); err != nil {
		t.Fatal(err)
	}
	if e, err := f.Wait(f.ctx, id); err != nil || e.Code != 137 {
		t.Fatalf("%+v %v", e, err)
	}
	if d := time.Since(begin); d < grace || d > time.Minute {
		t.Fatalf("took %v", d)
	}
}

func (f *fixture) testParallel(t *testing.T) {
	const n = 12
	begin := time.Now()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			id, err := f.Prepare(f.ctx, testTask(fmt.Sprintf("par%d", i)))
			if err == nil {
				_, err = f.Start(f.ctx, id)
			}
			if err == nil {
				err = f.Remove(f.ctx, id)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	t.Logf("%d made, started and removed in %v", n, time.Since(begin))
}

func (f *fixture) testNetworks(t *testing.T) {
	n := protocol.Network{ID: "net1", Name: "host", VNI: 7}
	if err := f.ensureNetwork(f.ctx, n); err == nil || !strings.Contains(err.Error(), "of its own") {
		t.Fatalf("a network of the engine's own: %v", err)
	}
	d := newStubDriver(t)
	f.testAttach(t, d)
	n.Name, n.Subnets = "ov", []protocol.Subnet{{Prefix: netip.MustParsePrefix("10.1.0.0/24"), Gateway: netip.MustParseAddr("10.2.0.1")}}
	if err := f.ensureNetwork(f.ctx, n); err == nil || !strings.Contains(err.Error(), "network ov cannot be made on the engine") {
		t.Fatalf("a gateway outside of the subnet: %v", err)
	}
}

func (f *fixture) testDescribe(t *testing.T) {
	d, err := f.Describe(f.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if d.Hostname == "" || d.Platform.OS != "linux" || d.Resources.NanoCPUs == 0 || d.Engine.EngineVersion == "" || len(d.Engine.Plugins) == 0 {
		t.Fatalf("%+v", d)
	}
}

func (f *fixture) testEngineRestart(t *testing.T) {
	lives, dies := f.run(t, testTask("restart1")), f.run(t, testTask("restart2"))
	state, err := f.inspect(f.ctx, dies)
	if err != nil {
		t.Fatal(err)
	}
	type result struct {
		exit agent.Exit
		err  error
	}
	wait := func(id string) chan result {
		c := make(chan result, 1)
		go func() { e, err := f.Wait(f.ctx, id); c <- result{e, err} }()
		return c
	}
	livesDone, diesDone := wait(lives), wait(dies)
	f.engine.stop(t)
	if _, err := f.List(f.ctx); !errdefs.IsUnavailable(err) {
		t.Fatalf("engine away: %v", err)
	}
	if p, err := os.FindProcess(state.Pid); err != nil || p.Kill() != nil {
		t.Fatal("cannot kill the container's process")
	}
	f.engine.start(t)
	if got := <-diesDone; got.err != nil || got.exit.Code == 0 {
		t.Fatalf("died while the engine was away: %+v", got)
	}
	select {
	case got := <-livesDone:
		t.Fatalf("went on running, but Wait says %+v", got)
	default:
	}
	if err := f.Stop(f.ctx, lives); err != nil {
		t.Fatal(err)
	}
	if got := <-livesDone; got.err != nil || got.exit.Code != 0 {
		t.Fatalf("after the restart: %+v", got)
	}
	if err := f.RemoveAll(f.ctx); err != nil {
		t.Fatal(err)
	}
	if list, err := f.List(f.ctx); err != nil || len(list) != 0 {
		t.Fatalf("after RemoveAll: %+v %v", list, err)
	}
}
