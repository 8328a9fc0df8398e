package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshd/meshd/test/lab"
	"github.com/meshd/meshd/test/probe"
)

// testDirectReturn: answers of the task on node2 do not come by node1, which is sent to directly, and come by node3, which is not.
func testDirectReturn(t *testing.T, c *cluster) {
	c.refused(c.docker("node1", "service", "create", "-d", "--no-resolve-image", "--label", "mesh.ingress=straight", image), "must be mesh, prefer, local or dsr")
	c.mustDocker("node1", "service", "create", "-d", "--no-resolve-image", "--name", "straight", "--constraint", "node.hostname==node2",
		"--label", "mesh.ingress=dsr", "--publish", "8090:8080", "--publish", "9090:9000/udp", image)
	c.running("node1", "straight", 1)
	self := c.addressesOf(lab.Client)[0]
	const calls = 20
	for entry, passes := range map[string]bool{"node1": false, "node3": true} {
		c.answers(c.address(entry) + ":8090")
		before, asked := c.unpacked(entry), c.unpacked("node2")
		for range calls {
			if r := c.outside("sample", "get", "-field", "client", "http://"+c.address(entry)+":8090/"); r.out != self {
				t.Fatalf("through %s the task sees the client as %v, want %s", entry, r, self)
			}
			if r := c.outside("sample", "udp", c.address(entry)+":9090"); !strings.Contains(r.out, self) {
				t.Fatalf("UDP through %s: %v, want %s seen", entry, r, self)
			}
		}
		if n := c.unpacked("node2") - asked; n < calls {
			t.Errorf("through %s, %d packets came to the task's node: this test tells nothing", entry, n)
		}
		if n := c.unpacked(entry) - before; passes != (n >= calls) {
			t.Errorf("%d packets of answers came by %s; expected any: %v", n, entry, passes)
		}
	}
	for entry, says := range map[string]string{"node1": "answers return directly", "node3": "answers come back by"} {
		for _, tk := range c.tasks("node1", "caller") {
			if tk.Node != entry {
				continue
			}
			if r := c.meshctl(entry, "net", "trace", tk.ID, c.address(entry)+":8090"); r.code != 0 || !strings.Contains(r.out, says) {
				t.Errorf("trace on %s does not say %q: %v", entry, says, r)
			}
		}
	}
}

// straight adds a client outside that calls the service of testDirectReturn.
func (k *calls) straight(entry string) *calls {
	k.c.t.Helper()
	k.start(probe.Spec{Node: lab.Client, Sample: filepath.Join(k.c.bin, "sample"), Target: "http://" + k.c.address(entry) + ":8090/"})
	return k
}

// A task that goes finishes what it has begun, and gets nothing new.
func testDirectReturnDrains(_ *testing.T, c *cluster) {
	c.mustDocker("node1", "service", "scale", "-d", "straight=3")
	c.running("node1", "straight", 3)
	k := (&calls{c: c}).straight("node1").straight("node2")
	c.t.Cleanup(func() { k.stop() })
	k.hear(time.Second)
	began := time.Now()
	c.mustDocker("node1", "service", "scale", "-d", "straight=1")
	c.running("node1", "straight", 1)
	k.hear(time.Second)
	k.none(began)
}

// unpacked counts the packets that came to a node through the tunnel.
func (c *cluster) unpacked(node string) (packets int) {
	c.t.Helper()
	r := c.on(node, "cat", "/proc/net/dev")
	for line := range strings.Lines(r.out) {
		if name, counts, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "mesh-vx0" {
			var bytes int
			if _, err := fmt.Sscan(counts, &bytes, &packets); err == nil {
				return packets
			}
		}
	}
	c.t.Fatalf("the tunnel of %s: %v", node, r)
	return 0
}
