package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The sample writes to standard error. Lines of tasks on all nodes come through any manager, in one stream that new
// tasks join.
func testLogs(t *testing.T, c *cluster) {
	const said = "sample 1 serves on"
	web := c.tasks("node1", "web")
	c.eventually("both tasks' lines are there", func() error {
		r := c.docker("node1", "service", "logs", "--timestamps", "web")
		for _, tk := range web {
			if prefix := "." + tk.ID[:12] + "@" + tk.Node; r.code != 0 || strings.Count(r.err, prefix) != 1 || strings.Count(r.err, said) != len(web) {
				return fmt.Errorf("no line %s: %v", prefix, r)
			}
		}
		return nil
	})
	if r := c.docker("node1", "service", "logs", "--raw", web[1].ID); r.code != 0 || strings.Count(r.err, said) != 1 {
		t.Errorf("logs of one task: %v", r)
	}
	c.refused(c.docker("node1", "service", "logs", "nothing"), "no such task or service: nothing")

	out, err := os.Create(filepath.Join(t.TempDir(), "lines"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	follow := exec.Command("docker", "service", "logs", "--follow", "--tail", "0", "web")
	follow.Env = append(os.Environ(), "DOCKER_HOST=unix://"+c.socket("node1"))
	follow.Stdout, follow.Stderr = out, out
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = follow.Process.Kill()
		_ = follow.Wait()
	}()
	c.mustDocker("node1", "service", "update", "--force", "--detach=false", "-q", "web")
	c.eventually("new tasks' lines come by themselves", func() error {
		got, err := os.ReadFile(out.Name())
		if err == nil && strings.Count(string(got), said) != len(web) {
			err = fmt.Errorf("got %q", got)
		}
		return err
	})
	c.running("node1", "web", len(web))
}
