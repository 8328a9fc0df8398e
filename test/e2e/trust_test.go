package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// testAutolock: a manager that starts is locked until somebody gives it the unlock
// key. Its containers go on, and so do the others.
func testAutolock(t *testing.T, c *cluster) {
	c.mustDocker("node1", "swarm", "update", "--autolock=true")
	key := c.mustDocker("node1", "swarm", "unlock-key", "-q")
	lead := c.leader("node1")
	locked := "node3"
	if lead == locked {
		locked = "node2"
	}
	c.dataKeys("in the clear", func(size int64) bool { return size > 32 })
	rotated := c.mustDocker("node1", "swarm", "unlock-key", "--rotate", "-q")
	if rotated == key || !strings.HasPrefix(rotated, "SWMKEY-1-") {
		t.Errorf("the unlock key was %s, after its rotation it is %s", key, rotated)
	}
	before := c.docker(locked, "ps", "-q").out
	c.signal(locked, "meshd", syscall.SIGKILL)
	c.must("meshctl", "lab", "start", "--name", c.name, locked)
	if state := c.mustDocker(locked, "info", "--format", "{{.Swarm.LocalNodeState}}"); state != "locked" {
		t.Errorf("the restarted manager is %s", state)
	}
	c.refused(c.docker(locked, "node", "ls"), "Swarm is encrypted and needs to be unlocked before it can be used")
	c.refused(c.docker(locked, "swarm", "leave"), "Swarm is encrypted and locked")
	if after := c.docker(locked, "ps", "-q").out; after != before {
		t.Errorf("containers changed from %q to %q by the lock", before, after)
	}
	// What the kernel holds goes on while nobody here may read the swarm's state.
	if r := c.outside("sample", "get", "-timeout", "5s", "-field", "hostname", "http://"+c.address(locked)+":8080/"); r.code != 0 {
		t.Errorf("the published port of the locked node does not answer: %v", r)
	}
	c.mustDocker(lead, "service", "update", "-d", "--label-add", "while=locked", "web")
	unlock := func(key string) result {
		return c.runEnv("unlock", []string{"DOCKER_HOST=unix://" + c.socket(locked)},
			"sh", "-c", "echo "+key+" | docker swarm unlock")
	}
	c.refused(unlock("SWMKEY-1-"+strings.Repeat("A", 43)), "invalid key provided")
	r := unlock(rotated)
	if r.code != 0 { // it ended before it had heard of the rotation
		r = unlock(key)
	}
	if r.code != 0 {
		t.Fatalf("unlock: %v", r)
	}
	c.eventually("the unlocked manager answers", func() error { return readyNodes(c, locked, 4) })
	c.mustDocker(locked, "swarm", "update", "--autolock=false")
	c.refused(c.docker(locked, "swarm", "unlock-key", "-q"), "no unlock key is set")
	c.dataKeys("locked", func(size int64) bool { return size == 32 })
	c.refused(unlock(rotated), "swarm is not locked")
}

// dataKeys waits until the data keys of all managers have the size they should have.
func (c *cluster) dataKeys(otherwise string, ok func(size int64) bool) {
	c.t.Helper()
	c.eventually("no data key is "+otherwise, func() error {
		for _, node := range []string{"node1", "node2", "node3"} {
			info, err := os.Stat(filepath.Join("/var/lib/meshd-lab", c.name, node, "meshd", "raft", "raft.key"))
			if err != nil {
				return err
			}
			if !ok(info.Size()) {
				return fmt.Errorf("that of %s has %d bytes", node, info.Size())
			}
		}
		return nil
	})
}

// testRootRotation: all nodes get certificates of another root, while requests go on.
func testRootRotation(t *testing.T, c *cluster) {
	before := c.mustDocker("node2", "swarm", "ca")
	token := c.mustDocker("node1", "swarm", "join-token", "-q", "worker")
	up := c.mustDocker("node1", "service", "ps", "-q", "--filter", "desired-state=running", "web")
	after := c.mustDocker("node1", "swarm", "ca", "--rotate", "-q")
	if after = c.mustDocker("node1", "swarm", "ca"); after == before || !strings.HasPrefix(after, "-----BEGIN CERTIFICATE") {
		t.Errorf("the root was\n%s\nafter its rotation it is\n%s", before, after)
	}
	if next := c.mustDocker("node1", "swarm", "join-token", "-q", "worker"); next == token {
		t.Error("the join token names the former root")
	}
	c.eventually("all nodes trust the new root", func() error {
		out := c.mustDocker("node2", "node", "ls", "--format", "{{.Status}} {{.TLSStatus}}")
		if strings.Count(out, "Ready Ready") != 4 {
			return fmt.Errorf("node ls:\n%s", out)
		}
		return nil
	})
	if now := c.mustDocker("node1", "service", "ps", "-q", "--filter", "desired-state=running", "web"); now != up {
		t.Errorf("tasks changed from\n%s\nto\n%s", up, now)
	}
	// Connections that are made anew hold, too: of workers, and of raft.
	for _, node := range []string{"node3", "node4"} {
		c.signal(node, "meshd", syscall.SIGKILL)
		c.must("meshctl", "lab", "start", "--name", c.name, node)
	}
	c.eventually("restarted nodes are ready", func() error { return readyNodes(c, "node3", 4) })
}
