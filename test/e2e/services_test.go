package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestServices drives what services are made of: files, jobs, updates.
func TestServices(t *testing.T) {
	requireMachine(t)
	const name = "e2e-services"
	grants(t)
	c := up(t, name, "--nodes", "2", "--managers", "1")
	c.must("meshctl", "lab", "load", "--name", name, "../../build/sample.tar")
	for _, step := range []struct {
		name string
		run  func(*testing.T, *cluster)
	}{
		{"secrets and configs", testSecretsAndConfigs},
		{"jobs", testJobs},
		{"schedule", testSchedule},
		{"updates", testUpdates},
		{"explanation", testExplain},
		{"privileges", testPrivileges},
		{"generic resources", testGenericResources},
		{"default log driver", testDefaultLogDriver},
		{"clients agree", testClientsAgree},
		{"help", testHelp},
		{"completion", testCompletion},
		{"Go client", testGoClient},
		{"Python SDK", testPython},
		{"the engine behind", testProxy},
		{"stacks", testStacks},
	} {
		t.Run(step.name, func(t *testing.T) { step.run(t, c.sub(t)) })
	}
}

// temporary writes a file for a client to read.
func temporary(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// create makes a service and returns at once.
func (c *cluster) create(service string, args ...string) {
	c.t.Helper()
	c.mustDocker("node1", append([]string{"service", "create", "-d", "-q", "--no-resolve-image", "--name", service}, args...)...)
}

func testSecretsAndConfigs(t *testing.T, c *cluster) {
	const sesame = "open-sesame"
	c.mustDocker("node1", "secret", "create", "key", temporary(t, sesame))
	c.mustDocker("node1", "config", "create", "plain", temporary(t, "a = 1"))
	c.mustDocker("node1", "config", "create", "--template-driver", "golang", "conf",
		temporary(t, `{{.Service.Name}} {{.Task.Slot}} {{env "COLOUR"}} {{secret "key"}}`))
	c.create("files", "--env", "COLOUR=red", "--secret", "key", "--secret", "source=key,target=/etc/tls/key,uid=7,gid=8,mode=0400",
		"--config", "source=conf,target=/etc/app.conf", "--constraint", "node.hostname==node2", image)
	c.running("node1", "files", 1)
	tk := c.tasks("node1", "files")[0]
	got := c.in(tk, "sample", "show", "/run/secrets/key", "/etc/tls/key", "/etc/app.conf")
	want := "0444 0:0 memory " + sesame + "\n0400 7:8 memory " + sesame + "\n0444 0:0 memory files 1 red " + sesame
	if got.out != want {
		t.Errorf("files in the task: %v\nwant %s", got, want)
	}
	if r := c.docker("node1", "secret", "inspect", "key"); strings.Contains(r.out, "Data") || r.code != 0 {
		t.Errorf("secret inspect: %v", r)
	}
	// It is in the memory of the task's node, and in the clear on no disk.
	for _, node := range []string{"node1", "node2"} {
		if r := c.on(node, "grep", "-rls", sesame, filepath.Join("/var/lib/meshd-lab", c.name, node)); r.code == 0 {
			t.Errorf("the secret is on the disk of %s: %v", node, r)
		}
	}
	if r := c.on("node1", "grep", "-rqs", sesame, "/run/meshd/tasks"); r.code == 0 {
		t.Errorf("the secret is on a node without a task that uses it: %v", r)
	}
	c.refused(c.docker("node1", "secret", "rm", "key"), "secret 'key' is in use by the following service: files")
	c.refused(c.docker("node1", "config", "rm", "conf"), "config 'conf' is in use by the following service: files")

	c.mustDocker("node1", "service", "update", "-d", "--secret-rm", "key", "--config-rm", "conf", "--config-add", "plain", "files")
	c.eventually("the new task has the new config only", func() error {
		tasks := c.tasks("node1", "files")
		if len(tasks) != 1 || tasks[0].ID == tk.ID {
			return fmt.Errorf("tasks %v", tasks)
		}
		if r := c.in(tasks[0], "sample", "show", "/plain"); r.out != "0444 0:0 memory a = 1" {
			return fmt.Errorf("%v", r)
		}
		if r := c.in(tasks[0], "sample", "show", "/run/secrets/key"); r.code == 0 {
			return fmt.Errorf("the secret is there still: %v", r)
		}
		return nil
	})
	// Nothing of a secret stays on the node when the task that used it has ended.
	if r := c.on("node2", "grep", "-rqs", sesame, "/run/meshd", filepath.Join("/var/lib/meshd-lab", c.name, "node2", "meshd")); r.code == 0 {
		t.Errorf("the secret is still on the worker: %v", r)
	}
	c.mustDocker("node1", "secret", "rm", "key")
	c.mustDocker("node1", "service", "rm", "files")
}

// ls is a service's row of "service ls".
func (c *cluster) ls(service string) string {
	c.t.Helper()
	return c.mustDocker("node1", "service", "ls", "--filter", "name="+service, "--format", "{{.Mode}} {{.Replicas}}")
}

// creating a job waits for its end; so does running it again.
func testJobs(t *testing.T, c *cluster) {
	r := c.docker("node1", "service", "create", "--no-resolve-image", "--name", "job", "--mode", "replicated-job",
		"--replicas", "3", "--max-concurrent", "2", image, "sleep", "0.2")
	if r.code != 0 || !strings.Contains(r.out, "job complete") {
		t.Errorf("service create: %v", r)
	}
	if got := c.ls("job"); got != "replicated job 0/0 (3/3 completed)" {
		t.Errorf("service ls: %q", got)
	}
	if r := c.docker("node1", "service", "update", "--force", "job"); r.code != 0 || !strings.Contains(r.out, "job complete") {
		t.Errorf("service update --force: %v", r)
	}
	if got := c.mustDocker("node1", "service", "inspect", "--format", "{{.JobStatus.JobIteration.Index}}", "job"); got != "1" {
		t.Errorf("after another run the iteration is %s", got)
	}
	if n := strings.Count(c.mustDocker("node1", "service", "ps", "--format", "{{.CurrentState}}", "job"), "Complete"); n != 6 {
		t.Errorf("%d tasks completed in two runs, want 6", n)
	}
	c.mustDocker("node1", "service", "rm", "job")

	if r := c.docker("node1", "service", "create", "--no-resolve-image", "--name", "each", "--mode", "global-job", image, "true"); r.code != 0 {
		t.Errorf("a global job: %v", r)
	}
	if got := c.ls("each"); got != "global job 0/0 (2/2 completed)" {
		t.Errorf("service ls: %q", got)
	}
	c.mustDocker("node1", "service", "rm", "each")

	c.create("fails", "--mode", "replicated-job", "--restart-condition", "none", image, "sample", "exit", "3")
	c.eventually("a job that fails says so, and is not tried again", func() error {
		got := c.mustDocker("node1", "service", "ps", "--no-trunc", "--format", "{{.CurrentState}} {{.Error}}", "fails")
		if !strings.Contains(got, "Failed") || !strings.Contains(got, "task: non-zero exit (3)") || strings.Contains(got, "\n") {
			return fmt.Errorf("%s", got)
		}
		return nil
	})
	if got := c.ls("fails"); got != "replicated job 0/1 (0/1 completed)" {
		t.Errorf("service ls: %q", got)
	}
	c.mustDocker("node1", "service", "rm", "fails")
}

func testSchedule(t *testing.T, c *cluster) {
	job := []string{"service", "create", "-d", "--no-resolve-image", "--mode", "replicated-job", "--label"}
	c.refused(c.docker("node1", append(job, "mesh.schedule=0 5 * *", image)...), "expected exactly 5 fields")
	c.refused(c.docker("node1", "service", "create", "-d", "--label", "mesh.schedule=0 5 * * *", image), "is for jobs")
	c.mustDocker("node1", append(job, "mesh.schedule=@every 1s", "--label", "mesh.schedule.history=1", "--name", "ticks", image, "true")...)
	c.mustDocker("node1", append(job, "mesh.schedule=CRON_TZ=Europe/Berlin 0 5 29 2 *", "--name", "rarely", image, "true")...)
	c.eventually("it ran again and again, and forgot the first runs", func() error {
		runs := c.mustDocker("node1", "service", "inspect", "--format", "{{.JobStatus.JobIteration.Index}}", "ticks")
		states := c.mustDocker("node1", "service", "ps", "--format", "{{.CurrentState}}", "ticks")
		if n := strings.Count(states, "Complete"); len(runs) == 1 && runs < "4" || n < 1 || n > 3 {
			return fmt.Errorf("run %s, %d kept", runs, n)
		}
		return nil
	})
	c.mustDocker("node1", "service", "rm", "ticks")
	c.mustDocker("node1", append(job, "mesh.schedule=@every 1s", "--name", "busy", image, "sleep")...)
	c.eventually("the times that are left out while it works are counted", func() error {
		if r := c.meshctl("node1", "service", "inspect", "busy"); !strings.Contains(r.out, `"Skipped": `) {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
	c.mustDocker("node1", "service", "rm", "busy")
	if got := c.mustDocker("node1", "service", "ps", "-q", "rarely"); got != "" {
		t.Errorf("a job ran before its time: %s", got)
	}
	if r := c.docker("node1", "service", "update", "--force", "rarely"); r.code != 0 || !strings.Contains(r.out, "job complete") {
		t.Errorf("a run by hand: %v", r)
	}
	c.mustDocker("node1", "service", "rm", "rarely")
}

// updates end as the official client shows them: in words, and in its exit code.
func testUpdates(t *testing.T, c *cluster) {
	update := func(args ...string) result {
		t.Helper()
		return c.docker("node1", append(append([]string{"service", "update"}, args...), "web")...)
	}
	status := func() string {
		t.Helper()
		return c.mustDocker("node1", "service", "inspect", "--format", "{{.UpdateStatus.State}}: {{.UpdateStatus.Message}}", "web")
	}
	c.create("web", "--replicas", "2", "--update-monitor", "1s", "--rollback-monitor", "1s", "--restart-delay", "200ms",
		"--stop-grace-period", "1s", image)
	c.running("node1", "web", 2)

	const delay = 2 * time.Second
	r := update("--env-add", "A=1", "--update-failure-action", "rollback", "--update-delay", delay.String())
	if r.code != 0 || !strings.Contains(r.out, "converged") {
		t.Errorf("an update: %v", r)
	}
	var began []time.Time
	for _, tk := range c.tasks("node1", "web") {
		at, err := strconv.ParseInt(c.mustDocker("node1", "inspect", "--type", "task", "--format", "{{.CreatedAt.UnixMilli}}", tk.ID), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		began = append(began, time.UnixMilli(at))
	}
	if len(began) != 2 || began[0].Sub(began[1]).Abs() < delay {
		t.Errorf("the tasks of an update with a delay of %v were made at %v", delay, began)
	}
	update("-d", "--update-delay", "0s")
	r = update("--args", "sample exit 3")
	if !strings.Contains(r.out, "update rolled back due to failure or early termination of task") {
		t.Errorf("an update that is rolled back: %v", r)
	}
	rolledBack := func() {
		t.Helper()
		c.eventually("the rollback is over", func() error {
			if s := status(); s != "rollback_completed: rollback completed" {
				return fmt.Errorf("%s", s)
			}
			return nil
		})
		c.running("node1", "web", 2)
	}
	rolledBack()
	if env := c.mustDocker("node1", "service", "inspect", "--format", "{{.Spec.TaskTemplate.ContainerSpec.Env}}", "web"); env != "[A=1]" {
		t.Errorf("after the rollback the environment is %s", env)
	}

	r = update("--update-failure-action", "pause", "--args", "sample exit 3")
	if r.code != 1 || !strings.Contains(r.err, "service update paused: update paused due to failure or early termination of task") {
		t.Errorf("an update that pauses: %v", r)
	}
	r = c.docker("node1", "service", "rollback", "web")
	if r.code != 0 || !strings.Contains(r.out, "converged") {
		t.Errorf("a rollback by hand: %v", r)
	}
	rolledBack()

	// The task of slot 2 cannot start: half of all.
	half := func(action, ratio string) {
		t.Helper()
		if r := update("-d", "--mount-add", "type=bind,source=/run/e2e-slot-{{.Task.Slot}},target=/slot", "--update-failure-action", action, "--update-max-failure-ratio", ratio); r.code != 0 {
			t.Fatalf("update: %v", r)
		}
	}
	ends := func(want string) {
		t.Helper()
		c.eventually("the update ends as "+want, func() error {
			if s := status(); !strings.HasPrefix(s, want) {
				return fmt.Errorf("%s", s)
			}
			return nil
		})
		c.mustDocker("node1", "service", "rollback", "-d", "web")
		rolledBack()
	}
	for _, node := range []string{"node1", "node2"} {
		c.on(node, "mkdir", "-p", "/run/e2e-slot-1")
	}
	half("pause", "0.4")
	ends("paused: update paused due to failure")
	half("continue", "0")
	ends("completed: update completed")

	// A port of the node cannot be held twice.
	r = update("--replicas", "1", "--update-order", "start-first", "--publish-add", "mode=host,published=18088,target=8080")
	if r.code != 0 || !strings.Contains(r.out+r.err, "stop the old task first, because it publishes a port in mode host") {
		t.Errorf("an update start-first with a port in mode host: %v", r)
	}
	c.running("node1", "web", 1)
	c.mustDocker("node1", "service", "rm", "web")
}

func testExplain(t *testing.T, c *cluster) {
	c.create("nowhere", "--constraint", "node.labels.zone==moon", image)
	id := c.waits("nowhere", "no suitable node (scheduling constraints not satisfied on 2 nodes)")
	for _, node := range []string{"node1", "node2"} {
		c.explains(id, node, " no              constraint node.labels.zone==moon does not hold")
	}
	c.refused(c.meshctl("node1", "task", "explain", "nope"), "task nope not found")
	c.refused(c.meshctl("node2", "task", "explain", id), "This node is not a swarm manager")
	c.mustDocker("node1", "service", "rm", "nowhere")
}
