package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// piped runs the official client with something to read.
func (c *cluster) piped(input string, args ...string) result {
	c.t.Helper()
	file := temporary(c.t, input)
	return c.runEnv("docker", []string{"DOCKER_HOST=unix://" + c.socket("node2")}, append([]string{"sh", "-c", `exec docker "$@" <` + file, "sh"}, args...)...)
}

// happened waits until the engine's events tell of a container that all this has happened; clients cut seconds off.
func (c *cluster) happened(container string, actions ...string) {
	c.t.Helper()
	c.eventually("all is told of "+container, func() error {
		got := strings.Split(c.mustDocker("node2", "events", "--since", "5m", "--until", "0s", "--filter", "container="+container, "--format", "{{.Action}}"), "\n")
		for _, want := range actions {
			if !slices.Contains(got, want) {
				return fmt.Errorf("no event %q among %q", want, got)
			}
		}
		return nil
	})
}

// testProxy has the official client use the engine behind a worker's socket: uploads, streams, upgraded connections, long polls.
func testProxy(t *testing.T, c *cluster) {
	// An upload, and a stream back.
	dir := t.TempDir()
	for name, text := range map[string]string{"Dockerfile": "FROM " + image + "\nCOPY built /built\n", "built": strings.Repeat("x", 3<<20)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("DOCKER_BUILDKIT", "0")
	c.mustDocker("node2", "build", "-q", "-t", "built:1", dir)
	saved := filepath.Join(dir, "saved.tar")
	c.mustDocker("node2", "save", "-o", saved, "built:1")
	c.mustDocker("node2", "rmi", "built:1")
	c.mustDocker("node2", "load", "-q", "-i", saved)

	// A log that is followed, and a wait for the end, until it is killed.
	c.mustDocker("node2", "run", "-d", "--name", "proxied", "built:1")
	follow := exec.Command("docker", "logs", "-f", "proxied")
	wait := exec.Command("docker", "wait", "proxied")
	output := make(chan string, 2)
	for _, cmd := range []*exec.Cmd{follow, wait} {
		cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+c.socket("node2"))
		go func() {
			out, err := cmd.CombinedOutput()
			if err != nil {
				out = append(out, err.Error()...)
			}
			output <- string(out)
		}()
	}

	// Copies in and out.
	c.mustDocker("node2", "cp", temporary(t, "copied"), "proxied:/copied")
	back := filepath.Join(dir, "back")
	c.mustDocker("node2", "cp", "proxied:/built", back)
	if info, err := os.Stat(back); err != nil || info.Size() != 3<<20 {
		t.Errorf("copied out: %v, %v", info, err)
	}

	// Upgraded connections: input whose end the command sees, a terminal, output of both kinds, exit statuses.
	if r := c.piped("typed in", "exec", "-i", "proxied", "sample", "show", "/dev/stdin"); r.code != 0 || !strings.HasSuffix(r.out, "typed in") {
		t.Errorf("exec -i: %v", r)
	}
	if r := c.piped("typed in", "run", "--rm", "-i", image, "sample", "show", "/dev/stdin"); r.code != 0 || !strings.HasSuffix(r.out, "typed in") {
		t.Errorf("run -i: %v", r)
	}
	tty := c.runEnv("docker", []string{"DOCKER_HOST=unix://" + c.socket("node2")}, "script", "-qec", "docker exec -it proxied sample show /copied", "/dev/null")
	if tty.code != 0 || !strings.Contains(tty.out, "disk copied") {
		t.Errorf("exec -it: %v", tty)
	}
	if r := c.docker("node2", "exec", "proxied", "sample", "exit", "42"); r.code != 42 {
		t.Errorf("exit status: %v", r)
	}
	if r := c.docker("node2", "exec", "proxied", "sample", "nonsense"); r.code != 1 || r.out != "" || !strings.Contains(r.err, "unknown command") {
		t.Errorf("what a command says of errors: %v", r)
	}
	if r := c.docker("node2", "run", "--name", "attached", "-d", image, "sleep", "60"); r.code != 0 {
		t.Errorf("run: %v", r)
	}
	attach := exec.Command("docker", "attach", "--sig-proxy=false", "attached")
	attach.Env = append(os.Environ(), "DOCKER_HOST=unix://"+c.socket("node2"))
	if err := attach.Start(); err != nil {
		t.Fatal(err)
	}
	c.happened("attached", "attach")
	c.mustDocker("node2", "kill", "attached", "proxied")
	if err := attach.Wait(); err == nil || !strings.Contains(err.Error(), "exit status 137") {
		t.Errorf("attached to what is killed: %v", err)
	}
	for range 2 {
		if out := <-output; !strings.Contains(out, "serves on") && strings.TrimSpace(out) != "137" {
			t.Errorf("logs -f or wait: %q", out)
		}
	}
	c.happened("proxied", "exec_create: sample exit 42", "kill", "die")
	c.mustDocker("node2", "rm", "-f", "attached", "proxied")
	c.mustDocker("node2", "rmi", "built:1")
	if r := c.docker("node2", "system", "df", "--format", "{{.Type}} {{.Active}}"); r.code != 0 || !strings.Contains(r.out, "Local Volumes 0") {
		t.Errorf("system df: %v", r)
	}
}
